"""The job that a worker gets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from language_values import row

from millhand.core.errors import AttemptCancelled
from millhand.core.job import OUTPUT_BYTES_MAX
from millhand.core.worker_job import Job
from millhand.engine.attempt import Attempt, CancelReason


def test_job_has_properties_of_its_row() -> None:
    """The columns that workers use most are properties of the job."""
    job = Job(
        row(id=7, kind="k", queue="q", attempt=2, max_attempts=5, metadata={"a": 1}),
        args={"n": 1},
        client="c",
    )

    assert (job.id, job.kind, job.queue, job.attempt, job.max_attempts) == (7, "k", "q", 2, 5)
    assert (job.metadata, job.args, job.client) == ({"a": 1}, {"n": 1}, "c")
    assert repr(job) == "Job(id=7, kind='k', attempt=2/5)"


def test_job_stages_output_and_metadata() -> None:
    """Staged values wait for the outcome, the last one wins, and the fetched metadata stays as it is."""
    job: Job[None] = Job(row(metadata={"a": 1}), None)

    assert job.metadata_updates == {}
    job.record_output("first")
    job.record_output({"rows": 3})
    job.set_metadata("a", 2)

    assert job.metadata_updates == {"output": {"rows": 3}, "a": 2}
    assert job.metadata == {"a": 1}


def test_job_rejects_reserved_metadata() -> None:
    """Keys that begin with `river:` and the cancellation mark are reserved; a wrong mark stops Go's rescuer."""
    with pytest.raises(ValueError) as refusal:
        Job(row(), None).set_metadata("river:log", [])
    with pytest.raises(ValueError) as mark:
        Job(row(), None).set_metadata("cancel_attempted_at", 5)

    assert str(refusal.value) == "metadata key must not begin with 'river:', got 'river:log'"
    assert str(mark.value) == (
        "metadata key must not be the mark of a cancel, got 'cancel_attempted_at'; raise JobCancel"
    )


def test_job_rejects_output_that_is_no_json() -> None:
    """The error comes where the output is recorded."""
    job: Job[None] = Job(row(), None)

    with pytest.raises(ValueError) as refusal:
        job.record_output(object())

    assert str(refusal.value) == (
        "output must be encodable as JSON, got object: Encoding objects of type object is unsupported"
    )
    assert job.metadata_updates == {}


@dataclass
class Measured:
    value: float | None


@pytest.mark.parametrize(
    "number", [math.nan, -math.inf, [1, math.nan, None], {"a": {"b": math.inf}}, Measured(math.nan)]
)
def test_job_rejects_output_that_is_not_finite(number: Any) -> None:
    """A number that is not finite raises, as in River, and is not stored as null."""
    job: Job[None] = Job(row(), None)
    job.record_output([None, Measured(None), 1.5, "null"])

    with pytest.raises(
        ValueError, match=r"^output must be encodable as JSON, got \w+: Out of range float values are not"
    ):
        job.record_output(number)

    assert job.metadata_updates == {"output": [None, {"value": None}, 1.5, "null"]}


@pytest.mark.slow
def test_job_rejects_output_that_is_too_large() -> None:
    """32 MiB with its quotes is the limit."""
    job: Job[None] = Job(row(), None)
    job.record_output("a" * (OUTPUT_BYTES_MAX - 2))

    with pytest.raises(ValueError) as refusal:
        job.record_output("a" * (OUTPUT_BYTES_MAX - 1))

    assert str(refusal.value) == "output must be at most 33,554,432 bytes, got 33,554,433"


def test_job_reports_a_requested_cancellation() -> None:
    """A plain function sees a requested cancellation and no other."""
    attempt = Attempt(row())
    job: Job[None] = Job(attempt.row, None, attempt=attempt)

    assert job.is_cancel_requested is False
    job.check_cancel_requested()
    attempt.cancel(CancelReason.TIMEOUT)
    assert job.is_cancel_requested is True
    with pytest.raises(AttemptCancelled):
        job.check_cancel_requested()


def test_attempt_cancelled_passes_handlers_of_errors() -> None:
    """`except Exception` in a worker does not catch AttemptCancelled."""
    assert not issubclass(AttemptCancelled, Exception)


def test_job_keeps_a_copy_of_what_is_staged() -> None:
    """A later change of a staged value has no effect."""
    job: Job[None] = Job(row(), None)
    rows = [1]

    job.record_output(rows)
    job.set_metadata("rows", rows)
    rows.append(2)

    assert job.metadata_updates == {"output": [1], "rows": [1]}


def test_job_rejects_metadata_that_is_no_json() -> None:
    """The error names the key."""
    with pytest.raises(ValueError) as refusal:
        Job(row(), None).set_metadata("seen", object())

    assert str(refusal.value) == (
        "metadata 'seen' must be encodable as JSON, got object: Encoding objects of type object is unsupported"
    )


def test_job_cannot_be_given_new_attributes() -> None:
    """A misspelt attribute raises."""
    with pytest.raises(AttributeError):
        Job(row(), None).outptu = 1  # type: ignore[attr-defined]
