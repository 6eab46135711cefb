"""What a run says of itself: one line, and a line for each thing that is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .verdict import Verdict

#: Wrong things that are shown; more of them say nothing more.
SHOWN = 12


@dataclass(frozen=True)
class Report:
    """Of a soak. slowest_seconds: from a SIGKILL to the next attempt of what was held then;
    beside_seconds: the same while another process was stopped, perhaps with locks in its hands."""

    database: str
    seconds: float
    struck: Counter[str]
    rescued: int
    given_up: int  #: jobs that were taken from workers that lived
    lost_answers: int  #: of commits
    slowest_seconds: float
    beside_seconds: float
    verdict: Verdict

    @property
    def is_right(self) -> bool:
        """Whether nothing was lost, nothing was doubled, and no process ended by itself."""
        return not self.verdict.notes

    def __str__(self) -> str:
        verdict = self.verdict
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.struck.items()))
        line = (
            f"{self.database}: {verdict.jobs} jobs, {self.struck.total()} kills ({kinds}), "
            f"{self.lost_answers} answers of commits lost, "
            f"{self.rescued} rescues, slowest {self.slowest_seconds:.2f} s "
            f"({self.beside_seconds:.2f} s beside a stopped process), "
            f"lost {verdict.lost}, doubled {verdict.doubled}, "
            f"live workers given up {self.given_up}, in {self.seconds:.0f} s"
        )
        return "\n".join([line, *(f"    {note}" for note in verdict.notes[:SHOWN])])
