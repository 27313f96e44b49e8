"""Commands that one language sends and the other obeys."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language
from river_program import RiverError

from millhand.core.errors import JobRunning, NotFound

CANCELLED = "JobCancelError: job cancelled remotely"
MARK = """
UPDATE /* schema */river_job SET metadata = metadata || '{"cancel_attempted_at": "2024-05-01T10:34:56.789Z"}'
WHERE id = $1
"""
# What commands make of a job that does not run, by the state in which it is.
QUEUED = ("available", "scheduled", "retryable", "pending", "completed", "discarded", "cancelled")
# Where it comes from when the world goes back to an instant: nothing that is written down has moved.
INSTANTS = ("attempted_at", "created_at", "finalized_at", "scheduled_at")


@pytest.mark.parametrize(("commander", "worker"), BOTH_WAYS)
async def test_cancel_stops_an_attempt_of_the_other_language(
    harness: Harness, commander: Language, worker: Language
) -> None:
    """
    25: mixed: remote_cancel_notification, runtime: cooperative_remote_cancellation.

    A cancel stops the other language's attempt long before any poll.
    """
    async with harness.working(worker, poll_seconds=60.0):
        id = await harness.control(worker).insert(["hold"])
        await harness.events.wait("held", job=id)
        await harness.control(commander).cancel(id)
        await harness.events.wait("context_done", job=id)
        event = await harness.events.wait("job_cancelled", job=id)

    row = await harness.row(id)
    assert (event["state"], row["state"], row["attempt"]) == ("cancelled", "cancelled", 1)
    assert [one["error"] for one in row["errors"]] == [CANCELLED]
    assert row["finalized_at"] is not None
    assert "cancel_attempted_at" in row["metadata"]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_job_completes_when_its_worker_ignores_a_cancel(harness: Harness, language: Language) -> None:
    """25: If a worker ignores a cancel and succeeds, its job is completed, whichever language sent the cancel."""
    async with harness.working(language):
        id = await harness.control("go").insert(["hold"], ["output", "done"])
        await harness.events.wait("held", job=id)
        await harness.control("go" if language == "python" else "python").cancel(id)
        await harness.events.wait("job_completed", job=id)

    row = await harness.row(id)
    assert (row["state"], row["metadata"]["output"], row["errors"]) == ("completed", "done", None)


@pytest.mark.parametrize("command", ["cancel", "retry"])
async def test_commands_on_idle_jobs_leave_the_same_rows(harness: Harness, command: str) -> None:
    """
    25: storage: differential_job_crud.

    Both languages leave the same row when they cancel or retry a job in each state.
    """
    photos: dict[Language, list[Any]] = {"go": [], "python": []}
    for language in LANGUAGES:
        control = harness.control(language)
        for state in QUEUED:
            id = await harness.control("go").insert(pending=True, max_attempts=3)
            await _force(harness, id, state)
            await getattr(control, command)(id)
            row = await harness.row(id)
            photos[language].append((state, _without_instants(row)))

    assert photos["python"] == photos["go"]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_commands_refuse_missing_jobs_and_the_deletion_of_running_ones(
    harness: Harness, language: Language
) -> None:
    """25: Each language raises its own error for a missing job, and for the deletion of a running job."""
    id = await harness.control("go").insert()
    await harness.fetch("UPDATE /* schema */river_job SET state = 'running' WHERE id = $1", id)
    control = harness.control(language)

    with pytest.raises((RiverError, JobRunning)) as running:
        await control.delete(id)
    for command in (control.cancel, control.retry, control.delete):
        with pytest.raises((RiverError, NotFound)) as missing:
            await command(id + 1)
        assert getattr(missing.value, "kind", "not_found") == "not_found"
    assert getattr(running.value, "kind", "job_running") == "job_running"


@pytest.mark.parametrize("language", LANGUAGES)
async def test_poll_finds_a_cancel_without_a_notification(harness: Harness, language: Language) -> None:
    """
    26: chaos: lost_notification_poll_recovery.

    A client without a listener finds a cancel by its poll within two seconds.
    """
    async with harness.working(language, poll_only=True):
        id = await harness.control(language).insert(["hold"])
        await harness.events.wait("held", job=id)
        await harness.fetch(MARK, id)
        await harness.events.wait("job_cancelled", job=id)

    row = await harness.row(id)
    assert [one["error"] for one in row["errors"]] == [CANCELLED]


@pytest.mark.slow
async def test_client_finds_a_cancel_that_its_listener_missed(harness: Harness) -> None:
    """26: A client with a listener finds a missed cancel by its poll, in both languages."""
    async with harness.working("go", queues={"go": 1}), harness.working("python", queues={"python": 1}):
        ids = [await harness.control(language).insert(["hold"], queue=language) for language in LANGUAGES]
        for id in ids:
            await harness.events.wait("held", job=id)
        await harness.fetch("UPDATE /* schema */river_queue SET paused_at = now()")
        for id in ids:
            await harness.fetch(MARK, id)
        for id in ids:
            await harness.events.wait("job_cancelled", job=id, seconds=100.0)
        for language in LANGUAGES:
            await harness.events.wait("queue_paused", queue=language, seconds=100.0)

    assert [row["state"] for row in await harness.rows()] == ["cancelled"] * 2


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("ending", "num_errors"),
    [(["snooze", 1], 0), (["snooze", 3600], 0), (["fail", "boom"], 1), (["retry_in", 3600], None)],
)
async def test_cancel_without_a_notification_overrides_a_snooze_or_retry(
    harness: Harness, language: Language, ending: list[Any], num_errors: int | None
) -> None:
    """26: A snooze or retry of any length ends as cancelled if the row records a cancel."""
    acts = [ending] if num_errors is not None else [["fail", "boom"], ending]
    async with harness.working(language) as member:
        id = await harness.control(language).insert(["hold"], *acts)
        await harness.events.wait("held", job=id)
        await harness.fetch(MARK, id)
        await member.release(id)
        await harness.events.wait("job_cancelled", job=id)

    row = await harness.row(id)
    assert (row["state"], row["attempt"]) == ("cancelled", 1)
    assert len(row["errors"] or ()) == (1 if num_errors is None else num_errors)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_cancel_without_a_notification_overrides_an_interruption(
    harness: Harness, language: Language
) -> None:
    """
    26: runtime: shutdown_after_cancel_attempt.

    A job with a recorded cancel is cancelled when its client stops and cancels its attempts.
    """
    async with harness.working(language) as member:
        id = await harness.control(language).insert(["hold"])
        await harness.events.wait("held", job=id)
        await harness.fetch(MARK, id)
        await member.stop(cancel=True)

    row = await harness.row(id)
    assert (row["state"], row["errors"]) == ("cancelled", None)


@pytest.mark.parametrize(("commander", "worker"), BOTH_WAYS)
async def test_retried_job_fails_normally_after_a_cancel(
    harness: Harness, commander: Language, worker: Language
) -> None:
    """26: A retry removes the cancel mark, so the next failure is an ordinary failure."""
    id = await harness.control(commander).insert(["retry_in", 3600], ["fail", "boom"])
    await harness.control(commander).cancel(id)
    await harness.control(commander).retry(id)

    async with harness.working(worker):
        await harness.events.wait("job_failed", job=id)

    row = await harness.row(id)
    assert (row["state"], row["attempt"], row["metadata"]) == ("retryable", 1, {})


async def test_client_applies_a_missed_pause_when_its_listener_reconnects(harness: Harness) -> None:
    """26b: chaos: listener_backend_disconnect_reconnect; a reconnected listener reads a missed pause at once."""
    async with harness.working("python", poll_seconds=60.0):
        await harness.events.wait("job_completed", job=await harness.control("python").insert())
        await harness.fetch("UPDATE /* schema */river_queue SET paused_at = now()")
        await harness.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE 'LISTEN \"' || $1 || '.%' AND pid <> pg_backend_pid()",
            harness.schema,
        )
        await harness.events.wait("queue_paused", client="python_a", queue="default")


@pytest.mark.parametrize(("commander", "worker"), BOTH_WAYS)
@pytest.mark.parametrize("name", ["default", "*"])
async def test_client_obeys_pause_and_resume_of_the_other_language(
    harness: Harness, commander: Language, worker: Language, name: str
) -> None:
    """
    27: mixed: pause_resume_notification, remote_queue_subscription_events.

    A client obeys the other language's pause and resume, and running jobs continue.
    """
    control = harness.control(commander)
    running = await control.insert(["hold"])
    # No client polls, so no fetch from before the pause can find a job that is inserted after it.
    async with harness.working(worker, poll_seconds=60.0) as member:
        await harness.events.wait("held", job=running)
        await control.pause(name)
        await harness.events.wait("queue_paused", queue="default")
        waiting = await control.insert()
        await member.release(running)
        await harness.events.wait("job_completed", job=running)
        async with harness.working(commander, "newcomer", poll_seconds=60.0):
            before = await harness.row(waiting)
            await control.resume(name)
            await harness.events.wait("queue_resumed", queue="default", client="newcomer")
            await harness.events.wait("queue_resumed", queue="default", client=f"{worker}_a")
            await harness.events.wait("job_completed", job=waiting)

    assert (before["state"], before["attempt"]) == ("available", 0)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_pause_and_resume_refuse_an_unknown_queue(harness: Harness, language: Language) -> None:
    """
    27: storage: queue_names_and_unknown_queue_control.

    Pausing or resuming an unknown queue raises an error; `*` is accepted without any queue.
    """
    control = harness.control(language)
    await control.pause("*")
    await control.resume("*")

    for command in (control.pause, control.resume):
        with pytest.raises((RiverError, NotFound)):
            await command("nowhere")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_keeps_pause_and_metadata_of_a_queue_at_start(
    harness: Harness, language: Language
) -> None:
    """27, 28: A starting client keeps the pause and the metadata in its queue's row."""
    await harness.fetch(
        "INSERT INTO /* schema */river_queue (name, metadata, paused_at, created_at, updated_at) "
        "VALUES ('default', '{\"a\": 1}', now(), now() - interval '1 day', now() - interval '1 day')"
    )

    async with harness.working(language, queues={"default": 1, "fresh": 1}):
        rows = await harness.fetch(
            "SELECT name, metadata::text, paused_at IS NOT NULL AS is_paused, updated_at > now() - interval '1 minute' "
            "AS is_fresh, created_at < updated_at AS is_old FROM /* schema */river_queue ORDER BY name"
        )

    assert [tuple(row) for row in rows] == [
        ("default", '{"a": 1}', True, True, True),
        ("fresh", "{}", False, True, False),
    ]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_attempt_does_not_finalize_a_job_that_was_changed_meanwhile(
    harness: Harness, language: Language
) -> None:
    """
    30: mixed: external_terminal_completion_race.

    An attempt leaves the state of a job that was deleted, rescued, cancelled or retried meanwhile. River
    merges staged metadata into any such row and emits an event; Millhand does so only if the job is
    finalized.
    """
    async with harness.working(language) as member:
        control = harness.control(language)
        ids = [await control.insert(["hold"], ["metadata", "seen", n], ["fail", "boom"]) for n in range(4)]
        deleted, rescued, cancelled, retried = ids
        for id in ids:
            await harness.events.wait("held", job=id)
        await harness.fetch("DELETE FROM /* schema */river_job WHERE id = $1", deleted)
        for id, state in ((rescued, "retryable"), (cancelled, "cancelled"), (retried, "pending")):
            await _move(harness, id, state)
        for id in ids:
            await member.release(id)
        await harness.events.wait("job_completed", job=await control.insert())
        merged = (rescued, cancelled, retried) if language == "go" else (cancelled,)
        await harness.until(lambda: _all_have_metadata(harness, merged), "the metadata")
        # The events come after the rows.
        await harness.events.wait("job_cancelled", job=cancelled)
        if language == "go":
            await harness.events.wait("job_failed", job=rescued)
        seen = {
            id: [line["event"] for line in harness.events.lines if line.get("job") == id and "state" in line]
            for id in ids
        }

    rows = await harness.rows("WHERE id = ANY($1)", ids)
    states = ["retryable", "cancelled", "pending"]
    assert [(row["id"], row["state"], row["metadata"], row["errors"]) for row in rows] == [
        (id, state, {"seen": n} if id in merged else {}, None)
        for n, (id, state) in enumerate(zip((rescued, cancelled, retried), states, strict=True), 1)
    ]
    told_of_rescued = ["job_failed"] if language == "go" else []
    assert seen == {deleted: [], rescued: told_of_rescued, cancelled: ["job_cancelled"], retried: []}


