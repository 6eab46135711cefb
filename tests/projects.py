"""Projects as a developer's lie on disk, for programs that are run in them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

#: What an application's ``update_blueprint`` takes, to need nothing installed or configured.
PLAIN = {
    "auth_backend": None,
    "i18n.enabled": False,
    "session.enabled": False,
    "cache.enabled": False,
    "errorpage.enabled": False,
    "trace_errors.enable": False,
    "debug": False,
}


def write_project(folder: Path, files: Mapping[str, str], **values: object) -> None:
    """Write files by their names below *folder*; ``{name}`` in one becomes a value."""
    for name, text in files.items():
        for value in values:
            text = text.replace(f"{{{value}}}", str(values[value]))
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip())


def model_source(class_name: str, table: str, key: str, column: str) -> str:
    """The model of an application with one table: a number as its key, and a text."""
    return f"""
        import zope.sqlalchemy
        from sqlalchemy import Column, Integer, String, orm

        DBSession = orm.scoped_session(orm.sessionmaker())
        zope.sqlalchemy.register(DBSession)
        Base = orm.declarative_base()

        class {class_name}(Base):
            __tablename__ = "{table}"
            {key} = Column(Integer, primary_key=True)
            {column} = Column(String)

        def init_model(engine):
            DBSession.configure(bind=engine)
            Base.metadata.create_all(engine)
        """
