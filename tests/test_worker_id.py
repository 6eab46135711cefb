"""What a worker's id tells, and what the kernel says of its process."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tgext.asyncjob.backends.worker_id import is_gone, lease_of, new_worker_id


def test_process_that_lives_is_not_gone():
    assert is_gone(new_worker_id()) is False
    assert is_gone(new_worker_id(pid=1)) is False


def test_process_that_was_killed_is_gone_also_before_its_parent_asks(other_process):
    process = other_process()
    worker_id = process.worker_id()
    before = is_gone(worker_id)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    unasked = is_gone(worker_id)
    process.die()

    assert (before, unasked, is_gone(worker_id)) == (False, True, True)


def test_pid_that_another_process_has_now_is_not_the_worker():
    pid, start, *rest = new_worker_id().split("-")

    assert is_gone("-".join([pid, str(int(start) - 1), *rest])) is True


@pytest.mark.parametrize(
    "worker_id",
    ["the one", "", "1-2", pytest.param(f"{os.getpid()}-0123456789ab", id="without a kernel")],
)
def test_nothing_is_known_of_an_id_that_does_not_tell(worker_id):
    assert is_gone(worker_id) is None
    assert lease_of(worker_id) is None


def test_nothing_is_known_of_a_process_of_another_kernel_or_container(other_process):
    process = other_process()
    pid, start, kernel, random = process.worker_id().split("-")
    process.die()

    assert is_gone(f"{pid}-{start}-{kernel[::-1]}-{random}") is None


@pytest.mark.parametrize("seconds", [1, 1.5, 20.0, 0.123, 86_400])
def test_lease_is_told_to_who_has_another(seconds):
    assert lease_of(new_worker_id(seconds)) == seconds


def test_id_begins_with_the_pid_and_fits_into_its_column():
    worker_id = new_worker_id(999_999_999.125)
    pid, _start, *rest = worker_id.split("-")

    assert pid == str(os.getpid())
    # The largest pid there may be, and a machine that runs for thirty years.
    assert len("-".join(["4194304", "9" * 11, *rest])) <= 64
    assert lease_of(new_worker_id(1e12)) is None


def test_name_of_a_program_is_not_taken_for_its_state(other_process, tmp_path):
    """It stands before it, in brackets, and may have brackets and blanks in it."""
    name = tmp_path / "a) Z 1"
    shutil.copy("/bin/sleep", name)
    pid = os.posix_spawn(name, [name, "60"], {})
    try:
        until = time.monotonic() + 5
        while f"({name.name})" not in Path(f"/proc/{pid}/stat").read_text():
            assert time.monotonic() < until
        assert is_gone(new_worker_id(pid=pid)) is False
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
