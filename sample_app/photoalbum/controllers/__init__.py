"""Controllers of photoalbum."""
