"""Kinds of columns that differ between databases."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Integer, Text
from sqlalchemy.dialects.mysql import LONGTEXT

#: SQLite generates numbers only in an INTEGER column; MariaDB's TEXT is limited to 64 KiB.
NUMBER = BigInteger().with_variant(Integer(), "sqlite")
LONG = Text().with_variant(LONGTEXT(), "mysql", "mariadb")

#: The text columns of MariaDB, whatever the default of the database: all of Unicode, and case
#: sensitive.
TEXT: dict[str, Any] = {
    f"{name}_{option}": value
    for name in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}

#: The most characters of a task's name and of a user's that rows are listed by.
LISTED_LENGTH = 255
