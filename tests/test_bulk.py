"""All jobs of a frozen set are retried exactly once, while workers run them and one is killed.

``make bulk`` does the same with 100,000 jobs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from crash.bulk import KINDS, retry_all
from databases import url_of

pytestmark = pytest.mark.slow

JOBS = 3_000


@pytest.mark.parametrize("kind", KINDS)
def test_each_job_is_retried_once_though_the_worker_that_does_it_is_killed(
    kind: str, tmp_path: Path
) -> None:
    found = retry_all(url_of(kind, tmp_path), JOBS)

    assert found.is_right, found
