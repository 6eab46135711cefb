"""Pictures and contact sheets."""

from datetime import datetime, timezone

from sqlalchemy import Column, DateTime, Integer, String

from photoalbum.model import DeclarativeBase

__all__ = ["ContactSheet", "Picture"]


def _now():
    return datetime.now(timezone.utc)


class Picture(DeclarativeBase):
    """One picture of the album, with or without its thumbnail yet."""

    __tablename__ = "picture"

    id = Column(Integer, primary_key=True)
    title = Column(String(120), nullable=False)
    #: the file in the media folder "originals"
    original = Column(String(80), nullable=False)
    #: the file in "previews" and in "thumbnails"; None until a job has made them
    developed = Column(String(80))
    #: what the picture looks like from afar, such as "#4a7c9b"
    colour = Column(String(7))
    width = Column(Integer, nullable=False)
    height = Column(Integer, nullable=False)
    added_at = Column(DateTime(timezone=True), nullable=False, default=_now)


class ContactSheet(DeclarativeBase):
    """The small prints of all pictures of one job, side by side on one page."""

    __tablename__ = "contact_sheet"

    id = Column(Integer, primary_key=True)
    #: the file in the media folder "sheets"
    file_name = Column(String(80), nullable=False)
    picture_count = Column(Integer, nullable=False)
    made_at = Column(DateTime(timezone=True), nullable=False, default=_now)
