"""Jobs that one language inserts and the other works; what both accept, and whom they wake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from interop_room import BOTH_WAYS, LANGUAGES, Language, Room, insert_opts
from river_program import RiverError, RiverProgram

from millhand.args.codec import RawArgs
from millhand.client import Client
from millhand.config import Config
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.errors import DriverError, InvalidJob
from millhand.insert_opts import insert_params_many
from millhand.testing import ManualClock

NOW = ManualClock().now()

# Whatever differs from job to job.
CHANGING = {"attempted_at", "created_at", "finalized_at", "id", "scheduled_at"}

ARGS = (
    {},
    {"text": 'é ü 日本語 🦀 <&> "quoted" \\ / \u2028 \t\n\x7f'},
    {"big": 12345678901234567890123, "negative": -(2**63), "small": 1e-7, "float": 1.5, "large": 1e21},
    {"nested": {"list": [1, [2, {"three": None}], True], "empty": {}, "": []}},
    {"z": 1, "a": 2, "A": 3, "ключ": 4},
)

# An option, its values, and whether both must take or refuse them. What differs is told in docs/reference/river.md.
QUEUES = {
    "a": True,
    "a_b": True,
    "a-b": True,
    "a|b": True,
    "default9": True,
    "q" * 64: True,
    "q" * 65: False,
    "A": False,
    "a--b": False,
    "a__b": False,
    "a_": False,
    "-a": False,
    "a.b": False,
    "é": False,
    "a\n": False,
    "a b": False,
}
TAGS = {
    "tag": True,
    "a-b": True,
    "a_b": True,
    "ABC": True,
    "t" * 255: True,
    "t" * 256: False,
    "ab": False,
    "a": False,
    "": False,
    "-ab": False,
    "ab-": False,
    "é-bc": False,
    "bcé": False,
    "a,b": False,
    "tag\n": False,
}
PRIORITIES = {1: True, 4: True, 5: False, -1: False}
KINDS = {"k": True, "k" * 127: True, "k" * 128: False, "é ?": True, "": False}
ATTEMPTS = {1: True, 32_767: True, -1: False}
MATRIX = [
    *(({"queue": value}, "kind", takes) for value, takes in QUEUES.items()),
    *(({"tags": [value]}, "kind", takes) for value, takes in TAGS.items()),
    *(({"priority": value}, "kind", takes) for value, takes in PRIORITIES.items()),
    *(({"max_attempts": value}, "kind", takes) for value, takes in ATTEMPTS.items()),
    *(({}, kind, takes) for kind, takes in KINDS.items()),
]


@pytest.mark.parametrize(("inserter", "worker"), BOTH_WAYS)
async def test_client_works_a_job_of_the_other_language(
    room: Room, inserter: Language, worker: Language
) -> None:
    """
    4: mixed: candidate_insert_reference_work, reference_insert_candidate_work.

    The row is the one that River itself leaves.
    """
    async with room.working(worker, "worker"):
        id = await room.hand(inserter).insert()
        await room.told.wait("job_completed", job=id, client="worker")

    row = await room.row(id)
    assert {name: value for name, value in row.items() if name not in CHANGING} == {
        "args": {"do": []},
        "attempt": 1,
        "attempted_by": ["worker"],
        "errors": None,
        "kind": "act",
        "max_attempts": 25,
        "metadata": {},
        "priority": 1,
        "queue": "default",
        "state": "completed",
        "tags": [],
        "unique_key": None,
        "unique_states": None,
    }
    assert row["created_at"] <= row["scheduled_at"] <= row["attempted_at"] <= row["finalized_at"]


@pytest.mark.parametrize(("inserter", "worker"), BOTH_WAYS)
async def test_worker_receives_the_args_of_the_other_language_unchanged(
    room: Room, inserter: Language, worker: Language
) -> None:
    """5: Unicode, integers of any size, and nested and empty values reach the other language's worker unchanged."""
    jobs = [{"kind": "act", "args": {"do": [], **args}, "opts": {}} for args in ARGS]

    async with room.working(worker, "worker"):
        inserted = await room.hand(inserter).insert_many(jobs)
        begun = [await room.told.wait("begun", job=one["id"]) for one in inserted]

    assert [line["args"] for line in begun] == [job["args"] for job in jobs]


@pytest.mark.parametrize(("inserter", "worker"), BOTH_WAYS)
async def test_insert_wakes_a_client_of_the_other_language(
    room: Room, inserter: Language, worker: Language
) -> None:
    """6: mixed: notification_only_wakeups; with polls a minute apart, only the notification can wake the client."""
    async with room.working(worker, "worker", poll_seconds=60.0):
        first = await room.hand(worker).insert()
        await room.told.wait("job_completed", job=first)  # the fetch with which it started is over
        id = await room.hand(inserter).insert()
        await room.told.wait("job_completed", job=id)

    assert (await room.row(id))["state"] == "completed"


@pytest.fixture
async def public_room(
    river: RiverProgram, river_path: Any, driver: AsyncpgDriver, postgres_url: str
) -> AsyncIterator[Room]:
    """A room without a schema's name: what is in the search path."""
    connection = await asyncpg.connect(postgres_url)
    room = Room(connection, driver, river, river_path, postgres_url)
    await room.open()
    yield room
    await room.close()
    await connection.execute("TRUNCATE river_job, river_leader, river_queue RESTART IDENTITY")
    await connection.close()


