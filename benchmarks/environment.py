"""The virtual environment of the released extension, made once and kept under .bench/.

It cannot share ours: both are tgext.asyncjob.
"""

import subprocess
import sys
import venv
from pathlib import Path

RELEASED = "tgext.asyncjob==0.3.1"
#: what it needs and does not declare; the same ranges as in setup.py
BESIDE = ["TurboGears2>=2.5.1", "SQLAlchemy>=2.0.36,<2.2", "zope.sqlalchemy>=3.1", "transaction>=3"]

FOLDER = Path(__file__).resolve().parent.parent / ".bench" / "released"


def released_python() -> str:
    """Give the Python that has the released extension; install it at the first call.

    Raises CalledProcessError when pip cannot; what it printed is on stderr.
    """
    python = FOLDER / "bin" / "python"
    made = FOLDER / ".made"
    wanted = "\n".join([sys.version, RELEASED, *BESIDE])
    if not (made.is_file() and made.read_text(encoding="utf-8") == wanted):
        print(f"installing {RELEASED} into {FOLDER.name} under .bench/, once", flush=True)
        venv.create(FOLDER, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, RELEASED, *BESIDE], check=True, stdout=sys.stderr, timeout=600)
        made.write_text(wanted, encoding="utf-8")
    return str(python)
