"""A forked program is to its test what a started one is; ``forked_python.py``."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forked_python import ForkedPython, run_forked

IMPORTS = "colorsys"

_PR_GET_CHILD_SUBREAPER = 37

LOOKS = """
import json, os, resource, signal, subprocess, sys, threading, warnings
said = input()
kept = {name: value for name, value in os.environ.items() if name != "_"}
print(json.dumps({
    "argv": sys.argv,
    "original": sys.orig_argv,
    "name": __name__,
    "file": globals().get("__file__"),
    "is main": sys.modules["__main__"].__dict__ is globals(),
    "package": [__package__, __spec__ and __spec__.name],
    "path": sys.path,
    "environment": kept,
    "by the C library": sorted(subprocess.check_output(["env"], text=True).splitlines()),
    "directory": os.getcwd(),
    "said": said,
    "writes bytecode": not sys.dont_write_bytecode,
    "streams": [[each.encoding, each.errors, each.fileno(), each.isatty(), each.line_buffering,
                 each.write_through] for each in (sys.stdin, sys.stdout, sys.stderr)],
    "same": [getattr(sys, name) is getattr(sys, f"__{name}__")
             for name in ("stdin", "stdout", "stderr")],
    "warnings": [sys.warnoptions, [str(each) for each in warnings.filters]],
    "signals": [str(signal.getsignal(each)) for each in sorted(signal.valid_signals())
                if each not in (signal.SIGKILL, signal.SIGSTOP)],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "threads": [each.name for each in threading.enumerate()],
    "is main thread": threading.current_thread() is threading.main_thread(),
    "files": sorted(os.readlink(f"/proc/self/fd/{each}").partition(":")[0]
                    for each in os.listdir("/proc/self/fd") if int(each) > 2 and
                    os.path.exists(f"/proc/self/fd/{each}")),
    "parent": os.getppid(),
    "leads its session": os.getsid(0) == os.getpid(),
    "limits": [resource.getrlimit(each) for each in range(10)],
}))
"""


def started_and_forked(
    command: list[Any], folder: Path, variables: dict[str, str], **given: Any
) -> list[Any]:
    """What the program finds when it is started, and when it is forked."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYT")}
    environment = {**plain, "PYTHONPATH": str(folder), "CITY": "Köln", **variables}
    found = []
    for start in (subprocess.Popen, lambda *a, **b: ForkedPython(*a, imports=IMPORTS, **b)):
        process = start(
            [sys.executable, *command], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **given,
        )  # fmt: skip
        stdout, stderr = process.communicate("größe\n", timeout=30)
        assert (process.returncode, stderr) == (0, "")
        found.append(json.loads(stdout))
    return found


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        ([], {}),
        (["-W", "error"], {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}),
        (["-W", "error", "-W", "ignore::Warning"], {}),
    ],
    ids=["plain", "unbuffered", "with options"],
)
@pytest.mark.parametrize(
    "program",
    [["-c", LOOKS], ["-m", "looks"], ["-m", "looking.deeply"], ["-m", "looking"], ["looks.py"]],
    ids=["code", "module", "module of a package", "package", "path"],
)
def test_forked_program_finds_what_a_started_one_finds(program, options, variables, tmp_path):
    (tmp_path / "looks.py").write_text(LOOKS)
    (tmp_path / "looking").mkdir()
    for name in ("__init__", "__main__", "deeply"):
        text = "" if name == "__init__" else LOOKS
        (tmp_path / "looking" / f"{name}.py").write_text(text)

    started, forked = started_and_forked([*options, *program, "größe", "-x"], tmp_path, variables)

    assert forked == started
    assert forked["parent"] == os.getpid()


def test_forked_program_leads_a_session_where_a_started_one_does(tmp_path):
    started, forked = started_and_forked(["-c", LOOKS], tmp_path, {}, start_new_session=True)

    assert forked == started
    assert forked["leads its session"]


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(3)",
        "import sys; sys.exit('wrong')",
        "raise SystemExit",
        "import os; os._exit(5)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "import atexit; atexit.register(print, 'at exit'); print('before')",
        "import threading; threading.Timer(0.1, print, ['later']).start(); print('before')",
        "import warnings; warnings.warn('is an error')",
        "import sys; print('no end', end=''); print('an error', end='', file=sys.stderr)",
        "kept = open('/dev/null')",
        "import os; print('lost', end=''); os.close(1)",
        "import sys; sys.exit(True)",
        "import sys; sys.exit(-1)",
    ],
)
def test_forked_program_ends_as_a_started_one_does(program):
    command = [sys.executable, "-W", "error", "-c", program]

    started = subprocess.run(command, capture_output=True, text=True, timeout=30)
    forked = run_forked(command, imports=IMPORTS, text=True)

    assert (forked.returncode, forked.stdout) == (started.returncode, started.stdout)
    # a traceback shows the fork server, too
    assert forked.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]


