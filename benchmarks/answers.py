"""What a process that is asked for measurements does: a question comes in, an answer goes out.

The other end of children.py. Standard library only: it is imported in every environment.
"""

import faulthandler
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO


def answer_all(
    measures: Mapping[str, Callable[..., Any]], seconds: float, answers: TextIO | None = None
) -> None:
    """Measure what is asked for by name, until stdin ends.

    seconds: one that takes longer ends the process with a traceback of its threads.
    answers: where they are written; None: to stdout.
    """
    for line in sys.stdin:
        question = json.loads(line)
        faulthandler.dump_traceback_later(seconds, exit=True)
        answer = measures[question.pop("measure")](**question)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(answer), file=answers, flush=True)
