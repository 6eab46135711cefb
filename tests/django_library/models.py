"""Authors and their rated books."""

from __future__ import annotations

from typing import Any

from django.db import models


class AuthorManager(models.Manager):
    """A manager of the library's own."""

    def great_ones(self) -> Any:
        return self.filter(is_great=True).order_by("name")


class Author(models.Model):
    name = models.CharField(max_length=50, unique=True)
    is_great = models.BooleanField(default=False)

    objects = AuthorManager()

    def shouted(self) -> str:
        return self.name.upper()


class Book(models.Model):
    author = models.ForeignKey(Author, on_delete=models.CASCADE)
    rating = models.IntegerField()


def add_author(name: str, *, fails: bool = False) -> int:
    """Add an author, and then fail if that is wanted."""
    author = Author.objects.create(name=name)
    if fails:
        raise LookupError(name)
    return int(author.pk)
