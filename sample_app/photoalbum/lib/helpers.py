"""Template helpers: in a template they are ``h.<name>``."""

from photoalbum.lib.messages import message_here

__all__ = ["message_here", "plural", "seconds"]


def plural(number, word):
    """Write ``1 picture``, ``2 pictures``."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def seconds(begin, end):
    """Write the time between two instants; an empty string while one is unknown."""
    if begin is None or end is None:
        return ""
    return f"{(end - begin).total_seconds():.1f} s"
