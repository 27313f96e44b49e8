"""Attempts: each is fetched once, and both languages count and store them in the same way."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language

from millhand.client import Client
from millhand.core.config import Config
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.error_text import ERROR_LENGTH_MAX

NUM_JOBS = 10_000
NUM_WORKERS = 50
NUM_ERRORS = 1_000

FIRST_ERROR = '{"at": "2024-05-01T10:34:56.789Z", "attempt": 1, "error": "before", "trace": ""}'
UNKNOWN = {
    "go": "job kind is not registered in the client's Workers bundle: only_there",
    "python": "UnknownKind: no worker is registered for kind 'only_there'; known kinds: 'act'",
}


async def test_three_clients_of_each_language_share_a_queue(harness: Harness) -> None:
    """16: mixed_skip_locked_competition; each job is executed once, and each client works by priority."""
    chance = random.Random(7)  # noqa: S311 - the same in each run
    jobs = [
        {"kind": "act", "args": {"do": []}, "opts": {"priority": chance.randint(1, 4)}}
        for _ in range(NUM_JOBS)
    ]
    settings: dict[str, Any] = {"is_quiet": True, "queues": {"default": NUM_WORKERS}}

    async with (
        harness.working("go", "go_a", **settings) as go_a,
        harness.working("go", "go_b", **settings) as go_b,
        harness.working("go", "go_c", **settings) as go_c,
        harness.working("python", "python_a", **settings) as python_a,
        harness.working("python", "python_b", **settings) as python_b,
        harness.working("python", "python_c", **settings) as python_c,
    ):
        # Before all clients work, the fast ones could empty the queue.
        await harness.control("go").insert_many(jobs)
        await harness.until(lambda: _is_all_completed(harness), "the end of all jobs")
        executed = [await one.executed() for one in (go_a, go_b, go_c, python_a, python_b, python_c)]

    assert sorted(one["job"] for member in executed for one in member) == list(range(1, NUM_JOBS + 1))
    assert {one["attempt"] for member in executed for one in member} == {1}
    assert all(executed)
    assert [_num_overtaken([one["priority"] for one in member]) for member in executed] == [0] * 6


@pytest.mark.parametrize("language", LANGUAGES)
async def test_attempted_by_keeps_its_newest_hundred(harness: Harness, language: Language) -> None:
    """17: The fetch after a hundred others drops the oldest client from `attempted_by`."""
    id = await harness.control("go").insert(pending=True)
    before = [f"client_{n}" for n in range(100)]
    sql = (
        "UPDATE /* schema */river_job SET state = 'available', attempt = 20, attempted_by = $2 WHERE id = $1"
    )
    await harness.fetch(sql, id, before)

    async with harness.working(language, "newest"):
        await harness.events.wait("job_completed", job=id)

    assert (await harness.row(id))["attempted_by"] == [*before[1:], "newest"]


async def test_river_reads_every_error_that_millhand_writes(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """18: River reads and works each of a thousand jobs whose errors contain unusual text, such as U+0000."""
    caplog.set_level(logging.CRITICAL, "millhand")  # a thousand unusual lines are of no use
    texts = _odd_texts()
    workers = Workers()

    @workers.add(kind="act", retry=ConstantRetryPolicy(timedelta(hours=1)))
    async def fail(job: Job[dict[str, Any]]) -> None:
        raise ValueError(texts[job.args["n"]])

    jobs = [{"kind": "act", "args": {"do": [], "n": n}, "opts": {}} for n in range(NUM_ERRORS)]
    inserted = await harness.control("python").insert_many(jobs)
    ids = [one["id"] for one in inserted]
    async with Client(
        harness.url,
        Config(heartbeat_interval=None, queues={"default": 100}, schema=harness.schema, workers=workers),
    ):
        await harness.until(lambda: _is_none_left(harness, "retryable"), "a thousand failures")

    read = await asyncio.gather(*(harness.go.call("get", schema=harness.schema, job=id) for id in ids))
    listed, _ = await harness.control("go").list(limit=NUM_ERRORS, order_by="id")
    await harness.fetch("UPDATE /* schema */river_job SET state = 'available', scheduled_at = now()")
    async with harness.working("go", is_quiet=True, queues={"default": 100}):
        await harness.until(lambda: _is_all_completed(harness), "the end of all jobs")

    errors = [one for row in read for one in row["errors"]]
    assert [_without_name(one["error"]) for one in errors] == [_storable(text) for text in texts]
    assert {one["attempt"] for one in errors} == {1}
    assert min(datetime.fromisoformat(one["at"]) for one in errors).year >= 2024
    assert all(one["trace"] for one in errors)
    assert listed == ids


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_both_languages_continue_the_error_count(
    harness: Harness, first: Language, second: Language
) -> None:
    """19: runtime: default_retry_policy_schedule; each language continues the other's backoff and list of errors."""
    id = await harness.control(first).insert(["fail_before", 5], pending=True)
    # The wait after a first failure is a second, and a client that stops late would begin the next attempt.
    await harness.fetch(
        "UPDATE /* schema */river_job SET attempt = 1, errors = ARRAY[$2::text::jsonb] WHERE id = $1",
        id,
        FIRST_ERROR,
    )

    waits = []
    for language in (first, second, first):
        await _make_due(harness, id)
        async with harness.working(language, language):
            await harness.events.wait("job_failed", job=id, client=language, count=1 + waits.count(language))
            told_at = _now()
        waits.append(language)
        row = await harness.row(id)
        num_errors = 1 + len(waits)
        assert _seconds(row["attempted_at"], row["scheduled_at"]) >= num_errors**4 * 0.9
        assert _seconds(told_at, row["scheduled_at"]) <= num_errors**4 * 1.1
    await _make_due(harness, id)
    async with harness.working(second, second):
        await harness.events.wait("job_completed", job=id)

    row = await harness.row(id)
    assert (row["attempt"], row["attempted_by"]) == (5, [first, second, first, second])
    assert [one["attempt"] for one in row["errors"]] == [1, 2, 3, 4]
    assert [sorted(one) for one in row["errors"]] == [["at", "attempt", "error", "trace"]] * 4


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_both_languages_continue_the_snooze_count(
    harness: Harness, first: Language, second: Language
) -> None:
    """
    20: runtime: snooze_once_metadata_transition.

    A snooze does not use up an attempt, and each language continues the other's counter.
    """
    id = await harness.control(first).insert(["snooze_times", 2, 3600], max_attempts=1)

    seen = []
    for language in (first, second):
        await _make_due(harness, id)
        async with harness.working(language, language):
            await harness.events.wait("job_snoozed", job=id, client=language)
        row = await harness.row(id)
        seen.append((row["state"], row["attempt"], row["metadata"], row["errors"]))
    await _make_due(harness, id)
    async with harness.working(first, first):
        await harness.events.wait("job_completed", job=id)

    assert seen == [("scheduled", 0, {"snoozes": n}, None) for n in (1, 2)]
    assert (await harness.row(id))["attempt"] == 1


