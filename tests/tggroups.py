"""The model of an application in globals of a module, as that of a project is.

A stored call finds ``DBSession`` and ``Group`` by importing what it names.
"""

from __future__ import annotations

import contextlib
import sqlite3

import sqlalchemy
import zope.sqlalchemy
from sqlalchemy import orm

from tgapps import Model

DBSession = orm.scoped_session(orm.sessionmaker())
zope.sqlalchemy.register(DBSession)

Base = orm.declarative_base()


class Group(Base):
    __tablename__ = "tg_group"

    group_id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)
    group_name = sqlalchemy.Column(sqlalchemy.String, unique=True)
    display_name = sqlalchemy.Column(sqlalchemy.String)


class GroupModel(Model):
    """This model, in a file. savepoints: as SQLAlchemy's manual makes them work."""

    def __init__(self, path, *, savepoints=False):
        self._path = path
        self.url = f"sqlite:///{path}?timeout=30"
        self.engines = []
        self.DBSession = DBSession
        self.Item = Group
        self.metadata = Base.metadata
        self._savepoints = savepoints

    def init_model(self, engine):
        if self._savepoints:
            super().init_model(engine)
            return
        self.engines.append(engine)
        DBSession.configure(bind=engine)
        Base.metadata.create_all(engine)

    def read(self, statement):
        """The rows of a query, as another process reads them: what is committed."""
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            return connection.execute(statement).fetchall()

    def groups(self):
        return sorted(name for (name,) in self.read("SELECT group_name FROM tg_group"))

    def stored_jobs(self):
        return self.read("SELECT uid, state FROM asyncjob_jobs ORDER BY number")
