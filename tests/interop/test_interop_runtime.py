"""The outcomes of attempts and the changes of a running client, by scenario, in both languages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language, Row
from river_program import RiverError

from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import ConfigError

HOUR = 3600
# Kind, script, options, and the event: whatever an attempt can end in. Its row must be the same in both languages.
ENDINGS: dict[str, tuple[str, list[list[Any]], dict[str, Any], str]] = {
    "returns": ("act", [], {}, "job_completed"),
    "returns with output and metadata": (
        "act",
        [["output", {"n": 1}], ["metadata", "seen", True]],
        {},
        "job_completed",
    ),
    "fails": ("act", [["retry_in", HOUR], ["fail", "boom"]], {}, "job_failed"),
    "fails, tried again soon": ("act", [["retry_in", 4], ["fail", "boom"]], {}, "job_failed"),
    "fails with output": ("act", [["retry_in", HOUR], ["output", 1], ["fail", "boom"]], {}, "job_failed"),
    "fails for the last time": ("act", [["fail", "boom"]], {"max_attempts": 1}, "job_failed"),
    "panics": ("act", [["retry_in", HOUR], ["panic", "boom"]], {}, "job_failed"),
    "panics for the last time": ("act", [["panic", "boom"]], {"max_attempts": 1}, "job_failed"),
    "snoozes": ("act", [["snooze", HOUR]], {}, "job_snoozed"),
    "snoozes its last attempt": ("act", [["snooze", HOUR]], {"max_attempts": 1}, "job_snoozed"),
    "snoozes for a moment": ("act", [["snooze", 4]], {}, "job_snoozed"),
    "cancels": ("act", [["cancel", "not wanted"]], {}, "job_cancelled"),
    "times out": ("brief", [["timeout", 0.05], ["retry_in", HOUR], ["hold"]], {}, "job_failed"),
    "times out for the last time": (
        "brief",
        [["timeout", 0.05], ["hold"]],
        {"max_attempts": 1},
        "job_failed",
    ),
    "returns in spite of its timeout": (
        "brief",
        [["timeout", 0.05], ["hold"], ["output", 1]],
        {},
        "job_completed",
    ),
}
# What a row says of the error of its attempt.
TEXTS: dict[Language, dict[str, str]] = {
    "go": {"fails": "boom", "panics": "boom", "cancels": "JobCancelError: not wanted"},
    "python": {"fails": "Boom: boom", "panics": "Boom: boom", "cancels": "JobCancelError: not wanted"},
}
TIMED_OUT: dict[Language, str] = {"go": "context deadline exceeded", "python": "JobTimeout: "}


async def test_each_outcome_leaves_the_same_row_and_event(harness: Harness) -> None:
    """
    single_implementation_worker_outcomes, timeout_cancellation, panic_attempt_trace.

    Each outcome leaves the same row and the same event in both languages.
    """
    rows: dict[Language, dict[str, Row]] = {}
    for language in LANGUAGES:
        async with harness.working(language, kinds=("act", "brief")):
            ids = {
                name: await harness.control(language).insert(*acts, kind=kind, **opts)
                for name, (kind, acts, opts, _) in ENDINGS.items()
            }
            for name, (*_, event) in ENDINGS.items():
                await harness.events.wait(event, job=ids[name])
        rows[language] = {name: await harness.row(id) for name, id in ids.items()}

    theirs, ours = [{name: _facts(row) for name, row in rows[language].items()} for language in LANGUAGES]
    assert ours == theirs
    for language in LANGUAGES:
        reported = {name: row["errors"][-1]["error"] for name, row in rows[language].items() if row["errors"]}
        assert {name: reported[name] for name in TEXTS[language]} == TEXTS[language]
        assert reported["times out"].startswith(TIMED_OUT[language])
        assert rows[language]["panics"]["errors"][-1]["trace"]


def _facts(row: Row) -> Row:
    """Return the fields that are equal in both languages: all but times, names and error texts."""
    return {
        "attempt": row["attempt"],
        "errors": [(one["attempt"], sorted(one)) for one in row["errors"] or ()],
        "is_finalized": row["finalized_at"] is not None,
        "is_later": row["scheduled_at"] > row["attempted_at"],
        "max_attempts": row["max_attempts"],
        "metadata": row["metadata"],
        "num_clients": len(row["attempted_by"]),
        "state": row["state"],
    }


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_runs_as_many_waiting_jobs_as_it_has_slots(harness: Harness, language: Language) -> None:
    """barrier_wait_and_release; a client runs one job for each slot, and the next one when a slot is free."""
    async with harness.working(language, queues={"default": 3}) as member:
        control = harness.control(language)
        ids = [await control.insert(["hold"]) for _ in range(3)]
        for id in ids:
            await harness.events.wait("held", job=id)
        behind = await control.insert()
        during = {
            row["id"]: (row["state"], row["attempt"], row["attempted_by"]) for row in await harness.rows()
        }
        for id in ids[1:]:
            await member.release(id)
        await harness.events.wait("job_completed", job=behind)
        still = await harness.row(ids[0])
        await member.release(ids[0])
        await harness.events.wait("job_completed", job=ids[0])

    assert during == {**{id: ("running", 1, [f"{language}_a"]) for id in ids}, behind: ("available", 0, None)}
    assert (still["state"], still["finalized_at"]) == ("running", None)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_adds_and_removes_a_queue_while_it_runs(harness: Harness, language: Language) -> None:
    """
    dynamic_queue_add_reconfigure_remove.

    A client changes a queue's settings by removing and adding it, and refuses to add it twice.
    """
    control = harness.control(language)
    async with harness.working(language, poll_seconds=60.0) as member:
        queues = _Queues(harness, member)
        first = await control.insert(queue="later")
        await queues.add("later", 1)
        await harness.events.wait("job_completed", job=first)
        with pytest.raises((RiverError, ConfigError), match="later"):
            await queues.add("later", 2)
        await queues.remove("later")
        with pytest.raises((RiverError, ConfigError), match="later"):
            await queues.remove("later")
        both = [await control.insert(["hold"], queue="later") for _ in range(2)]
        await harness.events.wait("job_completed", job=await control.insert())
        left = [(await harness.row(id))["state"] for id in both]
        await queues.add("later", 2)
        for id in both:
            await harness.events.wait("held", job=id)
        async with asyncio.TaskGroup() as removing:
            removing.create_task(queues.remove("later"))
            for id in both:
                await member.release(id)

    assert left == ["available"] * 2
    assert [row["state"] for row in await harness.rows("WHERE id = ANY($1)", both)] == ["completed"] * 2


class _Queues:
    """Adds queues to a member and removes them."""

    def __init__(self, harness: Harness, member: Any) -> None:
        self._member = member
        self._harness = harness

    async def add(self, name: str, max_workers: int) -> None:
        if hasattr(self._member, "client"):
            await self._member.client.add_queue(name, max_workers)
        else:
            await self._harness.go.call("add_queue", id=self._member.id, queue=name, limit=max_workers)

    async def remove(self, name: str) -> None:
        if hasattr(self._member, "client"):
            await self._member.client.remove_queue(name)
        else:
            await self._harness.go.call("remove_queue", id=self._member.id, queue=name)


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_reserved_metadata_continues_in_the_other_language(
    harness: Harness, first: Language, second: Language
) -> None:
    """
    reserved_metadata_cross_engine.

    Both languages refuse to set a reserved key, and continue the other's counters.
    """
    script = [
        ["metadata", "mine", {"n": 1}],
        ["output", "first"],
        ["snooze_times", 2, HOUR],
        ["metadata", "river:rescue_count", 7],
    ]
    id = await harness.control(first).insert(*script, metadata={"given": [1]}, max_attempts=1)

    seen = []
    for language in (first, second):
        await harness.fetch("UPDATE /* schema */river_job SET state = 'available', scheduled_at = now()")
        async with harness.working(language, language):
            await harness.events.wait("job_snoozed", job=id, client=language)
        seen.append((await harness.row(id))["metadata"])
    await harness.fetch("UPDATE /* schema */river_job SET state = 'available', scheduled_at = now()")
    async with harness.working(second, second):
        await harness.events.wait("job_failed", job=id)

    expected = {"given": [1], "mine": {"n": 1}, "output": "first"}
    row = await harness.row(id)
    assert seen == [{**expected, "snoozes": n} for n in (1, 2)]
    assert row["metadata"] == {**expected, "snoozes": 2}
    assert "river:" in row["errors"][0]["error"]


@pytest.mark.parametrize(("commander", "worker"), BOTH_WAYS)
@pytest.mark.parametrize("commit", [True, False])
async def test_cancel_takes_effect_when_its_transaction_commits(
    harness: Harness, commander: Language, worker: Language, commit: bool
) -> None:
    """transactional_cross_language_cancel; a cancel that is rolled back reaches no job."""
    async with harness.working(worker, poll_seconds=60.0) as member:
        id, beacon = [await harness.control(worker).insert(["hold"]) for _ in range(2)]
        waiting = await harness.control(worker).insert(pending=True)
        for one in (id, beacon):
            await harness.events.wait("held", job=one)
        await _cancel_in_transaction(harness, commander, [id, waiting], commit=commit)
        # Notifications of one channel arrive in order.
        await harness.control(commander).cancel(beacon)
        await harness.events.wait("job_cancelled", job=beacon)
        if commit:
            await harness.events.wait("job_cancelled", job=id)
        else:
            await member.release(id)
            await harness.events.wait("job_completed", job=id)

    rows = {row["id"]: row for row in await harness.rows()}
    expected = ("cancelled", "cancelled") if commit else ("completed", "pending")
    assert (rows[id]["state"], rows[waiting]["state"]) == expected
    assert ("cancel_attempted_at" in rows[id]["metadata"]) == commit


async def _cancel_in_transaction(
    harness: Harness, language: Language, ids: list[int], *, commit: bool
) -> None:
    if language == "go":
        await harness.go.call("begin", tx="cancel")
        for id in ids:
            await harness.go.call("cancel_tx", tx="cancel", schema=harness.schema, job=id)
        await harness.go.call("end", tx="cancel", commit=commit)
        return
    async with Client(harness.url, Config(schema=harness.schema)) as client:
        transaction = harness.connection.transaction()
        await transaction.start()
        for id in ids:
            await client.jobs.cancel(id, tx=harness.connection)
        await (transaction.commit() if commit else transaction.rollback())


# What a row is made to be, and what becomes of it on its last attempt.
ODD_ROWS = {
    "errors that are no objects": ("""errors = ARRAY['"text"', '[1]', '17']::jsonb[]""", "completed"),
    "an error with an odd instant": (
        """errors = ARRAY['{"at": "x", "attempt": "x"}']::jsonb[]""",
        "completed",
    ),
    "metadata that is no object": ("metadata = '[1]'", "completed"),
    "args that are no object": ("args = '[1]'", "discarded"),
    "args of another shape": ("""args = '{"do": 5}'""", "discarded"),
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("odd", "state"), ODD_ROWS.values(), ids=ODD_ROWS)
async def test_undecodable_row_does_not_affect_jobs_fetched_with_it(
    harness: Harness, language: Language, odd: str, state: str
) -> None:
    """claimed_row_decode_isolation; the jobs of the same fetch complete, and the bad job completes or is discarded."""
    control = harness.control("go")
    bad, *good = [await control.insert() for _ in range(4)]
    await harness.fetch(f"UPDATE /* schema */river_job SET {odd}, max_attempts = 1 WHERE id = $1", bad)

    async with harness.working(language):
        for id in good:
            await harness.events.wait("job_completed", job=id)
        row = await harness.until_state(bad, "completed", "discarded")

    assert (row["state"], row["attempt"]) == (state, 1)
