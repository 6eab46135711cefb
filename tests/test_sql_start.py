"""A process that starts while its database goes away: it goes on, whatever was said by then."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import make_url

from crash.proxy import CHUNK_BYTES, AnswerProxy, Link, serving
from databases import SERVERS, url_of
from tgext.asyncjob import JobQueue

pytestmark = pytest.mark.slow

#: So many answers there are at least until a queue is open.
ANSWERS = 9


class Cutter(AnswerProxy):
    """Cuts the connection that brings answer number *answers*, after it, and no other."""

    def __init__(self, to: int, answers: int) -> None:
        super().__init__(to, every=0)
        self.left = answers

    def _answers(self, link: Link) -> None:
        while data := link.server.recv(CHUNK_BYTES):
            link.client.sendall(data)
            self.left -= 1
            if self.left == 0:
                return


@pytest.mark.parametrize("answers", range(1, ANSWERS + 1))
@pytest.mark.parametrize("kind", SERVERS)
def test_queue_opens_though_its_database_is_lost_meanwhile(kind, answers, tmp_path):
    url, prefix = make_url(url_of(kind, tmp_path)), f"t{uuid.uuid4().hex[:8]}_"
    with JobQueue("sql", url=str(url), table_prefix=prefix, threads=0) as there:
        try:
            with serving(Cutter(url.port or SERVERS[kind][1], answers)) as way:
                through = url.set(port=way.port).render_as_string(hide_password=False)
                with JobQueue("sql", url=through, table_prefix=prefix, threads=0) as queue:
                    assert way.left <= 0
                    uid = queue.perform(len, "three")

            assert there.result(uid).status == "READY"
        finally:
            there.backend.tables.metadata.drop_all(there.backend.engine)  # type: ignore[attr-defined]