def test_forked_process_is_stopped_goes_on_and_is_killed_by_its_pid():
    program = "import sys\nprint('up', flush=True)\nfor line in sys.stdin: print(line, flush=True)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ForkedPython([sys.executable, "-c", program], imports=IMPORTS, **pipes) as process:
        assert process.stdout.readline() == b"up\n"

        process.send_signal(signal.SIGSTOP)
        stopped = os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        process.send_signal(signal.SIGCONT)
        process.stdin.write(b"goes on\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"goes on\n"
        assert process.stdout.readline() == b"\n"
        assert process.poll() is None
        process.kill()

        assert stopped.si_status == signal.SIGSTOP
        assert process.wait(30) == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_forked_process_hears_of_the_end_of_its_input():
    program = "import sys; print(len(sys.stdin.read()))"

    with ForkedPython(
        [sys.executable, "-c", program],
        imports=IMPORTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        stdout, _ = process.communicate(b"four", timeout=30)

    assert stdout == b"4\n"


def test_forked_processes_share_nothing():
    program = (
        "import colorsys, os, random, sys, uuid;"
        "print(hasattr(colorsys, 'was_here'), file=sys.stderr);"
        "colorsys.was_here = True; os.environ['WAS_HERE'] = '1'; sys.path.append('was here');"
        "print(random.random(), uuid.uuid4(), uuid.uuid1(), os.urandom(4).hex(), os.getpid())"
    )

    found = [
        run_forked([sys.executable, "-c", program], imports=IMPORTS, text=True) for _ in range(3)
    ]

    assert [each.stderr for each in found] == ["False\n"] * 3
    for values in zip(*(each.stdout.split() for each in found), strict=True):
        assert len(set(values)) == 3


FORKS = """
import os, sys
import fork_server
from forked_python import run_forked
server = fork_server.inherited.pid
words = [sys.executable, "-c", "import os, sys; print(os.getppid(), 'colorsys' in sys.modules)"]
done = run_forked(words, imports="colorsys", text=True)
with open(f"/proc/self/task/{os.getpid()}/children") as file:
    print(done.stdout.split() == [str(os.getpid()), "True"], file.read().split() == [str(server)])
"""


def test_forked_process_forks_others_from_what_was_imported_for_itself():
    done = run_forked(
        [sys.executable, "-c", FORKS], imports=f"{IMPORTS} json", serves=True,
        cwd=Path(__file__).parent, text=True,
    )  # fmt: skip

    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_orphans_of_others_do_not_become_children_of_the_test():
    run_forked([sys.executable, "-c", "pass"], imports=IMPORTS)

    value = ctypes.c_int(-1)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(value), 0, 0, 0)
    assert value.value == 0


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ([sys.executable, "-X", "dev", "-c", "pass"], {}),
        (["/bin/true"], {}),
        ([sys.executable, "-c", "pass"], {"umask": 0}),
        ([sys.executable, "-c", "pass"], {"preexec_fn": os.getpid}),
        ([sys.executable, "-c", "pass"], {"env": {**os.environ, "PYTHONUTF8": "1"}}),
        ([sys.executable, "-c", "pass"], {"env": {**os.environ, "LC_ALL": "C"}}),
    ],
)
def test_what_a_forked_process_cannot_follow_is_refused(command, given):
    with pytest.raises(ValueError, match=r"cannot follow|expected|at the start"):
        ForkedPython(command, imports=IMPORTS, **given)


def test_module_that_cannot_be_imported_is_an_error_of_the_test(capfd):
    with pytest.raises(RuntimeError, match="has ended"):
        ForkedPython([sys.executable, "-c", "pass"], imports="there_is_no_such_module")

    assert "there_is_no_such_module" in capfd.readouterr().err
