"""Virtual environments of what cannot share ours, made once and kept under .bench/.

The released extension, since both are tgext.asyncjob; the durable peers, whose requirements are
not ours; Looppool, which needs a Tornado of its time.
"""

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

RELEASED = "tgext.asyncjob==0.3.1"
#: what it needs and does not declare; the same ranges as in setup.py
BESIDE = ["TurboGears2>=2.5.1", "SQLAlchemy>=2.0.36,<2.2", "zope.sqlalchemy>=3.1", "transaction>=3"]

#: the queues on PostgreSQL, with what each of them is fastest with
PEERS = [
    "pgqueuer>=1.6,<2",
    "procrastinate>=3.10,<4",
    # written with what Python 3.11 brought
    *(["chancy>=0.26,<0.27"] if sys.version_info >= (3, 11) else []),
    "psycopg[binary,pool]>=3.2,<4",
    "asyncpg>=0.30",
    "uvloop>=0.21",
]

LOOPPOOL = "Looppool==0.4.0"
#: the last with the IOLoop that it was written for
LOOPPOOL_BESIDE = ["tornado==4.5.3"]

FOLDER = Path(__file__).resolve().parent.parent / ".bench"


def released_python() -> str:
    """Give the Python that has the released extension; install it at the first call.

    Raises CalledProcessError when pip cannot; what it printed is on stderr.
    """
    return _python("released", [RELEASED, *BESIDE])


def peers_python() -> str:
    """Give the Python that has PgQueuer, Procrastinate and chancy, as `released_python` does."""
    return _python("peers", PEERS)


def looppool_python() -> str:
    """Give the Python that has Looppool, likewise."""
    return _python("looppool", [LOOPPOOL, *LOOPPOOL_BESIDE])


def _python(name: str, requirements: Sequence[str]) -> str:
    folder = FOLDER / name
    python = folder / "bin" / "python"
    made = folder / ".made"
    wanted = "\n".join([sys.version, *requirements])
    if not (made.is_file() and made.read_text(encoding="utf-8") == wanted):
        print(f"installing {requirements[0]} into {name} under .bench/, once", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, *requirements], check=True, stdout=sys.stderr, timeout=600)
        made.write_text(wanted, encoding="utf-8")
    return str(python)
