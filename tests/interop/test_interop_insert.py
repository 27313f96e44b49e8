"""Jobs that one language inserts and the other works, the accepted options, and the notifications."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language, insert_opts
from river_program import RiverError, RiverProgram

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.errors import DriverError, InvalidJob
from millhand.core.insert_opts import insert_params_many
from millhand.db.driver.asyncpg import AsyncpgDriver
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

# An option, its values, and whether both must take or refuse them. The differences are in docs/reference/river.md.
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
    harness: Harness, inserter: Language, worker: Language
) -> None:
    """
    4: mixed: candidate_insert_reference_work, reference_insert_candidate_work.

    The row is the one that River itself leaves.
    """
    async with harness.working(worker, "worker"):
        id = await harness.control(inserter).insert()
        await harness.events.wait("job_completed", job=id, client="worker")

    row = await harness.row(id)
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
    harness: Harness, inserter: Language, worker: Language
) -> None:
    """5: Unicode, integers of any size, and nested and empty values reach the other language's worker unchanged."""
    jobs = [{"kind": "act", "args": {"do": [], **args}, "opts": {}} for args in ARGS]

    async with harness.working(worker, "worker"):
        inserted = await harness.control(inserter).insert_many(jobs)
        begun = [await harness.events.wait("begun", job=one["id"]) for one in inserted]

    assert [line["args"] for line in begun] == [job["args"] for job in jobs]


@pytest.mark.parametrize(("inserter", "worker"), BOTH_WAYS)
async def test_insert_wakes_a_client_of_the_other_language(
    harness: Harness, inserter: Language, worker: Language
) -> None:
    """6: mixed: notification_only_wakeups; with polls a minute apart, only the notification can wake the client."""
    async with harness.working(worker, "worker", poll_seconds=60.0):
        first = await harness.control(worker).insert()
        await harness.events.wait("job_completed", job=first)  # the fetch with which it started is over
        id = await harness.control(inserter).insert()
        await harness.events.wait("job_completed", job=id)

    assert (await harness.row(id))["state"] == "completed"


@pytest.fixture
async def public_harness(
    river: RiverProgram, river_path: Any, driver: AsyncpgDriver, postgres_url: str
) -> AsyncIterator[Harness]:
    """A harness without a schema name, which uses the search path."""
    connection = await asyncpg.connect(postgres_url)
    harness = Harness(connection, driver, river, river_path, postgres_url)
    await harness.open()
    yield harness
    await harness.close()
    await connection.execute("TRUNCATE river_job, river_leader, river_queue RESTART IDENTITY")
    await connection.close()


@pytest.mark.parametrize(("inserter", "worker"), BOTH_WAYS)
async def test_both_languages_use_the_same_channels_by_search_path(
    public_harness: Harness, inserter: Language, worker: Language
) -> None:
    """4, 6, 25: Without a configured schema, both languages use the same channels for inserts and cancels."""
    harness, control = public_harness, public_harness.control(inserter)
    async with harness.working(worker, "worker", poll_seconds=60.0):
        await harness.events.wait("job_completed", job=await harness.control(worker).insert())
        id = await control.insert(["hold"])
        await harness.events.wait("held", job=id)
        await control.cancel(id)
        await harness.events.wait("job_cancelled", job=id)

    assert (await harness.row(id))["state"] == "cancelled"


async def test_millhand_notifies_once_a_window_for_a_hundred_inserts(harness: Harness) -> None:
    """7: All inserts of one window cause one notification, and one more when the window closes."""
    notifications = await harness.on_inserts()
    config = Config(
        fetch_cooldown=timedelta(seconds=60), fetch_poll_interval=timedelta(seconds=60), schema=harness.schema
    )
    async with Client(harness.url, config) as client:
        for _ in range(100):
            await client.insert(RawArgs("act", "{}"))

    await harness.until_notified(notifications, 2)
    assert notifications == [{"queue": "default"}] * 2


@pytest.mark.parametrize("language", LANGUAGES)
async def test_insert_that_is_rolled_back_sends_no_notification(harness: Harness, language: Language) -> None:
    """
    7: transactional_insert_notification_commit_only.

    Of two transactions, only the committed one sends a notification.
    """
    notifications = await harness.on_inserts()

    await _insert_in_transaction(harness, language, "rolled", commit=False)
    await _insert_in_transaction(harness, language, "committed", commit=True)

    await harness.until_notified(notifications, 1)
    assert notifications == [{"queue": "committed"}]
    assert [row["queue"] for row in await harness.rows()] == ["committed"]


