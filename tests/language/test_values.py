"""Jobs, events, hooks, errors and the clock."""

from __future__ import annotations

import math
import pickle
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from language_values import NOW, errors, row

from millhand.clock import SystemClock, backoff_seconds, jittered
from millhand.errors import (
    AttemptCancelled,
    ConnectionLost,
    DriverError,
    InvalidWhere,
    JobCancel,
    JobRunning,
    JobSignal,
    JobSnooze,
    JobTimeout,
    MillhandError,
    NotFound,
    OperationTimeout,
    PoolClosed,
    SchemaError,
    UniqueConflict,
    UnknownKind,
)
from millhand.event import Event, EventKind
from millhand.hooks import FetchMetric, Hook, Middleware, overrides
from millhand.job import OUTPUT_BYTES_MAX, Job, JobRow, JobState
from millhand.queue import QueueRow
from millhand.runtime.attempt import Attempt, CancelReason


def test_job_states_are_in_the_databases_order() -> None:
    """The order is that of River's enum; the bits of unique jobs count on it."""
    assert [state.value for state in JobState] == [
        "available",
        "cancelled",
        "completed",
        "discarded",
        "pending",
        "retryable",
        "running",
        "scheduled",
    ]
    assert [state for state in JobState if state.is_finalized] == ["cancelled", "completed", "discarded"]


def test_job_speaks_for_its_row() -> None:
    """What workers ask most is on the job itself."""
    job = Job(
        row(id=7, kind="k", queue="q", attempt=2, max_attempts=5, metadata={"a": 1}),
        args={"n": 1},
        client="c",
    )

    assert (job.id, job.kind, job.queue, job.attempt, job.max_attempts) == (7, "k", "q", 2, 5)
    assert (job.metadata, job.args, job.client) == ({"a": 1}, {"n": 1}, "c")
    assert repr(job) == "Job(id=7, kind='k', attempt=2/5)"


def test_job_row_decodes_its_args_and_output() -> None:
    """A row can be read without a worker."""
    one = row(encoded_args='{"n": [1, 2.5]}', metadata={"output": "done"}, errors=errors(1))

    assert (one.args, one.output, row().output) == ({"n": [1, 2.5]}, "done", None)


def test_job_stages_what_is_to_be_stored() -> None:
    """Output and metadata wait for the outcome; the last word wins; what was fetched stays as it was."""
    job: Job[None] = Job(row(metadata={"a": 1}), None)

    assert job.metadata_updates == {}
    job.record_output("first")
    job.record_output({"rows": 3})
    job.set_metadata("a", 2)

    assert job.metadata_updates == {"output": {"rows": 3}, "a": 2}
    assert job.metadata == {"a": 1}


def test_job_refuses_metadata_of_rivers_own() -> None:
    """Keys that begin with `river:` are not a worker's to set, nor is a cancel's mark: an odd one stops Go's rescuer."""
    with pytest.raises(ValueError) as refusal:
        Job(row(), None).set_metadata("river:log", [])
    with pytest.raises(ValueError) as mark:
        Job(row(), None).set_metadata("cancel_attempted_at", 5)

    assert str(refusal.value) == "metadata key must not begin with 'river:', got 'river:log'"
    assert str(mark.value) == (
        "metadata key must not be the mark of a cancel, got 'cancel_attempted_at'; raise JobCancel"
    )


def test_job_refuses_output_that_is_no_json() -> None:
    """An output that cannot be stored is refused where it is recorded."""
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
def test_job_refuses_output_that_is_no_number(number: Any) -> None:
    """What is not finite is no JSON, and is refused as River's encoder does, not stored as null."""
    job: Job[None] = Job(row(), None)
    job.record_output([None, Measured(None), 1.5, "null"])

    with pytest.raises(
        ValueError, match=r"^output must be encodable as JSON, got \w+: Out of range float values are not"
    ):
        job.record_output(number)

    assert job.metadata_updates == {"output": [None, {"value": None}, 1.5, "null"]}


def test_job_refuses_output_that_is_too_large() -> None:
    """32 MiB with its quotes is the limit."""
    job: Job[None] = Job(row(), None)
    job.record_output("a" * (OUTPUT_BYTES_MAX - 2))

    with pytest.raises(ValueError) as refusal:
        job.record_output("a" * (OUTPUT_BYTES_MAX - 1))

    assert str(refusal.value) == "output must be at most 33,554,432 bytes, got 33,554,433"


def test_job_knows_whether_it_is_to_end() -> None:
    """A job that nobody asked to end is not asked to end; a plain function looks here."""
    attempt = Attempt(row())
    job: Job[None] = Job(attempt.row, None, attempt=attempt)

    assert job.is_cancel_requested is False
    job.check_cancel_requested()
    attempt.cancel(CancelReason.TIMEOUT)
    assert job.is_cancel_requested is True
    with pytest.raises(AttemptCancelled):
        job.check_cancel_requested()