async def test_unstorable_outcome_does_not_block_other_completions(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """31: If an error or output contains U+0000, jobs beside it still complete and River reads the stored text."""
    caplog.set_level(
        logging.CRITICAL, "millhand"
    )  # half a character in the log is nothing that pytest can report
    text = {"escaped": "a\\u0000b\\ud800c"}
    async with harness.working("python") as member:
        control = harness.control("python")
        bad = [
            await control.insert(["hold"], ["retry_in", 3600], ["fail", text]),
            await control.insert(["hold"], ["output", text]),
        ]
        good = [await control.insert(["hold"]) for _ in range(5)]
        for id in (*bad, *good):
            await harness.events.wait("held", job=id)
        for id in (*bad, *good):
            await member.release(id)
        for id in good:
            await harness.events.wait("job_completed", job=id)
        await harness.events.wait("job_failed", job=bad[0])
        await harness.events.wait("job_completed", job=bad[1])

    failed, completed = [await harness.go.call("get", schema=harness.schema, job=id) for id in bad]
    assert [one["error"] for one in failed["errors"]] == ["Boom: a\ufffdb\ufffdc"]
    assert completed["metadata"]["output"] == "a\ufffdb\ufffdc"


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
@pytest.mark.parametrize("order_by", ["id", "time", "scheduled_at", "finalized_at"])
@pytest.mark.parametrize("descending", [False, True])
async def test_job_list_continues_with_the_other_language_s_cursor(
    harness: Harness, first: Language, second: Language, order_by: str, descending: bool
) -> None:
    """
    42: storage: job_list_cursor_interchange.

    Alternating languages page by page gives the whole list, null instants included.
    """
    await _many_rows(harness)
    states = {"time": ["completed", "available", "running", "discarded"], "finalized_at": None}.get(order_by)
    asked: dict[str, Any] = {"order_by": order_by, "descending": descending}
    if states:
        asked["states"] = states
    whole = {
        language: (await harness.control(language).list(limit=1000, **asked))[0] for language in LANGUAGES
    }

    found: list[int] = []
    cursor: str | None = None
    for page in range(1000):
        language = (first, second)[page % 2]
        if cursor is not None:
            asked["after"] = _as_standard(cursor) if language == "python" and page % 4 < 2 else cursor
        ids, cursor = await harness.control(language).list(limit=3, **asked)
        found += ids
        if not ids or cursor is None:
            break

    assert whole["go"] == whole["python"] == found
    assert len(found) == len(set(found)) > 20


async def _force(harness: Harness, id: int, state: str) -> None:
    """Give a job a past: all attempts used, an error stored, and a cancel mark."""
    sql = """
    UPDATE /* schema */river_job SET
        state = $2::text::/* schema */river_job_state, attempt = 3,
        finalized_at = CASE WHEN $2 IN ('cancelled', 'completed', 'discarded') THEN now() END,
        scheduled_at = now() + CASE WHEN $2 IN ('scheduled', 'retryable') THEN interval '1 h' ELSE interval '-1 h' END,
        metadata = '{"a": 1}'
    WHERE id = $1
    """
    await harness.fetch(sql, id, state)


async def _move(harness: Harness, id: int, state: str) -> None:
    sql = """
    UPDATE /* schema */river_job SET state = $2::text::/* schema */river_job_state,
        finalized_at = CASE WHEN $2 = 'cancelled' THEN now() END
    WHERE id = $1
    """
    await harness.fetch(sql, id, state)


async def _all_have_metadata(harness: Harness, ids: tuple[int, ...]) -> bool:
    return all(row["metadata"] for row in await harness.rows("WHERE id = ANY($1)", list(ids)))


async def _many_rows(harness: Harness) -> None:
    """Insert jobs in all states, some with equal times, and running ones without an attempt."""
    await harness.fetch(
        """
        INSERT INTO /* schema */river_job (
            kind, args, max_attempts, queue, state, scheduled_at, created_at, attempted_at, finalized_at)
        SELECT
            'act', '{}', 25, 'queue' || n % 3, state,
            '2024-05-01T10:00:00Z'::timestamptz + (n % 5) * interval '1.234567 s', '2024-05-01T10:00:00Z',
            CASE WHEN n % 3 > 0 THEN '2024-05-01T10:00:00Z'::timestamptz + (n % 7) * interval '1 s' END,
            CASE WHEN state IN ('cancelled', 'completed', 'discarded')
                THEN '2024-05-02T10:00:00.5Z'::timestamptz + (n % 4) * interval '1 h' END
        FROM generate_series(1, 10) AS n, unnest(enum_range(NULL::/* schema */river_job_state)) AS state
        """
    )


def _as_standard(cursor: str) -> str:
    """Return a cursor in the alphabet of base64 that River's older clients write; ours reads both."""
    return base64.b64encode(base64.urlsafe_b64decode(cursor)).decode()


def _without_instants(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with times reduced to set or null, and without its client."""
    reported = {name: value for name, value in row.items() if name not in (*INSTANTS, "id")}
    reported |= {name: row[name] is not None for name in INSTANTS}
    reported["metadata"] = {
        name: value if name != "cancel_attempted_at" else True for name, value in row["metadata"].items()
    }
    return reported