async def test_both_languages_accept_and_refuse_the_same_insert_options(harness: Harness) -> None:
    """8: Both languages accept and refuse the same queues, tags, priorities, attempts and kinds."""
    cases = [{"args": {}, "kind": kind, "opts": opts} for opts, kind, _ in MATRIX]
    expected = [(opts, kind[:9], takes) for opts, kind, takes in MATRIX]

    river = await harness.go.call("unique", schema=harness.schema, cases=cases)

    theirs = [
        (opts, kind[:9], "error" not in one) for (opts, kind, _), one in zip(MATRIX, river, strict=True)
    ]
    ours = [(opts, kind[:9], _is_taken(opts, kind)) for opts, kind, _ in MATRIX]
    assert theirs == expected
    assert ours == expected


@pytest.mark.parametrize("language", LANGUAGES)
async def test_scheduled_and_pending_jobs_are_not_announced(harness: Harness, language: Language) -> None:
    """9: A job with a past `scheduled_at` is scheduled, a pending job stays pending, and neither is announced."""
    notifications = await harness.on_inserts()
    control = harness.control(language)

    past = await control.insert(scheduled_at="2020-01-02T03:04:05Z")
    pending = await control.insert(pending=True)
    both = await control.insert(pending=True, scheduled_at="2020-01-02T03:04:05Z")
    now = await control.insert(queue="now")
    await harness.until_notified(notifications, 1)

    states = {row["id"]: row["state"] for row in await harness.rows()}
    assert states == {past: "scheduled", pending: "pending", both: "pending", now: "available"}
    assert notifications == [{"queue": "now"}]
    assert (await harness.row(past))["scheduled_at"] == "2020-01-02T03:04:05+00:00"


@pytest.mark.parametrize("language", LANGUAGES)
async def test_failed_insert_aborts_the_transaction_of_its_caller(
    harness: Harness, language: Language
) -> None:
    """
    46: transaction_abort_rollback_visibility.

    Without a savepoint, a failed insert aborts the caller's whole transaction.
    """
    unique = {"by_queue": True}
    jobs = [{"kind": "act", "args": {"do": []}, "opts": {"unique": unique, "queue": "twice"}}] * 2
    one = [{"kind": "act", "args": {"do": []}, "opts": {}}]

    if language == "go":
        await harness.go.call("begin", tx="tx")
        await harness.go.call("insert", schema=harness.schema, tx="tx", jobs=one)
        for again in (jobs, one):
            with pytest.raises(RiverError) as refused:
                await harness.go.call("insert", schema=harness.schema, tx="tx", jobs=again)
            assert refused.value.sqlstate == ("21000" if again is jobs else "25P02")
        await harness.go.call("end", tx="tx")
    else:
        async with Client(harness.url, Config(schema=harness.schema)) as client:
            transaction = harness.connection.transaction()
            await transaction.start()
            await client.insert(RawArgs("act", "{}"), tx=harness.connection)
            pairs = [(RawArgs("act", "{}"), insert_opts(jobs[0]["opts"]))] * 2
            for again, sqlstate in ((pairs, "21000"), (pairs[:1], "25P02")):
                with pytest.raises(DriverError) as failed:
                    await client.insert_many(again, tx=harness.connection)
                assert failed.value.sqlstate == sqlstate
            await transaction.rollback()

    assert await harness.rows() == []


async def _insert_in_transaction(harness: Harness, language: Language, queue: str, *, commit: bool) -> None:
    if language == "go":
        await harness.go.call("begin", tx="tx")
        jobs = [{"kind": "act", "args": {"do": []}, "opts": {"queue": queue}}]
        await harness.go.call("insert", schema=harness.schema, tx="tx", jobs=jobs)
        await harness.go.call("end", tx="tx", commit=commit)
        return
    async with Client(harness.url, Config(schema=harness.schema)) as client:
        transaction = harness.connection.transaction()
        await transaction.start()
        await client.insert(RawArgs("act", "{}"), insert_opts({"queue": queue}), tx=harness.connection)
        await (transaction.commit() if commit else transaction.rollback())


def _is_taken(opts: dict[str, Any], kind: str) -> bool:
    try:
        insert_params_many([(RawArgs(kind, "{}"), insert_opts(opts))], now=NOW)[0]
    except InvalidJob:
        return False
    return True
