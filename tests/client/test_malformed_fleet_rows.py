"""Rows of clients, leaders and queues that Millhand never writes do not disturb a client."""

from __future__ import annotations

import contextlib
import logging

import psycopg_pool
import pytest

from client_harness import Act, ClientHarness
from millhand.core.event import EventKind
from millhand.core.worker import Workers
from millhand.core.worker_job import Job

CLIENT = """
    INSERT INTO millhand_client (
        id, language, version, hostname, pid, kinds, queues, queue_updates, heartbeat_interval, started_at, last_seen_at,
        lost_at, stepped_down_at
    ) VALUES (
        {id}, {language}, '?', 'there', {pid}, {kinds}, {queues}, {updates}, {interval}, {started}, {seen}, {lost}, {way}
    )
"""
PLAIN = {
    "id": "'malformed'", "language": "'python'", "pid": "1", "kinds": "'{act}'", "queues": """'{"default": 1}'""",
    "updates": "'{}'", "interval": "'5 s'", "started": "now()", "seen": "now()", "lost": "NULL", "way": "NULL",
}  # fmt: skip
MALFORMED_CLIENTS = {
    "queues that are none": {"queues": "'[1]'"},
    "queues of any shape": {"queues": """('{"default": "many", "n": ' || repeat('9', 5000) || '}')::jsonb"""},
    "queues nested 1200 deep": {"queues": "(repeat('[', 1200) || repeat(']', 1200))::jsonb"},
    "updates that are none": {"updates": "'[1]'"},
    "updates at no time": {"updates": """'{"default": "yesterday", "x": 7, "y": {}}'"""},
    "kinds that are null": {"kinds": "ARRAY[NULL, 'a']::text []"},
    "a hundred thousand kinds": {"kinds": "array_fill('kind'::text, ARRAY[100000])"},
    "kinds in two dimensions": {"kinds": "ARRAY[['a', 'b'], ['c', 'd']]"},
    "reports every million years": {"interval": "'1000000 years'"},
    "reports backwards": {"interval": "'-1000000 years'"},
    "started before all time": {"started": "'-infinity'", "seen": "'-infinity'"},
    "started before year one": {"started": "'0044-03-15 BC'", "seen": "'0044-03-15 BC'"},
    "started after all time": {"started": "'infinity'", "seen": "'infinity'"},
    "seen after year 9999": {"seen": "'12000-01-01'", "lost": "'13000-01-01'", "way": "'infinity'"},
    "lost before all time": {"lost": "'-infinity'", "way": "'-infinity'"},
    "a pid below nothing": {"pid": "-2147483648"},
    "a name of control characters": {"id": r"E'a\n\t\x1b[2J\u009b\u2028'", "language": r"E'\x1b]0;x\x07'"},
    "a megabyte of language": {"language": "repeat('x', 1000000)"},
}
MALFORMED_LEADERS = {
    "expired before all time": "'-infinity', '-infinity'",
    "expired before year one": "'0044-03-15 BC', '0044-03-15 BC'",
    "elected after all time": "'infinity', now() - interval '1 minute'",
}
MALFORMED_QUEUES = {
    "a queue of two thousand characters": "repeat(md5('x'), 60), '{}', now(), now(), NULL",
    "a queue without a name": "'', '{}', now(), now(), NULL",
    "a queue touched after all time": "'q', '{}', now(), 'infinity', 'infinity'",
    "a queue touched before year one": "'q', '{}', '0044-03-15 BC', '0044-03-15 BC', '-infinity'",
    "a queue of control characters": r"E'a\n\x1b[2J\u009b', '{}', now(), now() - interval '1 minute', NULL",
}
MALFORMED = {
    **{name: CLIENT.format(**PLAIN | malformed) for name, malformed in MALFORMED_CLIENTS.items()},
    **{
        name: f"INSERT INTO {table} (leader_id, elected_at, expires_at) VALUES (E'a\\n\\x1b', {instants})"
        for table in ("river_leader", "millhand_leader")
        for name, instants in {
            f"{table} {name}": malformed for name, malformed in MALFORMED_LEADERS.items()
        }.items()
    },
    **{
        name: f"INSERT INTO river_queue (name, metadata, created_at, updated_at, paused_at) VALUES ({malformed})"
        for name, malformed in MALFORMED_QUEUES.items()
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(("wire", "name"), [("asyncpg", "malformed"), ("psycopg", "other")])
@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED)
async def test_client_works_beside_a_malformed_row(
    harness: ClientHarness, malformed: str, wire: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It leads, works and lists clients and queues without a failed pass, even if the row has its own id."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    await harness.execute(malformed)
    async with contextlib.AsyncExitStack() as stack:
        pool = None
        if wire == "psycopg":
            pool = await stack.enter_async_context(psycopg_pool.AsyncConnectionPool(harness.url, open=False))
        client = harness.client(
            workers, database=pool, client_id=name, leader_election=True, prefer_other_leaders=False
        )
        await stack.enter_async_context(client)
        event = await harness.work(client, Act("x"))
        clients, queues = await client.clients.list(), await client.queues.list()

    assert event.kind is EventKind.JOB_COMPLETED
    assert name in [row.id for row in clients]
    assert "default" in [row.name for row in queues]
    warnings = [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("millhand")
    ]
    assert [(record.msg, vars(record).get("error")) for record in warnings] == []
