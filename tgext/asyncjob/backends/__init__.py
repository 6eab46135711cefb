"""Where jobs wait: one room a backend, loaded by its name and only when it is asked for."""

from __future__ import annotations

import importlib

from ..backend import ClaimingBackend
from ..options import Options

_CLASSES = {"memory": "memory.MemoryBackend"}


def make_backend(options: Options) -> ClaimingBackend:
    """Make the backend that *options* name."""
    module_name, class_name = _CLASSES[options.backend].split(".")
    module = importlib.import_module(f"{__name__}.{module_name}")
    made: ClaimingBackend = getattr(module, class_name)(retention_seconds=options.retention)
    return made
