"""What a test needs from the machine that it runs on: a server, a browser, a free port.

A missing one is a skip on a laptop, by name, and a failure where ``CI`` is set: there, what is
not tested must not look as if it were.
"""

from __future__ import annotations

import os


def need(condition: object, what: str) -> None:
    """Go on with the test if *condition* is true; else skip it, or fail it where CI is set.

    what: the thing that is missing and how to get it, as in "PostgreSQL on 127.0.0.1:5432".
    """
    if condition:
        return
    # Here, since worker processes of tests import this module, for which pytest takes a while.
    import pytest

    if os.environ.get("CI"):
        pytest.fail(f"needs {what}, and CI is set: nothing may be skipped here", pytrace=False)
    pytest.skip(f"needs {what}")
