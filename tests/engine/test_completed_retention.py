"""Which completed jobs a client keeps."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from factory import NOW, ROW
from millhand.core.config import Config, QueueConfig
from millhand.core.job import AttemptError
from millhand.core.unique import DEFAULT_STATES, REQUIRED_STATES, states_mask
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.completed_retention import CompletedRetention


def retention(
    worker: bool | None = None, queue: bool | None = None, *, client: bool = True
) -> CompletedRetention:
    workers = Workers()

    @workers.add(kind="mail", keep_completed=worker)
    async def mail(job: Job[Any]) -> None: ...

    queues = {"default": QueueConfig(max_workers=1, keep_completed=queue)}
    return CompletedRetention(Config(workers=workers, queues=queues, keep_completed=client))


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("queue", [True, False, None])
@pytest.mark.parametrize("worker", [True, False, None])
def test_closest_setting_counts(worker: bool | None, queue: bool | None, client: bool) -> None:
    """The worker's setting counts, else the queue's, else the client's."""
    expected = next(setting for setting in (worker, queue, client) if setting is not None)

    assert retention(worker, queue, client=client).keeps(ROW) is expected


def test_queue_that_is_added_later_has_its_own_setting() -> None:
    """Until then, no job is deleted."""
    actual = retention()
    row = msgspec.structs.replace(ROW, queue="other")
    assert (actual.keeps_all, actual.keeps(row)) == (True, True)

    actual.add_queue("other", keep_completed=False)

    assert (actual.keeps_all, actual.keeps(row), actual.keeps(ROW)) == (False, False, True)


@pytest.mark.parametrize(
    "given",
    [
        {"errors": (AttemptError(NOW, 1, "boom"),)},
        {"metadata": {"output": 1}},
        {"metadata": {"river:periodic_job_id": "every_hour"}},
        {"metadata": {"periodic": True}},
        {"metadata": {"workflow_id": "w", "task": "a"}},
        {"unique_key": b"k", "unique_states": states_mask(DEFAULT_STATES)},
        {"unique_key": b"k", "unique_states": None},
    ],
    ids=lambda given: next(iter(given.get("metadata", given))),
)
def test_row_that_is_yet_read_is_kept(given: dict[str, Any]) -> None:
    """Errors, outputs, runs of periodic jobs, jobs of workflows, and keys that completed jobs hold."""
    assert retention(client=False).keeps(msgspec.structs.replace(ROW, **given))


@pytest.mark.parametrize(
    "given",
    [
        {"metadata": {"traceparent": "00-…"}},
        {"attempt": 3, "metadata": {"snoozes": 2}},
        {"unique_key": b"k", "unique_states": states_mask(REQUIRED_STATES)},
    ],
)
def test_other_rows_are_deleted(given: dict[str, Any]) -> None:
    """A trace, a snooze and a unique key that completed jobs do not hold keep no row."""
    assert not retention(client=False).keeps(msgspec.structs.replace(ROW, **given))