def test_attempt_cancelled_passes_handlers_of_errors() -> None:
    """An `except Exception` in a worker does not keep its attempt from ending."""
    assert not issubclass(AttemptCancelled, Exception)


def test_job_keeps_a_copy_of_what_is_staged() -> None:
    """A worker may go on with its list; what it recorded is what it recorded."""
    job: Job[None] = Job(row(), None)
    rows = [1]

    job.record_output(rows)
    job.set_metadata("rows", rows)
    rows.append(2)

    assert job.metadata_updates == {"output": [1], "rows": [1]}


def test_job_refuses_metadata_that_is_no_json() -> None:
    """The key is named."""
    with pytest.raises(ValueError) as refusal:
        Job(row(), None).set_metadata("seen", object())

    assert str(refusal.value) == (
        "metadata 'seen' must be encodable as JSON, got object: Encoding objects of type object is unsupported"
    )


def test_job_cannot_be_given_new_attributes() -> None:
    """A misspelt attribute is an error and not a silent one."""
    with pytest.raises(AttributeError):
        Job(row(), None).outptu = 1  # type: ignore[attr-defined]


def test_queue_row_says_whether_it_is_paused() -> None:
    """A queue is paused from the instant it was."""
    running = QueueRow("q", NOW, {}, None, NOW)
    paused = QueueRow("q", NOW, {}, NOW, NOW)

    assert (running.is_paused, paused.is_paused) == (False, True)


def test_event_is_a_value() -> None:
    """What watchers get, they cannot change for each other."""
    event = Event(kind=EventKind.QUEUE_PAUSED, queue="q")

    with pytest.raises(AttributeError):
        event.queue = "other"  # type: ignore[misc]


class Watching(Hook):
    async def work_begin(self, job: Job[Any]) -> None: ...


class Around(Middleware):
    async def work(self, job: Job[Any], call_next: Callable[[], Awaitable[None]]) -> None: ...


