from __future__ import annotations

import json
from datetime import timedelta

import pytest
from store_rows import get_columns, instant, params, photo, put_columns, stories

from millhand.core.job import AttemptError, ClientId, JobId, JobState
from millhand.core.transition import Completed, Failed, Interrupted, Outcome, Snoozed, settle
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import (
    Rescue,
    job_cancel,
    job_get_available,
    job_rescue_many,
    job_retry,
    job_schedule,
    job_set_state_if_running_many,
    job_update_output,
)
from millhand.engine.store.job_insert import job_insert_many
from millhand.engine.store.job_row import parse_error


@pytest.mark.parametrize(
    "state", ["available", "scheduled", "retryable", "pending", "completed", "discarded", "running"]
)
async def test_job_retry_leaves_the_row_that_river_leaves(tx: Executor, state: str) -> None:
    """A retried job equals in every column the row after River's retry, from any state."""
    scenario = f"retried while {state}"
    before, after = photo(scenario, "before"), photo(scenario, "retried")
    id = await put_columns(tx, before)
    is_touched = after["scheduled_at"] != before["scheduled_at"]
    now = (
        instant(after["scheduled_at"]) if is_touched else instant(before["scheduled_at"]) + timedelta(hours=1)
    )

    await tx.run(job_retry(id, now=now))

    assert await get_columns(tx, id) == after


async def test_job_retry_removes_the_cancel_mark(tx: Executor) -> None:
    """A retried job has no cancel mark, so its next failure is retried."""
    after = photo("cancelled, then retried, then failed", "retried")
    id = await put_columns(tx, photo("cancelled, then retried, then failed", "cancelled"))

    await tx.run(job_retry(id, now=instant(after["scheduled_at"])))

    assert await get_columns(tx, id) == after


@pytest.mark.parametrize("state", ["available", "scheduled", "pending", "retryable"])
async def test_job_cancel_leaves_the_row_that_river_leaves(tx: Executor, state: str) -> None:
    """A cancelled job equals the row after River's cancel, except for the digits of the mark's instant."""
    after = photo(f"cancelled remotely while {state}", "cancelled")
    before = {**after, "state": state, "metadata": "{}", "finalized_at": None}
    id = await put_columns(tx, before)

    await tx.run(job_cancel(id, now=instant(after["finalized_at"])))

    actual = await get_columns(tx, id)
    mark = {"cancel_attempted_at": instant(after["finalized_at"]).isoformat().replace("+00:00", "Z")}
    assert json.loads(actual["metadata"] or "") == mark
    assert {**actual, "metadata": ""} == {**after, "metadata": ""}


@pytest.mark.parametrize("state", ["completed", "discarded"])
async def test_job_cancel_does_not_change_a_finalized_job(tx: Executor, state: str) -> None:
    """A cancel of a finalized job changes nothing, as in River."""
    after = photo(f"cancelled remotely while {state}", "cancelled")
    id = await put_columns(tx, after)

    job = await tx.run(job_cancel(id, now=instant(after["finalized_at"]) + timedelta(hours=1)))

    assert await get_columns(tx, id) == after
    assert job.state == state


async def test_job_cancel_only_marks_a_running_job(tx: Executor) -> None:
    """A cancelled running job stays running, as in River: its client ends it."""
    after = photo("cancelled remotely while running: wait", "cancel requested")
    id = await put_columns(tx, {**after, "metadata": "{}"})

    job = await tx.run(job_cancel(id, now=instant(after["attempted_at"])))

    actual = await get_columns(tx, id)
    assert {**actual, "metadata": ""} == {**after, "metadata": ""}
    assert list(job.metadata) == ["cancel_attempted_at"]


async def test_job_update_output_merges_as_river_does(tx: Executor) -> None:
    """Output stored from outside is merged with other metadata, in any state."""
    after = photo("output updated from outside", "updated")
    id = await put_columns(tx, {**after, "metadata": '{"a": 1}'})

    job = await tx.run(job_update_output(id, [1, 2]))

    assert await get_columns(tx, id) == after
    assert job.output == [1, 2]


SETTLED = [
    ("completed", "worked", Completed()),
    ("discarded", "worked", Failed("boom <&> é", retry_at=instant("2026-11-25 11:00:00+00"))),
    ("snoozed over 5 s, twice", "first snooze", Snoozed(timedelta(hours=1))),
    ("snoozed over 5 s, twice", "second snooze", Snoozed(timedelta(hours=1))),
    ("stopped and cancelled: wait", "after stop", Interrupted()),
]


@pytest.mark.parametrize(("scenario", "when", "outcome"), SETTLED)
async def test_settled_job_equals_river_s(tx: Executor, scenario: str, when: str, outcome: Outcome) -> None:
    """A fetched and settled job has River's state, attempt, errors, metadata and instants, except for dates."""
    after = photo(scenario, when)
    due = instant(after["created_at"])
    before = {**after, "state": "available", "finalized_at": None, "errors": None, "attempted_at": None}
    num_fetches = len((after["attempted_by"] or "").split(","))
    attempt = int(after["attempt"] or 0)
    before |= {
        "attempt": str(attempt if after["state"] in {"scheduled", "available"} else attempt - 1),
        "attempted_by": f"{{{','.join(['client_a'] * (num_fetches - 1))}}}" if num_fetches > 1 else None,
        "metadata": '{"snoozes": 1}' if when == "second snooze" else "{}",
        "scheduled_at": after["created_at"],
    }
    await put_columns(tx, before)
    [job] = await tx.run(
        job_get_available(
            queue="default", limit=1, client_id=ClientId("client_a"), now=due + timedelta(seconds=1)
        )
    )

    change = settle(job, outcome, now=due + timedelta(seconds=2), started_at=due + timedelta(seconds=1))
    await tx.run(job_set_state_if_running_many([change]))

    actual = await get_columns(tx, job.id)
    names = ("state", "attempt", "max_attempts", "attempted_by", "metadata", "args", "kind", "queue", "tags")
    assert {name: actual[name] for name in names} == {name: after[name] for name in names}
    for name in ("errors", "finalized_at", "attempted_at"):
        assert (actual[name] is None) == (after[name] is None), name


