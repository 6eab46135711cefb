"""Measure one durable queue in this process: a question a line comes in, an answer goes out.

Started by sqlstands.py, with the Python of the contender's environment. A measurement that takes
too long ends the process with a traceback of its threads. What a queue prints goes to stderr.
"""

import os

import sqlmeasures
from answers import answer_all

#: one measurement; the slowest fills a backlog
MEASUREMENT_SECONDS = 240.0


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer_all(sqlmeasures.MEASURES, MEASUREMENT_SECONDS, answers)


if __name__ == "__main__":
    main()
