"""Template helpers: in a template they are ``h.<name>``."""

from photoalbum.lib.messages import message_here

__all__ = ["message_here", "plural"]


def plural(number, word):
    """Write ``1 picture``, ``2 pictures``."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