async def test_inserted_job_equals_river_s(tx: Executor) -> None:
    """A job with all options has every column as River writes it."""
    after = photo("inserted with all options", "inserted")
    at = instant(after["created_at"])
    given = params(
        kind="act",
        encoded_args='{"do":"complete"}',
        max_attempts=7,
        encoded_metadata='{"a":{"z":"é"},"b":1}',
        priority=4,
        queue="high-1",
        created_at=at,
        scheduled_at=at,
        tags=("tag-one", "tag_two"),
        unique_key=bytes.fromhex((after["unique_key"] or "").removeprefix("\\x")),
        unique_states=0xF5,
    )

    [result] = await tx.run(job_insert_many([given]))

    actual = await get_columns(tx, result.job.id)
    assert {**actual, "id": ""} == {**after, "id": ""}


async def test_unique_job_inserted_twice_returns_river_s_results(tx: Executor) -> None:
    """The second insert of a key returns the first one's row, marked as skipped."""
    recorded = stories()["inserted twice with a unique key"]["results"]
    key = b"k" * 32

    results = [
        (await tx.run(job_insert_many([params(tags=(tag,), unique_key=key, unique_states=0xF5)])))[0]
        for tag in ("first", "second")
    ]

    assert [
        {
            "id": one.job.id - results[0].job.id + 1,
            "kind": one.job.kind,
            "tags": list(one.job.tags),
            "unique_skipped_as_duplicate": one.unique_skipped_as_duplicate,
        }
        for one in results
    ] == recorded


def test_unusual_errors_are_read_as_river_reads_them() -> None:
    """Unusual elements of `errors` are read into the same values as by River."""
    story = stories()["malformed stored errors are read leniently"]
    [taken] = story["photos"]
    stored = taken["row"]["errors"][: len(story["results"])]

    read = [parse_error(json.dumps(element)) for element in stored]

    assert [
        {
            "at": one.at.isoformat().replace("+00:00", "Z"),
            "attempt": one.attempt,
            "error": one.error,
            "trace": one.trace,
        }
        for one in read
    ] == story["results"]


SCHEDULED = [taken["when"] for taken in stories()["scheduled by the leader"]["photos"]]


async def test_job_schedule_equals_river_s(tx: Executor) -> None:
    """One pass over River's recorded rows makes available, discards and skips the same jobs."""
    scenario = "scheduled by the leader"
    after = {when: photo(scenario, when) for when in SCHEDULED}
    before = {
        "due": "scheduled", "due within 5 s": "scheduled", "due later": "scheduled", "retryable, due": "retryable",
        "retryable, key taken": "retryable", "key's holder": "available",
        "two retryable with one key: first": "retryable", "two retryable with one key: second": "retryable",
    }  # fmt: skip
    for when, state in before.items():
        await put_columns(tx, {**after[when], "state": state, "finalized_at": None, "metadata": "{}"})
    horizon = instant(after["retryable, key taken"]["finalized_at"])

    moved = await tx.run(job_schedule(now=horizon, limit=100))

    assert {when: await get_columns(tx, JobId(int(after[when]["id"] or 0))) for when in SCHEDULED} == after
    assert sorted((job.id, job.is_discarded) for job in moved) == [
        (1, False), (2, False), (4, False), (5, True), (7, False), (8, True),
    ]  # fmt: skip


RESCUED = [
    (when, taken["row"]["columns"]["state"])
    for taken in stories()["rescued"]["photos"]
    if (when := taken["when"]) != "not stuck yet"
]


@pytest.mark.parametrize(("when", "state"), RESCUED)
async def test_rescued_job_equals_river_s(tx: Executor, when: str, state: str) -> None:
    """A rescue writes River's state, errors and rescue count, over a missing, numeric or invalid count."""
    after = photo("rescued", when)
    count_before = {"rescued before": "4", "rescue count isn't a number": '"x"'}.get(when)
    metadata = json.loads(after["metadata"] or "")
    del metadata["river:rescue_count"]
    if count_before is not None:
        metadata["river:rescue_count"] = json.loads(count_before)
    stored = next(taken for taken in stories()["rescued"]["photos"] if taken["when"] == when)["row"]["errors"]
    id = await put_columns(
        tx,
        {
            **after,
            "state": "running",
            "finalized_at": None,
            "metadata": json.dumps(metadata),
            "errors": photo("rescued", "not stuck yet")["errors"],
        },
    )
    error = parse_error(json.dumps(stored[-1]))
    rescue = Rescue(
        id,
        JobState(state),
        AttemptError(error.at, error.attempt, error.error),
        finalized_at=instant(after["finalized_at"]) if after["finalized_at"] else None,
        scheduled_at=instant(after["scheduled_at"]),
    )

    written = await tx.run(job_rescue_many([rescue], stuck_horizon=instant("2026-11-25 09:43:53+00")))

    actual = await get_columns(tx, id)
    assert written == [id]
    assert {**actual, "errors": "", "metadata": ""} == {**after, "errors": "", "metadata": ""}
    assert json.loads(actual["metadata"] or "") == json.loads(after["metadata"] or "")
    assert (actual["errors"] or "").count("Stuck job rescued by JobRescuer") == 1
