"""Fills the tables of jobs with all that may wait where every policy is in use.

Of the 100,000 that wait, 40,000 are AVAILABLE in 50 queues, of which two are paused and two have a
limit that is reached; each holds a unique key, and half have priority 5. 25,000 wait for the slots
of 200 exhausted limits, 15,000 for 200 exhausted rates, and 20,000 of 1,000 owners for their turn.
"""

from sqlalchemy import Connection

from sqlqueues import PREFIX
from test_sql_explain import JOBS, NUMBERS, fill
from tgext.asyncjob.backends.sql import SqlBackend, states

AVAILABLE, OF_LIMITS, OF_RATES, OF_OWNERS = 40_000, 25_000, 15_000, 20_000

#: Exhausted keys of limits and of rates, each; owners; and queues.
KEYS, OWNERS, QUEUES = 200, 1_000, 50

#: Names of queues; the first two are paused, the next two limited.
QUEUE_NAMES = [f"queue{number}" for number in range(QUEUES)]
PAUSED, LIMITED = QUEUE_NAMES[:2], QUEUE_NAMES[2:4]

#: The queue in which owners take turns.
SHARED = "shared"

#: Begins the uids of the jobs that hold the slots of exhausted keys.
_HOLDER = "holder"


class _Texts:
    """Texts of SQL, as each database puts them together."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def joined(self, *parts: str) -> str:
        return f"concat({', '.join(parts)})" if self._kind == "mariadb" else " || ".join(parts)

    def turn_of(self, most: int) -> str:
        """A number below *most* for each row."""
        return f"(value % {most})" if self._kind == "sqlite" else f"mod(value, {most})"


def fill_waiting(connection: Connection, kind: str, share: float) -> None:
    """Fill in those that wait. share: of the numbers above."""
    texts = _Texts(kind)
    joined, key = texts.joined, texts.turn_of(KEYS)
    queue, owner = joined("'queue'", texts.turn_of(QUEUES)), texts.turn_of(OWNERS)
    unique = joined("""'{"unique":["=:held'""", "value", """'","unfinished",0.0]}'""")
    fill(
        connection, kind, int(AVAILABLE * share), states.AVAILABLE, queue_name=queue,
        uid=joined("'unique'", "value"), policy=unique,
        rank="CASE WHEN (value & 1) = 0 THEN 0 ELSE -5 END",
    )  # fmt: skip
    for most, name, rest in ((OF_LIMITS, "limit", ",1]}'"), (OF_RATES, "rate", ",1,3600.0]}'")):
        group = joined(f"'{name}'", key)
        fill(
            connection, kind, int(most * share), states.BLOCKED, queue_name=queue,
            blocked_by=group, limit_key=group,
            policy=joined(f"""'{{"{name}":["{name}'""", key, f"""'"{rest}"""),
        )  # fmt: skip
    its = joined("'//:0:shared/:'", owner)
    fill(
        connection, kind, int(OF_OWNERS * share), states.BLOCKED, queue_name=f"'{SHARED}'",
        blocked_by=its, limit_key=its,
        policy=joined("""'{"share":["/:0:shared","//:0:shared/:'""", owner, """'"]}'"""),
    )  # fmt: skip
    _fill_keys(connection, kind, share, texts)


def _fill_keys(connection: Connection, kind: str, share: float, texts: _Texts) -> None:
    """The rows of the keys, and of who holds their slots."""
    joined, now = texts.joined, "4e9"  # a start of the future counts
    fill(
        connection, kind, 2 * KEYS, states.AVAILABLE, queue_name=f"'{PAUSED[0]}'",
        uid=joined(f"'{_HOLDER}'", "value"),
    )  # fmt: skip

    def insert(table: str, columns: str, values: str, most: int) -> None:
        numbers = NUMBERS[kind].format(most=most)
        connection.exec_driver_sql(
            f"INSERT INTO {PREFIX}{table} ({columns}) SELECT {values} FROM {numbers} AS numbers"
        )

    for name, seconds, started in (("limit", "NULL", "NULL"), ("rate", "3600", now)):
        key = joined(f"'{name}'", "value - 1" if kind == "mariadb" else "(value - 1)")
        insert("limits", "name", key, KEYS)
        columns = "name, uid, lease, admitted_at, seconds, started_at"
        uid = joined(f"'{_HOLDER}'", "value")
        insert("slots", columns, f"{key}, {uid}, 0, {now}, {seconds}, {started}", KEYS)
    insert("limits", "name", "'/:0:shared'", 1)
    its = joined("'//:0:shared/:'", "value - 1" if kind == "mariadb" else "(value - 1)")
    insert("turns", "name, owner, blocked_by, served", f"'/:0:shared', {its}, {its}, value", OWNERS)
    name, uid = joined("'=:held'", "value"), joined("'unique'", "value")
    insert("unique_keys", "name, uid", f"{name}, {uid}", int(AVAILABLE * share))


def reach_limits(connection: Connection) -> None:
    """Let the first job of each limited queue run."""
    for name in LIMITED:
        connection.exec_driver_sql(
            f"UPDATE {JOBS} SET state = {states.RUNNING}, worker_id = 'other' WHERE number ="
            f" (SELECT number FROM (SELECT min(number) AS number FROM {JOBS} WHERE"
            f" state = {states.AVAILABLE} AND queue_name = '{name}') AS first)"
        )


def steer(backend: SqlBackend) -> None:
    """Pause queues, and limit others to what runs in them."""
    for name in PAUSED:
        backend.pause(name)
    for name in LIMITED:
        backend.limit(name, 1)
