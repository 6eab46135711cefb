"""Measure one durable queue in this process: a question a line comes in, an answer goes out.

Started by sqlstands.py, with the Python of the contender's environment. A measurement that takes
too long ends the process with a traceback of its threads. What a queue prints goes to stderr.
"""

import faulthandler
import json
import os
import sys

import sqlmeasures

#: one measurement; the slowest fills a backlog
MEASUREMENT_SECONDS = 240.0


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        faulthandler.dump_traceback_later(MEASUREMENT_SECONDS, exit=True)
        answer = sqlmeasures.MEASURES[question.pop("measure")](**question)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
