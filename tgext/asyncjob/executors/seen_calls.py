"""The numbers of the calls that a hook has made, as files that all processes of a server share.

    <temporary folder>/asyncjob-<user>/calls-<of the secret>/<minute of the call>/<number>

A file is created exclusively: one process creates it and all others find it, also after a restart.
The folder of a minute is removed when none of its calls can be fresh any more. Nothing is locked,
and no number is kept in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import stat
import tempfile
from pathlib import Path

#: Seconds whose calls share a folder.
FOLDER_SECONDS = 60

#: Seconds for which numbers are kept at least. So no call is made twice when the clock is set back,
#: or by another hook with the same secret and a longer ``max_age``.
KEEP_SECONDS = 600


class SeenCalls:
    """The numbers of the calls that were made under one secret, on this machine by this user.

    max_age: seconds for which a call is fresh. ``is_new`` raises OSError if files cannot be made,
    and PermissionError if the folder is another user's, or open to others.
    """

    def __init__(self, secret: str, max_age: float) -> None:
        key = hmac.new(secret.encode(), b"tgext.asyncjob.hook.calls", hashlib.sha256)
        self._name = f"calls-{key.hexdigest()[:32]}"
        self._keep_seconds = max(max_age, KEEP_SECONDS)
        self._latest: int | None = None

    def is_new(self, number: str, at: float, now: float) -> bool:
        """Store the number of a call; False if it was stored before. at: when it was signed."""
        minute = int(at // FOLDER_SECONDS)
        folder = _own_folder() / self._name / str(minute)
        path = folder / hashlib.sha256(number.encode("utf-8", "surrogatepass")).hexdigest()
        if not _is_made(path):
            return False
        if self._latest is None or minute > self._latest:
            self._latest = minute
            self._prune(folder.parent, now)
        return True

    def _prune(self, folder: Path, now: float) -> None:
        """Remove the folders of old minutes; other processes may do the same at once."""
        oldest = (now - self._keep_seconds) // FOLDER_SECONDS
        for minute in os.listdir(folder):
            if int(minute) < oldest:
                shutil.rmtree(folder / minute, ignore_errors=True)


def _own_folder() -> Path:
    """Return the folder of this user, in which no other user can create or remove files."""
    user = os.geteuid() if hasattr(os, "geteuid") else None
    folder = Path(tempfile.gettempdir()) / f"asyncjob-{'files' if user is None else user}"
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    is_open = bool(found.st_mode & 0o077) or found.st_uid != user
    if not stat.S_ISDIR(found.st_mode) or (user is not None and is_open):
        raise PermissionError(
            f"expected {folder} to be a folder of user {user} with mode 700, got one of user "
            f"{found.st_uid} with mode {stat.S_IMODE(found.st_mode):o}"
        )
    return folder


def _is_made(path: Path) -> bool:
    """Create an empty file; False if it exists."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    try:
        made = os.open(path, flags, 0o600)
    except FileExistsError:
        return False
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _is_made(path)
    os.close(made)
    return True