@pytest.mark.parametrize("language", LANGUAGES)
async def test_short_snooze_leaves_the_job_available(harness: Harness, language: Language) -> None:
    """20: Up to five seconds the row is available at once, and no client fetches it before it is due."""
    id = await harness.control(language).insert(["snooze", 5])

    async with harness.working(language):
        line = await harness.events.wait("job_snoozed", job=id)
        told_at = _now()
    row = await harness.row(id)

    assert (line["state"], row["state"], row["attempt"]) == ("available", "available", 0)
    assert _seconds(row["attempted_at"], row["scheduled_at"]) >= 5.0
    assert _seconds(told_at, row["scheduled_at"]) <= 5.0


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_last_attempt_discards_the_job_in_either_language(
    harness: Harness, first: Language, second: Language
) -> None:
    """21: The second failure of two attempts discards the job, and so does the first of one."""
    control = harness.control(first)
    twice = await control.insert(["retry_in", 3600], ["fail", "boom"], max_attempts=2)
    once = await control.insert(["fail", "boom"], max_attempts=1)

    async with harness.working(first, first):
        await harness.events.wait("job_failed", job=twice)
        await harness.events.wait("job_failed", job=once)
    await _make_due(harness, twice)
    async with harness.working(second, second):
        await harness.events.wait("job_failed", job=twice, client=second)

    rows = await harness.rows()
    assert [(row["state"], row["attempt"], len(row["errors"])) for row in rows] == [
        ("discarded", 2, 2),
        ("discarded", 1, 1),
    ]
    assert all(row["finalized_at"] for row in rows)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_fails_an_unknown_kind_that_it_fetches(harness: Harness, language: Language) -> None:
    """22: mixed_unknown_kind_error; a client that fetches every kind fails the jobs of an unknown kind."""
    async with harness.working(language, knows_only=False):
        id = await harness.control(language).insert(kind="only_there")
        failed = await harness.events.wait("job_failed", job=id)

    # It is due again after a second, so a client that stops late has begun the next attempt.
    errors = (await harness.row(id))["errors"]
    assert failed["state"] == "available"
    assert errors[0]["attempt"] == 1
    assert {one["error"] for one in errors} == {UNKNOWN[language]}


