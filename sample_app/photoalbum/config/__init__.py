"""Configuration of photoalbum."""
