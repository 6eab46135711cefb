"""The application's model objects."""

from pathlib import Path

import zope.sqlalchemy
from sqlalchemy.orm import declarative_base, scoped_session, sessionmaker
from sqlalchemy.schema import CreateTable

__all__ = [
    "ContactSheet",
    "DBSession",
    "Picture",
    "create_missing_tables",
    "init_model",
    "metadata",
]

# DBSession() is the session of the current thread: in a request that of the
# request, in a job that of the job. Both are committed for us.
DBSession = scoped_session(sessionmaker(autoflush=True))
zope.sqlalchemy.register(DBSession)

DeclarativeBase = declarative_base()
metadata = DeclarativeBase.metadata


def init_model(engine):
    """Bind the model to *engine*; called before anything else here is used."""
    DBSession.configure(bind=engine)
    if engine.url.database:
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    return DBSession


def create_missing_tables():
    """Create the tables that are not there yet.

    Several processes may do so at the same time: unlike ``create_all`` the
    database itself looks whether a table exists.
    """
    engine = DBSession.get_bind()
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
    # A server that forks now must not hand this connection to its children.
    engine.dispose()


# Import the modules of the model here: they need DeclarativeBase.
from photoalbum.model.album import ContactSheet, Picture  # noqa: E402
