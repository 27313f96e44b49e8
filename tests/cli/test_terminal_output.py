"""No value of a row puts control characters on the terminal or breaks a line."""

from __future__ import annotations

import io
import logging
import re

import pytest

from cli_runner import millhand
from factory import insert_job, qualified
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.observe.log import configure_logging

pytestmark = pytest.mark.usefixtures("project")

HOSTILE = "a\r\n\t\x1b]0;owned\x07\x1b[2J\x9b31m\u2028\u2029\u202egpj.exe\u2066\x7f\x08"
MOVING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
ERROR = (
    """jsonb_build_object('at', '2026-01-01T00:00:00Z', 'attempt', 1, 'error', $1::text, 'trace', $1::text)"""
)
SPOIL = f"""
    UPDATE /* schema */river_job SET
        kind = $1, queue = $1, args = jsonb_build_object($1::text, $1::text),
        metadata = jsonb_build_object($1::text, $1::text, 'river:log', jsonb_build_array(
            jsonb_build_object('attempt', $1::text, 'log', $1::text))),
        tags = ARRAY[$1], attempted_by = ARRAY[$1], errors = ARRAY[{ERROR}]
"""
QUEUE = """
    INSERT INTO /* schema */river_queue (name, metadata, updated_at) VALUES ($1, jsonb_build_object($1::text, 1), now())
"""
CLIENT = """
    INSERT INTO /* schema */millhand_client (
        id, language, version, hostname, pid, kinds, queues, queue_updates, heartbeat_interval, started_at, last_seen_at
    ) VALUES ($1, $1, $1, $1, 1, ARRAY[$1], jsonb_build_object($1::text, 1), '{}', '5 s', now(), now())
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_terminal", [False, True])
async def test_nothing_in_a_row_reaches_the_terminal(
    schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool
) -> None:
    """Lists, pages, JSON and errors of jobs, queues and clients have no control characters."""
    pool = schema_driver.pool
    monkeypatch.setenv("NO_COLOR", "1")
    job = await insert_job(pool, JobState.RETRYABLE)
    for sql in (SPOIL, QUEUE, CLIENT):
        await pool.fetch(qualified(sql, pool), [HOSTILE])
    commands = (
        ("job", "list"), ("job", "show", job.id), ("queue", "list"), ("client", "list"),
        ("job", "list", "--json"), ("job", "show", job.id, "--json"), ("queue", "list", "--json"),
        ("client", "list", "--json"), ("job", "cancel", job.id), ("queue", "pause", f"{HOSTILE}no"),
        ("job", "list", "--kind", HOSTILE, "--state", HOSTILE),
    )  # fmt: skip

    results = [await millhand(*command, is_terminal=is_terminal) for command in commands]

    assert [result.code for result in results] == [0] * 9 + [1, 2]
    assert [MOVING.findall(result.out + result.err) for result in results] == [[]] * len(results)
    if not is_terminal:
        assert [len(results[n].out.splitlines()) for n in (0, 2, 3)] == [1, 1, 1]


@pytest.mark.parametrize("format", ["text", "json"])
def test_nothing_in_a_field_reaches_the_terminal(format: str) -> None:
    """A kind, a queue or an error is quoted in the text log, and stays on one line."""
    stream = io.StringIO()
    configure_logging(format, "info", stream)  # type: ignore[arg-type]

    logging.getLogger("millhand.x").info(
        "job errored", extra={"kind": HOSTILE, "queue": [HOSTILE], "error": "\x9b"}
    )

    assert MOVING.findall(stream.getvalue()) == []
    assert len(stream.getvalue().splitlines()) == 1