@pytest.mark.parametrize(("stranger", "expert"), BOTH_WAYS)
async def test_client_of_known_kinds_leaves_an_unknown_kind(
    harness: Harness, stranger: Language, expert: Language
) -> None:
    """22: A client that fetches known kinds only leaves other jobs with all of their attempts."""
    async with harness.working(stranger, stranger):
        foreign = await harness.control(stranger).insert(kind="only_there")
        await harness.events.wait("job_completed", job=await harness.control(stranger).insert(priority=2))
        before = await harness.row(foreign)
        async with harness.working(expert, expert, kinds=("only_there",)):
            await harness.events.wait("job_completed", job=foreign)

    assert (before["state"], before["attempt"]) == ("available", 0)
    assert (await harness.row(foreign))["attempted_by"] == [expert]


@pytest.mark.parametrize(("inserter", "worker"), BOTH_WAYS)
async def test_client_works_a_kind_under_its_former_name(
    harness: Harness, inserter: Language, worker: Language
) -> None:
    """22: A client that fetches known kinds only also works jobs under a kind's former name."""
    id = await harness.control(inserter).insert(kind="former")

    async with harness.working(worker, aliases={"act": ["former"]}):
        line = await harness.events.wait("begun", job=id)
        await harness.events.wait("job_completed", job=id)

    assert line["kind"] == "former"


async def test_river_reads_output_and_metadata_of_a_millhand_worker(harness: Harness) -> None:
    """23: River reads a Millhand worker's output and metadata unchanged, after success and failure."""
    output = {"rows": 3, "text": "<é>", "list": [1.5, None]}
    acts = [["output", output], ["metadata", "seen", {"at": 1}], ["fail_before", 2]]

    ids = {
        language: await harness.control(language).insert(*acts, ["retry_in", 3600], queue=language)
        for language in LANGUAGES
    }
    async with harness.working("go", queues={"go": 1}), harness.working("python", queues={"python": 1}):
        for id in ids.values():
            await harness.events.wait("job_failed", job=id)

    rows = {
        language: await harness.go.call("get", schema=harness.schema, job=id) for language, id in ids.items()
    }
    expected = {"output": output, "seen": {"at": 1}}
    assert {language: row["metadata"] for language, row in rows.items()} == dict.fromkeys(LANGUAGES, expected)


async def _is_all_completed(harness: Harness) -> bool:
    return await _is_none_left(harness, "completed")


async def _is_none_left(harness: Harness, state: str) -> bool:
    sql = "SELECT EXISTS (SELECT FROM /* schema */river_job WHERE state <> $1::text::/* schema */river_job_state)"
    return not (await harness.fetch(sql, state))[0][0]


async def _make_due(harness: Harness, id: int) -> None:
    sql = "UPDATE /* schema */river_job SET state = 'available', scheduled_at = now() WHERE id = $1"
    await harness.fetch(sql, id)


def _num_overtaken(priorities: list[int]) -> int:
    """Count attempts that started before a more urgent one of a later fetch."""
    return sum(
        priority > min(priorities[index + 2 * NUM_WORKERS :], default=priority)
        for index, priority in enumerate(priorities)
    )


def _odd_texts() -> list[str]:
    chance = random.Random(18)  # noqa: S311 - the same in each run
    alphabet = '\x00\ud800\udfff\x1f\x7f"\\/<>&\u2028é日🦀 \n\tab%s{}'
    texts = ["".join(chance.choices(alphabet, k=chance.randint(0, 40))) for _ in range(NUM_ERRORS - 3)]
    return [*texts, "x" * (1 << 20), "\x00" * 1000, "\ud83e"]


def _storable(text: str) -> str:
    """Return a text as Millhand stores it: its beginning, without characters that PostgreSQL refuses."""
    if len(text) > ERROR_LENGTH_MAX:
        text = f"{text[:ERROR_LENGTH_MAX]}… ({len(text):,} characters)"
    return "".join("\ufffd" if char == "\x00" or "\ud800" <= char <= "\udfff" else char for char in text)


def _without_name(error: str) -> str:
    return error.removeprefix("ValueError").removeprefix(": ")


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
