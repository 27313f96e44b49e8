"""What becomes of attempts, and what a client does while it runs: scenario by scenario, in both languages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from interop_room import BOTH_WAYS, LANGUAGES, Language, Room, Row
from river_program import RiverError

from millhand.client import Client
from millhand.config import Config
from millhand.errors import ConfigError

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


async def test_each_outcome_leaves_the_same_row_and_event(room: Room) -> None:
    """
    single_implementation_worker_outcomes, timeout_cancellation, panic_attempt_trace.

    Each outcome leaves the same row and the same event in both languages.
    """
    rows: dict[Language, dict[str, Row]] = {}
    for language in LANGUAGES:
        async with room.working(language, kinds=("act", "brief")):
            ids = {
                name: await room.hand(language).insert(*acts, kind=kind, **opts)
                for name, (kind, acts, opts, _) in ENDINGS.items()
            }
            for name, (*_, event) in ENDINGS.items():
                await room.told.wait(event, job=ids[name])
        rows[language] = {name: await room.row(id) for name, id in ids.items()}

    theirs, ours = [{name: _facts(row) for name, row in rows[language].items()} for language in LANGUAGES]
    assert ours == theirs
    for language in LANGUAGES:
        told = {name: row["errors"][-1]["error"] for name, row in rows[language].items() if row["errors"]}
        assert {name: told[name] for name in TEXTS[language]} == TEXTS[language]
        assert told["times out"].startswith(TIMED_OUT[language])
        assert rows[language]["panics"]["errors"][-1]["trace"]


def _facts(row: Row) -> Row:
    """Return what is the same in both languages: all but instants, names, and the words of errors."""
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
async def test_client_runs_as_many_waiting_jobs_as_it_has_slots(room: Room, language: Language) -> None:
    """barrier_wait_and_release; a client runs one job for each slot, and the next one when a slot is free."""
    async with room.working(language, queues={"default": 3}) as member:
        hand = room.hand(language)
        ids = [await hand.insert(["hold"]) for _ in range(3)]
        for id in ids:
            await room.told.wait("held", job=id)
        behind = await hand.insert()
        during = {row["id"]: (row["state"], row["attempt"], row["attempted_by"]) for row in await room.rows()}
        for id in ids[1:]:
            await member.release(id)
        await room.told.wait("job_completed", job=behind)
        still = await room.row(ids[0])
        await member.release(ids[0])
        await room.told.wait("job_completed", job=ids[0])

    assert during == {**{id: ("running", 1, [f"{language}_a"]) for id in ids}, behind: ("available", 0, None)}
    assert (still["state"], still["finalized_at"]) == ("running", None)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_adds_and_removes_a_queue_while_it_runs(room: Room, language: Language) -> None:
    """
    dynamic_queue_add_reconfigure_remove.

    A client changes a queue's settings by removing and adding it, and refuses to add it twice.
    """
    hand = room.hand(language)
    async with room.working(language, poll_seconds=60.0) as member:
        queues = _Queues(room, member)
        first = await hand.insert(queue="later")
        await queues.add("later", 1)
        await room.told.wait("job_completed", job=first)
        with pytest.raises((RiverError, ConfigError), match="later"):
            await queues.add("later", 2)
        await queues.remove("later")
        with pytest.raises((RiverError, ConfigError), match="later"):
            await queues.remove("later")
        both = [await hand.insert(["hold"], queue="later") for _ in range(2)]
        await room.told.wait("job_completed", job=await hand.insert())
        left = [(await room.row(id))["state"] for id in both]
        await queues.add("later", 2)
        for id in both:
            await room.told.wait("held", job=id)
        async with asyncio.TaskGroup() as removing:
            removing.create_task(queues.remove("later"))
            for id in both:
                await member.release(id)

    assert left == ["available"] * 2
    assert [row["state"] for row in await room.rows("WHERE id = ANY($1)", both)] == ["completed"] * 2


class _Queues:
    """Adds queues to a member and removes them."""

    def __init__(self, room: Room, member: Any) -> None:
        self._member = member
        self._room = room

    async def add(self, name: str, max_workers: int) -> None:
        if hasattr(self._member, "client"):
            await self._member.client.add_queue(name, max_workers)
        else:
            await self._room.go.call("add_queue", id=self._member.id, queue=name, limit=max_workers)

    async def remove(self, name: str) -> None:
        if hasattr(self._member, "client"):
            await self._member.client.remove_queue(name)
        else:
            await self._room.go.call("remove_queue", id=self._member.id, queue=name)


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_reserved_metadata_continues_in_the_other_language(
    room: Room, first: Language, second: Language
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
    id = await room.hand(first).insert(*script, metadata={"given": [1]}, max_attempts=1)

    seen = []
    for language in (first, second):
        await room.fetch("UPDATE /* schema */river_job SET state = 'available', scheduled_at = now()")
        async with room.working(language, language):
            await room.told.wait("job_snoozed", job=id, client=language)
        seen.append((await room.row(id))["metadata"])
    await room.fetch("UPDATE /* schema */river_job SET state = 'available', scheduled_at = now()")
    async with room.working(second, second):
        await room.told.wait("job_failed", job=id)

    expected = {"given": [1], "mine": {"n": 1}, "output": "first"}
    row = await room.row(id)
    assert seen == [{**expected, "snoozes": n} for n in (1, 2)]
    assert row["metadata"] == {**expected, "snoozes": 2}
    assert "river:" in row["errors"][0]["error"]


@pytest.mark.parametrize(("commander", "worker"), BOTH_WAYS)
@pytest.mark.parametrize("commit", [True, False])
async def test_cancel_takes_effect_when_its_transaction_commits(
    room: Room, commander: Language, worker: Language, commit: bool
) -> None:
    """transactional_cross_language_cancel; a cancel that is rolled back reaches no job."""
    async with room.working(worker, poll_seconds=60.0) as member:
        id, beacon = [await room.hand(worker).insert(["hold"]) for _ in range(2)]
        waiting = await room.hand(worker).insert(pending=True)
        for one in (id, beacon):
            await room.told.wait("held", job=one)
        await _cancel_in_transaction(room, commander, [id, waiting], commit=commit)
        # What is told later on the same channel is heard later.
        await room.hand(commander).cancel(beacon)
        await room.told.wait("job_cancelled", job=beacon)
        if commit:
            await room.told.wait("job_cancelled", job=id)
        else:
            await member.release(id)
            await room.told.wait("job_completed", job=id)

    rows = {row["id"]: row for row in await room.rows()}
    expected = ("cancelled", "cancelled") if commit else ("completed", "pending")
    assert (rows[id]["state"], rows[waiting]["state"]) == expected
    assert ("cancel_attempted_at" in rows[id]["metadata"]) == commit


async def _cancel_in_transaction(room: Room, language: Language, ids: list[int], *, commit: bool) -> None:
    if language == "go":
        await room.go.call("begin", tx="cancel")
        for id in ids:
            await room.go.call("cancel_tx", tx="cancel", schema=room.schema, job=id)
        await room.go.call("end", tx="cancel", commit=commit)
        return
    async with Client(room.url, Config(schema=room.schema)) as client:
        transaction = room.connection.transaction()
        await transaction.start()
        for id in ids:
            await client.jobs.cancel(id, tx=room.connection)
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
    room: Room, language: Language, odd: str, state: str
) -> None:
    """claimed_row_decode_isolation; the jobs of the same fetch complete, and the bad job completes or is discarded."""
    hand = room.hand("go")
    bad, *good = [await hand.insert() for _ in range(4)]
    await room.fetch(f"UPDATE /* schema */river_job SET {odd}, max_attempts = 1 WHERE id = $1", bad)

    async with room.working(language):
        for id in good:
            await room.told.wait("job_completed", job=id)
        row = await room.until_state(bad, "completed", "discarded")

    assert (row["state"], row["attempt"]) == (state, 1)
