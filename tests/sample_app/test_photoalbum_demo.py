"""``demo.py``, as ``make demo`` runs it: real processes, HTTP, a real worker thread."""

import subprocess
import sys

import pytest
from running_album import SAMPLE_APP

pytestmark = pytest.mark.slow


def demo(*arguments):
    return subprocess.run(
        [sys.executable, str(SAMPLE_APP / "demo.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_demo_once_develops_uploaded_pictures():
    ended = demo("--once")

    assert ended.returncode == 0, ended.stderr
    assert "100% SUCCESSFUL" in ended.stdout
    assert ended.stdout.count("480 x 360 JPEG") == 6


def test_demo_once_fail_shows_the_error_and_fails():
    ended = demo("--once=fail")

    assert ended.returncode == 1
    assert "photoalbum.jobs.DamagedPicture: “Harbour of mist.jpg” breaks off" in ended.stderr