@pytest.mark.parametrize(
    ("thing", "moments"),
    [
        (Hook(), []),
        (Watching(), ["work_begin"]),
        (Middleware(), []),
        (Around(), ["work"]),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_overrides_finds_the_moments_that_somebody_wants(
    thing: Hook | Middleware, moments: list[str]
) -> None:
    """Only what a subclass overrides is ever called."""
    base = Hook if isinstance(thing, Hook) else Middleware
    names = [name for name in vars(base) if not name.startswith("_")]

    assert [name for name in names if overrides(thing, name)] == moments


async def test_hooks_and_middleware_that_say_nothing_change_nothing() -> None:
    """The base classes pass everything on as it is."""
    job: Job[Any] = Job(row(), None)
    error = ValueError("why")
    called = []

    async def insert(params: Any) -> Any:
        called.append(params)
        return ["result"]

    async def work() -> None:
        called.append("work")

    assert await Hook().insert_begin("params") == "params"  # type: ignore[arg-type, comparison-overlap]
    assert await Hook().work_end(job, error) is error
    await Hook().work_begin(job)
    await Hook().periodic_jobs_start()
    Hook().metric_emit(FetchMetric(num_jobs=1, queue="default", seconds=0.1))
    assert await Middleware().insert(["params"], insert) == ["result"]  # type: ignore[list-item, comparison-overlap]
    await Middleware().work(job, work)
    assert called == [["params"], "work"]


@pytest.mark.parametrize(
    ("error", "message", "attributes"),
    [
        (NotFound("job", 7), "job must exist, found none with id 7", {"subject": "job", "key": 7}),
        (
            JobRunning(7),
            "job must not be running to be deleted, got job 7 running; cancel it first",
            {"id": 7},
        ),
        (
            UniqueConflict(7),
            "unique key must be free, got job 7 in conflict with another job (river_job_unique_idx)",
            {"id": 7, "constraint": "river_job_unique_idx"},
        ),
        (
            UniqueConflict(None),
            (
                "unique key must be free, got a job in conflict with another job (river_job_unique_idx); "
                "insert_many skips duplicates"
            ),
            {"id": None},
        ),
        (
            InvalidWhere("state = @s", "operator does not exist: river_job_state = text", "42883"),
            (
                "where must be a condition that PostgreSQL takes, got operator does not exist: river_job_state = text "
                "in 'state = @s'; a text is compared with texts, as in state::text = @state"
            ),
            {"sql": "state = @s", "sqlstate": "42883"},
        ),
        (
            InvalidWhere("1 / 0 = 1", "division by zero", "22012"),
            "where must be a condition that PostgreSQL takes, got division by zero in '1 / 0 = 1'",
            {"reason": "division by zero"},
        ),
        (
            UnknownKind("sort", ["resize", "email"]),
            "no worker is registered for kind 'sort'; known kinds: 'email', 'resize'",
            {"kind": "sort", "known_kinds": ("email", "resize")},
        ),
        (
            UnknownKind("sort", []),
            "no worker is registered for kind 'sort'; known kinds: none",
            {"known_kinds": ()},
        ),
        (
            SchemaError("public", expected=8, found=6),
            "schema 'public' is at migration 6 of line 'main', this release needs 8; run: millhand migrate up",
            {"schema": "public", "expected": 8, "found": 6, "line": "main"},
        ),
        (
            SchemaError("", expected=1, found=None, line="millhand"),
            (
                "schema 'of the search path' has no migrations of line 'millhand', this release needs 1; "
                "run: millhand migrate up"
            ),
            {"schema": "", "found": None, "line": "millhand"},
        ),
        (
            SchemaError("jobs", expected=8, found=9, missing=[6, 8]),
            (
                "schema 'jobs' lacks migration 6, 8 of line 'main', this release needs 8; "
                "run: millhand migrate up --schema jobs"
            ),
            {"schema": "jobs", "expected": 8, "found": 9, "missing": (6, 8)},
        ),
        (
            OperationTimeout("job_get_available", 2.5),
            "job_get_available must answer within 2.5 s, got no answer",
            {"operation": "job_get_available", "seconds": 2.5},
        ),
        (
            DriverError("queue_get", "permission denied", sqlstate="42501", constraint="c"),
            "queue_get must succeed, got permission denied",
            {"operation": "queue_get", "retryable": False, "sqlstate": "42501", "constraint": "c"},
        ),
        (
            ConnectionLost("queue_get", "connection reset"),
            "queue_get must succeed, got connection reset",
            {"retryable": True, "sqlstate": None},
        ),
        (
            PoolClosed("queue_get", "pool closed"),
            "queue_get must succeed, got pool closed",
            {"retryable": False},
        ),
        (JobTimeout(60.0), "attempt must end within 60 s, got its timeout", {"seconds": 60.0}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_say_what_is_wrong_and_carry_it(
    error: MillhandError, message: str, attributes: dict[str, Any]
) -> None:
    """Everything in a message is an attribute as well, in another process too, and all errors have one root."""
    sent = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert isinstance(error, MillhandError)
    assert str(error) == message
    assert {name: getattr(error, name) for name in attributes} == attributes
    assert (type(sent), str(sent), vars(sent)) == (type(error), message, vars(error))


@pytest.mark.parametrize(
    ("signal", "text"),
    [
        (JobCancel("no such user"), "no such user"),
        (JobCancel(ValueError("why")), "why"),
        (JobCancel(), ""),
        (JobSnooze(timedelta(seconds=90)), "snoozed for 90 s"),
    ],
)
def test_signals_are_no_errors(signal: JobSignal, text: str) -> None:
    """What a worker says about its own job is not an error of this package, and may be said by a pool of processes."""
    sent = pickle.loads(pickle.dumps(signal))  # noqa: S301 - our own

    assert str(signal) == text
    assert (type(sent), str(sent), repr(vars(sent))) == (type(signal), text, repr(vars(signal)))
    assert not isinstance(signal, MillhandError)


def test_snooze_refuses_to_go_back() -> None:
    """Zero is a snooze, less is none."""
    assert JobSnooze(timedelta(0)).delay == timedelta(0)
    with pytest.raises(ValueError) as refusal:
        JobSnooze(timedelta(seconds=-1))

    assert (
        str(refusal.value)
        == "snooze delay must not be negative, got datetime.timedelta(days=-1, seconds=86399)"
    )


def test_system_clock_tells_the_time_in_utc() -> None:
    """Instants are aware and UTC; monotonic seconds do not go back."""
    clock = SystemClock()

    before = datetime.now(UTC)
    assert before <= clock.now() <= datetime.now(UTC)
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() <= clock.monotonic()


@given(st.floats(0.001, 1e6))
def test_jittered_is_never_early(seconds: float) -> None:
    """A wait is lengthened by at most a tenth."""
    assert seconds <= jittered(seconds) <= seconds * 1.1 * (1 + 1e-12)


@given(st.integers(1, 10_000))
def test_backoff_doubles_up_to_its_ceiling(num_failures: int) -> None:
    """The n-th wait is 2^(n-1) s ± 10 %, and never above 64 s ± 10 %."""
    expected = min(2.0 ** min(num_failures - 1, 50), 64.0)

    assert expected * 0.9 <= backoff_seconds(num_failures) <= expected * 1.1


def test_job_row_is_a_value() -> None:
    """Two rows with the same columns are equal, and neither can be changed."""
    one: JobRow = row()

    assert one == row()
    with pytest.raises(AttributeError):
        one.attempt = 2  # type: ignore[misc]
