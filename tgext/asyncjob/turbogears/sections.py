"""Warns of options in sections of the .ini file that the application does not read."""

from __future__ import annotations

import configparser
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from ..options import PREFIX, meant_by

log = logging.getLogger(__name__)

#: Sections with the name of the package, in which keys without the prefix are meant for it too.
_OURS = {"asyncjob", "tgext.asyncjob", "tgext_asyncjob"}

#: Kinds of sections that an application reads.
_READ = {"default", "app", "application", "filter-app"}


def warn_of_misplaced(config: Mapping[str, Any]) -> None:
    """Log which options in the application's .ini file nothing reads.

    Only a warning, since such a section may belong to another program. Does nothing for an
    application that was made without a file.
    """
    path = config.get("__file__")
    if not isinstance(path, str):
        return
    # default_section="": so that keys of [DEFAULT] are not repeated in the other sections.
    parser = configparser.RawConfigParser(strict=False, default_section="")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read(path, encoding="utf-8")
    except (OSError, ValueError, configparser.Error):
        return  # its reader has reported what is wrong with it
    for section, key, meant in _misplaced(parser):
        log.warning(
            "%s: %s in [%s] is not read; write %s in the section of the application, such as "
            "[app:main]", path, key, section, meant,
        )  # fmt: skip


def _misplaced(parser: configparser.RawConfigParser) -> Iterator[tuple[str, str, str]]:
    """Section, key and correct name of each key that is meant for the package."""
    for section in parser.sections():
        kind = section.partition(":")[0].strip().lower()
        if kind in _READ:
            continue
        for key in parser[section]:
            meant = meant_by(PREFIX + key if kind in _OURS else key)
            if meant:
                yield section, key, PREFIX + meant
