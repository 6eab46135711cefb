"""Statements that SQLAlchemy has compiled, shared by all engines of a process on one database.

An engine keeps what it has compiled, and nearly each test has engines of its own, which would
compile the same statements again: that takes longer than to execute them. What a statement is
compiled to depends on itself, on the dialect, on the server, and on the schemas of its tables,
which our backends set when they have found them. All files of SQLite have the same statements,
and so have all servers of a kind, which are of one version here.
"""

from __future__ import annotations

import functools
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from sqlalchemy import Engine, Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.util import LRUCache

from tgext.asyncjob.backends.sql import insertion, schema, store
from tgext.asyncjob.backends.sql.statements import Statement

#: More than a module of tests has on the three databases; those used longest ago make room.
_MOST_STATEMENTS = 3000

#: Prefixes whose tables are described at a time: statements of other descriptions are others.
_MOST_PREFIXES = 8

#: The dialect of the side database.
SQLITE = sqlite.dialect()

#: The attribute of an engine that has its statements.
_CACHE = "_compiled_cache"

_make_statement = Statement.__init__
_make_tables = store.make_tables
_side_table = schema.side_table
_build_insertion = insertion.Insertion._statements
_key_of_table = Table._gen_cache_key


class _Statements:
    """What an engine sees of the statements that all of its kind share."""

    def __init__(self, kind: tuple[str, ...], shared: LRUCache[Any, Any]) -> None:
        self._kind = kind  # of texts, which remember their hash; that of a URL writes it anew
        self._shared = shared

    def get(self, key: tuple[Any, ...]) -> Any:
        return self._shared.get((self._kind, *key[1:]))  # the first is the engine's own dialect

    def __setitem__(self, key: tuple[Any, ...], compiled: Any) -> None:
        self._shared[(self._kind, *key[1:])] = compiled

    def clear(self) -> None:
        """Nothing: in a key there are the schemas of the tables."""


class _CompiledOnce:
    """A clause of a ``Statement``; those with the same text and values are compiled together."""

    def __init__(self, clause: Any, statements: _Statements) -> None:
        self.clause = clause
        self._statements = statements

    def compile(self, dialect: Dialect) -> Any:
        found = self.clause._generate_cache_key()
        key = (dialect, found.key, *[each.value for each in found.bindparams])
        compiled = self._statements.get(key)
        if compiled is None:
            compiled = self._statements[key] = self.clause.compile(dialect=dialect)
        return compiled


def share_statements(patch: pytest.MonkeyPatch | None = None) -> None:
    """Let backends and engines that are made from now on share tables and statements; None: in
    this process for good."""
    patch = patch or pytest.MonkeyPatch()
    shared: LRUCache[Any, Any] = LRUCache(_MOST_STATEMENTS)
    statements_of: WeakKeyDictionary[Dialect, _Statements] = WeakKeyDictionary()

    def get(engine: Any) -> Any:
        return engine.__dict__[_CACHE]

    def set_(engine: Any, cache: Any) -> None:
        if isinstance(cache, LRUCache):  # of a new engine; not the one of another, and not None
            where = engine.url.set(host=None, port=None, username=None)
            if engine.dialect.name == "sqlite":
                where = where.set(database=None)
            kind = (type(engine.dialect).__name__, where.render_as_string())
            cache = statements_of[engine.dialect] = _Statements(kind, shared)
        engine.__dict__[_CACHE] = cache

    def make_statement(statement: Any, build: Any, dialect: Dialect) -> None:
        statement.build = build = functools.cache(build)
        statements = statements_of[dialect]
        _make_statement(statement, lambda: _CompiledOnce(build(), statements), dialect)

    built: LRUCache[Any, Any] = LRUCache(2 * _MOST_PREFIXES)

    def build_insertion(ours: Any, tables: Any, names: Any) -> Any:
        """Build the clauses once: each backend has these, and few tests need them all."""
        clock, dialect = ours._clock, ours._dialect
        key = (tables.jobs, tables.jobs.schema, names, dialect.engine.dialect.name, clock.is_fake)
        found = built.get(key)
        if found is None:
            found = built[key] = _build_insertion(ours, tables, names)
        anew = [each and dialect.compiled(each.build) for each in found[1:]]
        return insertion.Statements(names, *anew)

    def key_of_table(table: Any, *given: Any) -> tuple[Any, ...]:
        return (*_key_of_table(table, *given), table.schema)

    # not in its __init__: create_engine() asks that for its arguments
    patch.setattr(Engine, _CACHE, property(get, set_), raising=False)
    patch.setattr(Statement, "__init__", make_statement)
    patch.setattr(Table, "_gen_cache_key", key_of_table)
    patch.setattr(insertion.Insertion, "_statements", build_insertion)
    side_table = functools.lru_cache(3 * _MOST_PREFIXES)(lambda each: _side_table(each, SQLITE))
    patch.setattr(schema, "side_table", lambda table, _dialect: side_table(table))
    patch.setattr(store, "make_tables", functools.lru_cache(_MOST_PREFIXES)(_make_tables))


def share_nothing(patch: pytest.MonkeyPatch) -> None:
    """Let backends and engines that are made from now on have their own, as in production."""
    patch.delattr(Engine, _CACHE)
    patch.setattr(Statement, "__init__", _make_statement)
    patch.setattr(store, "make_tables", _make_tables)
    patch.setattr(insertion.Insertion, "_statements", _build_insertion)
    patch.setattr(schema, "side_table", _side_table)
