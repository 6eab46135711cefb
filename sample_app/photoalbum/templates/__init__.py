"""Page templates of photoalbum."""