@pytest.mark.parametrize(("inserter", "worker"), BOTH_WAYS)
async def test_both_languages_use_the_same_channels_by_search_path(
    public_room: Room, inserter: Language, worker: Language
) -> None:
    """4, 6, 25: Without a configured schema, both languages use the same channels for inserts and cancels."""
    room, hand = public_room, public_room.hand(inserter)
    async with room.working(worker, "worker", poll_seconds=60.0):
        await room.told.wait("job_completed", job=await room.hand(worker).insert())
        id = await hand.insert(["hold"])
        await room.told.wait("held", job=id)
        await hand.cancel(id)
        await room.told.wait("job_cancelled", job=id)

    assert (await room.row(id))["state"] == "cancelled"


async def test_millhand_notifies_once_a_window_for_a_hundred_inserts(room: Room) -> None:
    """7: All inserts of one window cause one notification, and one more when the window closes."""
    heard = await room.on_inserts()
    config = Config(
        fetch_cooldown=timedelta(seconds=60), fetch_poll_interval=timedelta(seconds=60), schema=room.schema
    )
    async with Client(room.url, config) as client:
        for _ in range(100):
            await client.insert(RawArgs("act", "{}"))

    await room.until_heard(heard, 2)
    assert heard == [{"queue": "default"}] * 2


@pytest.mark.parametrize("language", LANGUAGES)
async def test_insert_that_is_rolled_back_sends_no_notification(room: Room, language: Language) -> None:
    """
    7: transactional_insert_notification_commit_only.

    Of two transactions, only the committed one sends a notification.
    """
    heard = await room.on_inserts()

    await _insert_in_transaction(room, language, "rolled", commit=False)
    await _insert_in_transaction(room, language, "committed", commit=True)

    await room.until_heard(heard, 1)
    assert heard == [{"queue": "committed"}]
    assert [row["queue"] for row in await room.rows()] == ["committed"]


async def test_both_languages_accept_and_refuse_the_same_insert_options(room: Room) -> None:
    """8: Both languages accept and refuse the same queues, tags, priorities, attempts and kinds."""
    cases = [{"args": {}, "kind": kind, "opts": opts} for opts, kind, _ in MATRIX]
    expected = [(opts, kind[:9], takes) for opts, kind, takes in MATRIX]

    river = await room.go.call("unique", schema=room.schema, cases=cases)

    theirs = [
        (opts, kind[:9], "error" not in one) for (opts, kind, _), one in zip(MATRIX, river, strict=True)
    ]
    ours = [(opts, kind[:9], _is_taken(opts, kind)) for opts, kind, _ in MATRIX]
    assert theirs == expected
    assert ours == expected


@pytest.mark.parametrize("language", LANGUAGES)
async def test_scheduled_and_pending_jobs_are_not_announced(room: Room, language: Language) -> None:
    """9: A job with a past `scheduled_at` is scheduled, a pending job stays pending, and neither is announced."""
    heard = await room.on_inserts()
    hand = room.hand(language)

    past = await hand.insert(scheduled_at="2020-01-02T03:04:05Z")
    pending = await hand.insert(pending=True)
    both = await hand.insert(pending=True, scheduled_at="2020-01-02T03:04:05Z")
    now = await hand.insert(queue="now")
    await room.until_heard(heard, 1)

    states = {row["id"]: row["state"] for row in await room.rows()}
    assert states == {past: "scheduled", pending: "pending", both: "pending", now: "available"}
    assert heard == [{"queue": "now"}]
    assert (await room.row(past))["scheduled_at"] == "2020-01-02T03:04:05+00:00"


@pytest.mark.parametrize("language", LANGUAGES)
async def test_failed_insert_aborts_the_transaction_of_its_caller(room: Room, language: Language) -> None:
    """
    46: transaction_abort_rollback_visibility.

    Without a savepoint, a failed insert aborts the caller's whole transaction.
    """
    unique = {"by_queue": True}
    jobs = [{"kind": "act", "args": {"do": []}, "opts": {"unique": unique, "queue": "twice"}}] * 2
    one = [{"kind": "act", "args": {"do": []}, "opts": {}}]

    if language == "go":
        await room.go.call("begin", tx="tx")
        await room.go.call("insert", schema=room.schema, tx="tx", jobs=one)
        for again in (jobs, one):
            with pytest.raises(RiverError) as refused:
                await room.go.call("insert", schema=room.schema, tx="tx", jobs=again)
            assert refused.value.sqlstate == ("21000" if again is jobs else "25P02")
        await room.go.call("end", tx="tx")
    else:
        async with Client(room.url, Config(schema=room.schema)) as client:
            transaction = room.connection.transaction()
            await transaction.start()
            await client.insert(RawArgs("act", "{}"), tx=room.connection)
            pairs = [(RawArgs("act", "{}"), insert_opts(jobs[0]["opts"]))] * 2
            for again, sqlstate in ((pairs, "21000"), (pairs[:1], "25P02")):
                with pytest.raises(DriverError) as failed:
                    await client.insert_many(again, tx=room.connection)
                assert failed.value.sqlstate == sqlstate
            await transaction.rollback()

    assert await room.rows() == []


async def _insert_in_transaction(room: Room, language: Language, queue: str, *, commit: bool) -> None:
    if language == "go":
        await room.go.call("begin", tx="tx")
        jobs = [{"kind": "act", "args": {"do": []}, "opts": {"queue": queue}}]
        await room.go.call("insert", schema=room.schema, tx="tx", jobs=jobs)
        await room.go.call("end", tx="tx", commit=commit)
        return
    async with Client(room.url, Config(schema=room.schema)) as client:
        transaction = room.connection.transaction()
        await transaction.start()
        await client.insert(RawArgs("act", "{}"), insert_opts({"queue": queue}), tx=room.connection)
        await (transaction.commit() if commit else transaction.rollback())


def _is_taken(opts: dict[str, Any], kind: str) -> bool:
    try:
        insert_params_many([(RawArgs(kind, "{}"), insert_opts(opts))], now=NOW)[0]
    except InvalidJob:
        return False
    return True
