"""Figures of several rounds, and how they are printed beside what was aimed at."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """What a figure was over the rounds."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        """Spread of *figures*, one for each round; at least one."""
        return cls(statistics.median(figures), min(figures), max(figures))

    def show(self, decimals: int) -> str:
        """Give "median  minimum .. maximum" in columns that stand under each other."""
        return (
            f"{self.median:10,.{decimals}f}  "
            f"{self.minimum:9,.{decimals}f} .. {self.maximum:9,.{decimals}f}"
        )


@dataclass(frozen=True)
class Aim:
    """A bound on a median, and whether a figure keeps it."""

    bound: float
    words: str  #: what was aimed at, for the reader
    at_least: bool = False  #: else at most

    def verdict(self, figure: float) -> str:
        met = figure >= self.bound if self.at_least else figure <= self.bound
        return f"aim {self.words}: {'met' if met else 'missed'}"


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    spread: Spread
    note: str = ""


def print_table(title: str, rows: Sequence[Row], decimals: int) -> None:
    """Print *rows* under *title*; medians first, since they are what is compared."""
    print(f"\n{title}")
    print(f"  {'':36}{'median':>10}  {'minimum':>9} .. {'maximum':>9}")
    for row in rows:
        print(f"  {row.name:36}{row.spread.show(decimals)}  {row.note}".rstrip())
