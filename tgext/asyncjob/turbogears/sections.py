"""Warn of options in a section of the .ini file that the application does not read."""

from __future__ import annotations

import configparser
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from ..options import PREFIX, meant_by

log = logging.getLogger(__name__)

#: Sections named for the package, whose keys need no prefix to be meant for it.
_OURS = {"asyncjob", "tgext.asyncjob", "tgext_asyncjob"}

#: Kinds of sections that an application gets something of.
_READ = {"default", "app", "application", "filter-app"}


def warn_of_misplaced(config: Mapping[str, Any]) -> None:
    """Say in the log which options of the application's .ini file nothing reads.

    A warning: such a section may be another program's. An application that was made of no file
    has nothing to be warned of.
    """
    path = config.get("__file__")
    if not isinstance(path, str):
        return
    # [DEFAULT] is no other section: the application gets what stands there.
    parser = configparser.RawConfigParser(strict=False, default_section="")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read(path, encoding="utf-8")
    except (OSError, ValueError, configparser.Error):
        return  # it was read by others, who have said what is wrong with it
    for section, key, meant in _misplaced(parser):
        log.warning(
            "%s: %s in [%s] is read by nobody; write %s in the section of the application, as "
            "[app:main]", path, key, section, meant,
        )  # fmt: skip


def _misplaced(parser: configparser.RawConfigParser) -> Iterator[tuple[str, str, str]]:
    """The section, the key and what it should be called, of each that is meant for the package."""
    for section in parser.sections():
        kind = section.partition(":")[0].strip().lower()
        if kind in _READ:
            continue
        for key in parser[section]:
            meant = meant_by(PREFIX + key if kind in _OURS else key)
            if meant:
                yield section, key, PREFIX + meant
