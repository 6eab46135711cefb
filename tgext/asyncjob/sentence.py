"""``Sentence``: a text for people that keeps what it was made of, so that a page can say it in
another language. It is a ``str``, in English."""

from __future__ import annotations


class Sentence(str):
    """A text with ``%(name)s`` for each of *values*.

    ``str()`` of it is a plain ``str``. ``tests/texts_template.py`` lists the texts that calls of
    this class have as literals.
    """

    text: str  #: with the names
    plural: str | None  #: the text for a number other than 1; None: it has no number
    number: int
    values: dict[str, object]

    def __new__(cls, text: str, /, **values: object) -> Sentence:
        return cls._made(text, None, 1, values)

    @classmethod
    def of_number(cls, one: str, many: str, number: int, /, **values: object) -> Sentence:
        """Return the form of a sentence for *number*, which is ``%(number)s``."""
        return cls._made(one, many, number, {"number": number, **values})

    @classmethod
    def _made(
        cls, text: str, plural: str | None, number: int, values: dict[str, object]
    ) -> Sentence:
        form = text if plural is None or number == 1 else plural
        made = super().__new__(cls, form % values if values else form)
        made.text, made.plural, made.number, made.values = text, plural, number, values
        return made
