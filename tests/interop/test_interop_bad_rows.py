"""
Rows, texts and notifications that Millhand never writes, in a database that River shares.

The jobs beside a bad row are worked and maintained, and River reads what Millhand writes about the row.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
from interop_harness import LANGUAGES, Harness, Language, Row
from storage_commands import command_runner

from odd_rows import HUGE, ODD, UNDECODABLE, UNREACHABLE, WORKABLE

JOBS = [{"kind": "act", "args": {"do": [], "what": what}, "opts": {}} for what in ("good", "odd", "good")]
HUGE_ROW = pytest.param(HUGE, id="an output of 40 MiB", marks=pytest.mark.slow)
# How a job's life has to go on in each state for a service to have something to do with it.
DUE = """
UPDATE /* schema */river_job SET
    state = $2::text::/* schema */river_job_state, attempt = 1, attempted_at = now() - interval '30 days',
    scheduled_at = now() - interval '1 h',
    finalized_at = CASE WHEN $2 IN ('cancelled', 'completed', 'discarded') THEN now() - interval '30 days' END
WHERE id = ANY($1)
"""
# A rescued job is due about a second later, so the scheduler may have moved it on when the test looks.
SWEPT = {"scheduled": {"available"}, "retryable": {"available"}, "running": {"retryable", "available"}}
CLEANED = ("cancelled", "completed", "discarded")
# Texts that a Millhand worker may produce, and their stored forms.
TEXTS = {
    "U+0000": ({"escaped": "a\\u0000b"}, "a\ufffdb"),
    "half a character": ({"escaped": "a\\ud800b"}, "a\ufffdb"),
    "the other half": ({"escaped": "\\udfff"}, "\ufffd"),
    "a whole character in halves": ({"escaped": "\\ud83e\\udd80"}, "🦀"),
}
NOT_NOTIFICATIONS = (
    "not json",
    "",
    "7",
    "null",
    '["queue"]',
    '{"queue": 7}',
    '{"action": 7, "queue": "default"}',
    '{"action": "dance", "queue": "default"}',
    '{"action": "cancel", "job_id": "x", "queue": "default"}',
    '{"action": "pause", "queue": "default\\n"}',
)


def _params(odd: dict[str, str], *more: Any) -> list[Any]:
    return [*(pytest.param(sql, id=name) for name, sql in odd.items()), *more]


@pytest.mark.parametrize("odd", _params(WORKABLE, HUGE_ROW))
async def test_client_works_a_bad_row_and_its_neighbours(harness: Harness, odd: str) -> None:
    """
    4: claimed_row_decode_isolation.

    A River job whose row became invalid completes, and so do the jobs fetched with it.
    """
    ids = await _inserted(harness, odd)
    was_readable = await _is_readable(harness, ids[1])

    async with harness.working("python"):
        for id in ids:
            await harness.events.wait("job_completed", job=id)

    assert await _states(harness) == dict.fromkeys(ids, "completed")
    if was_readable:
        assert (await command_runner(harness, "go").ask("job_peek", job=ids[1]))["state"] == "completed"
        assert await _listed(harness) == ids


@pytest.mark.parametrize("odd", _params(UNDECODABLE))
async def test_bad_args_fail_only_their_own_job(harness: Harness, odd: str) -> None:
    """
    18: claimed_row_decode_isolation.

    Args that cannot be decoded fail only their own job, and River reads the error.
    """
    ids = await _inserted(harness, odd)

    # It would be due again after a second, and a client that stops late would begin the next attempt.
    await harness.fetch("UPDATE /* schema */river_job SET max_attempts = 1 WHERE id = $1", ids[1])

    async with harness.working("python"):
        await harness.events.wait("job_failed", job=ids[1])
        for id in (ids[0], ids[2]):
            await harness.events.wait("job_completed", job=id)

    read = await command_runner(harness, "go").ask("job_peek", job=ids[1])
    assert read == {"attempt": 1, "num_errors": 1, "state": "discarded"}
    assert await _listed(harness) == ids


@pytest.mark.parametrize("odd", _params(UNREACHABLE))
async def test_clients_find_and_cancel_a_row_that_they_cannot_work(harness: Harness, odd: str) -> None:
    """22: A job with an invalid queue or kind stays unworked; both languages find it and cancel it."""
    ids = await _inserted(harness, odd)

    async with harness.working("python"):
        for id in (ids[0], ids[2]):
            await harness.events.wait("job_completed", job=id)
    waiting = [await command_runner(harness, language).ask("job_peek", job=ids[1]) for language in LANGUAGES]
    await command_runner(harness, "python").ask("job_cancel", job=ids[1])
    cancelled = [
        await command_runner(harness, language).ask("job_peek", job=ids[1]) for language in LANGUAGES
    ]

    assert waiting == [{"attempt": 0, "num_errors": 0, "state": "available"}] * 2
    assert [job["state"] for job in cancelled] == ["cancelled"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("odd", _params(ODD, HUGE_ROW))
async def test_millhand_leader_maintains_the_neighbours_of_a_bad_row(harness: Harness, odd: str) -> None:
    """33, 34, 35: A Millhand leader schedules, rescues and cleans the valid River rows beside a bad one."""
    ids: dict[str, list[int]] = {}
    for state in (*SWEPT, *CLEANED):
        inserted = await harness.control("go").insert_many(
            [{**job, "opts": {"pending": True}} for job in JOBS]
        )
        ids[state] = [one["id"] for one in inserted]
        await harness.fetch(DUE, ids[state], state)
    await _go_bad(harness, odd)
    await harness.record_dead_jobs_as_copied()

    async with harness.working("python", "leader", leads=True, queues={"nothing_here": 1}):
        expected = {id: after for state, after in SWEPT.items() for id in ids[state]}
        await harness.until(lambda: _are(harness, expected), "the services")


@pytest.mark.parametrize("text", TEXTS)
async def test_river_reads_and_works_a_row_with_replaced_characters(
    harness: Harness, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """18, 31: River reads and works jobs whose errors, outputs and metadata had unstorable text."""
    caplog.set_level(
        logging.CRITICAL, "millhand"
    )  # half a character in the log is nothing that pytest can report
    said, kept = TEXTS[text]
    async with harness.working("python", "ours"):
        failed = await harness.control("python").insert(
            ["output", said], ["metadata", "seen", said], ["retry_in", 3600], ["fail", said]
        )
        neighbour = await harness.control("go").insert()
        await harness.events.wait("job_failed", job=failed)
        await harness.events.wait("job_completed", job=neighbour)
    read = await command_runner(harness, "go").ask("job_get", job=failed)
    await harness.fetch(
        "UPDATE /* schema */river_job SET args = '{\"do\": []}', state = 'available', scheduled_at = now() WHERE id = $1",
        failed,
    )
    async with harness.working("go", "theirs"):
        await harness.events.wait("job_completed", job=failed, client="theirs")

    assert [one["error"] for one in read["errors"]] == [f"Boom: {kept}"]
    assert (read["metadata"]["output"], read["metadata"]["seen"]) == (kept, kept)
    assert (await harness.row(failed))["attempted_by"] == ["ours", "theirs"]


@pytest.mark.parametrize("topic", ["insert", "control", "leadership"])
async def test_clients_ignore_invalid_notifications(harness: Harness, topic: str) -> None:
    """6, 25, 27: After invalid notifications, a Go client and a Millhand client obey cancels and pauses."""
    async with (
        harness.working("go", leads=True, poll_seconds=60.0, queues={"go": 5}),
        harness.working("python", leads=True, poll_seconds=60.0, queues={"python": 5}),
    ):
        for language in LANGUAGES:  # the fetches with which they started are over
            await harness.events.wait("job_completed", job=await harness.control("go").insert(queue=language))
        for payload in NOT_NOTIFICATIONS:
            await harness.fetch("SELECT pg_notify($1, $2)", f"{harness.schema}.river_{topic}", payload)
        ids = {
            language: await harness.control("go").insert(["hold"], queue=language) for language in LANGUAGES
        }
        for id in ids.values():
            await harness.events.wait("held", job=id)
            await harness.control("python").cancel(id)
            await harness.events.wait("job_cancelled", job=id)
        await harness.control("go").pause("*")
        for language in LANGUAGES:
            await harness.events.wait("queue_paused", queue=language, client=f"{language}_a")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_insert_refuses_a_batch_with_a_kind_of_128_characters(
    harness: Harness, language: Language
) -> None:
    """8: An invalid job makes its whole batch fail, inserted or copied; the next batch is worked."""
    good = {"kind": "act", "text": '{"do":[]}', "opts": {}}
    at = command_runner(harness, language)

    for bad in ({**good, "kind": "k" * 128}, {**good, "opts": {"queue": "default\n"}}):
        for is_fast in (False, True):
            assert set(await at.insert([good, bad], fast=is_fast)) == {"refused"}
    assert await harness.rows() == []
    async with harness.working(language):
        assert await at.insert([good], fast=True) == 1
        [row] = await harness.rows()
        await harness.events.wait("job_completed", job=row["id"])


async def _inserted(harness: Harness, odd: str) -> list[int]:
    """Let River insert three jobs, make the second one bad, and return their IDs."""
    ids = [one["id"] for one in await harness.control("go").insert_many(JOBS)]
    await _go_bad(harness, odd)
    return ids


async def _go_bad(harness: Harness, odd: str) -> None:
    await harness.fetch(f"UPDATE /* schema */river_job SET {odd} WHERE args ->> 'what' = 'odd'")


async def _is_readable(harness: Harness, id: int) -> bool:
    """Return whether River reads a row. It does not read times of minus infinity."""
    return "refused" not in await command_runner(harness, "go").ask("job_peek", job=id)


async def _listed(harness: Harness) -> list[int]:
    page: Row = await command_runner(harness, "go").ask("job_list", limit=10, order_by="id", filters={})
    ids: list[int] = page["ids"]
    return ids


async def _states(harness: Harness) -> dict[int, str]:
    """Return the states of all jobs; their rows may be more than a reader of JSON can take."""
    rows = await harness.fetch("SELECT id, state::text FROM /* schema */river_job")
    return {row["id"]: row["state"] for row in rows}


async def _are(harness: Harness, expected: dict[int, set[str]]) -> bool:
    """Return whether exactly the expected jobs remain, each in one of its states."""
    states = await _states(harness)
    return states.keys() == expected.keys() and all(states[id] in expected[id] for id in states)
