"""The behaviors of the suite's job."""

from __future__ import annotations

from typing import Any

import pytest
from working_adapter import until_stats, worked

from millhand.core.retry import retry_delay
from millhand.db.driver.asyncpg import AsyncpgDriver
from river_adapter import Adapter


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behavior", "opts", "state", "error", "metadata"),
    [
        ("", {}, "completed", None, {}),
        ("cancel", {}, "cancelled", "JobCancelError: cancelled by conformance worker", {}),
        ("discard", {"max_attempts": 1}, "discarded", "conformance discard", {}),
        ("error", {"max_attempts": 1}, "discarded", "conformance retryable error", {}),
        ("output", {}, "completed", None, {"output": {"message": "output"}}),
        ("panic", {"max_attempts": 1}, "discarded", "AssertionError: conformance worker panic", {}),
        ("sleep", {}, "completed", None, {}),
        ("snooze_once", {}, "completed", None, {"snoozes": 1}),
        ("transactional_complete", {}, "completed", None, {"transactional_completion": True}),
    ],
)
async def test_behavior_ends_the_attempt(
    adapter: Adapter, behavior: str, opts: dict[str, Any], state: str, error: str | None, metadata: Any
) -> None:
    """single_implementation_worker_outcomes; each behavior writes its state, error and metadata in one attempt."""
    job = await adapter.call("insert", behavior=behavior, message=behavior, opts=opts)

    done = await adapter.call("work", id=job["id"])

    assert (done["state"], done["attempt"], done["metadata"]) == (state, 1, metadata)
    assert [one["error"] for one in done["errors"]] == ([] if error is None else [error])
    assert done["attempted_by"] == ["python-conformance-adapter"] * (2 if behavior == "snooze_once" else 1)


@pytest.mark.slow
async def test_resumable_job_repeats_only_what_failed(adapter: Adapter) -> None:
    """resumable_retry; the first step runs once and the second twice."""
    await adapter.call("start", client_id="c", retry_delay_ms=5)

    done = await worked(adapter, "resumable", opts={"max_attempts": 2})

    assert (done["state"], done["attempt"], len(done["errors"])) == ("completed", 2, 1)
    assert done["metadata"]["river:resumable_step"] == "first"
    stats = await until_stats(adapter, lambda stats: len(stats["events"]) == 2)
    assert (stats["resumable_first_runs"], stats["resumable_second_runs"]) == (1, 2)


@pytest.mark.slow
async def test_stop_that_cancels_ends_each_attempt_as_its_worker_does(adapter: Adapter) -> None:
    """hard_shutdown_soft_stop_classification; only an error after the cancellation counts as an attempt."""
    await adapter.call("start", client_id="c")
    ids = {
        behavior: (await worked(adapter, behavior, "running"))["id"]
        for behavior in ("cooperative_cancel", "cancel_error", "cancel_panic")
    }

    await adapter.call("stop", cancel=True)

    rows = {behavior: await adapter.call("get", id=id) for behavior, id in ids.items()}
    assert {behavior: (row["attempt"], len(row["errors"])) for behavior, row in rows.items()} == {
        "cooperative_cancel": (0, 0),
        "cancel_error": (1, 1),
        "cancel_panic": (1, 1),
    }
    assert {row["state"] for row in rows.values()} <= {"available", "retryable"}


@pytest.mark.slow
async def test_failed_job_is_retried_by_the_default_policy(
    adapter: Adapter, schema_driver: AsyncpgDriver
) -> None:
    """default_retry_policy_schedule; the second delay waits as retryable, within the policy's bounds."""
    await adapter.call("start", client_id="c")

    job = await worked(adapter, "error", "retryable")

    assert (job["attempt"], len(job["errors"])) == (2, 2)
    [row] = await schema_driver.pool.fetch(
        "SELECT scheduled_at - attempted_at AS delay "
        f'FROM "{schema_driver.schema}".river_job WHERE id = {job["id"]}'
    )
    shortest, longest = (retry_delay(2, jitter) for jitter in (0.0, 1.0))
    assert shortest <= row["delay"] <= longest * 1.5
