"""What Sentry gets of failed jobs and of runs of periodic jobs, by an envelope transport of its SDK."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar

import msgspec
import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from millhand import Config, Job, JobCancel, JobSnooze, Workers, cron, every
from millhand.contrib.sentry import SentryHandler, monitor_schedule, monitor_slug
from millhand.core.errors import JobTimeout
from millhand.core.hooks import AttemptFailure
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.periodic import PeriodicJob, never
from millhand.engine.attempt import Attempt, CancelReason
from millhand.engine.error_handler import ErrorHandlers
from millhand.engine.job_executor import JobExecutor

pytestmark = pytest.mark.slow

NOW = datetime(2026, 1, 1, 12, 30, 15, 250_000, UTC)

log = logging.getLogger("shop.orders")


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"
    card: str = "4711"


class Client:
    """A client of which only the configuration is read."""

    def __init__(self, config: Config) -> None:
        self.config = config


class Sent(Transport):
    """Keeps what the SDK sends."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.items += [json.loads(item.get_bytes()) for item in envelope.items]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [item for item in self.items if item.get("type") != "check_in"]

    @property
    def check_ins(self) -> list[dict[str, Any]]:
        return [item for item in self.items if item.get("type") == "check_in"]


@pytest.fixture
def sent() -> Iterator[Sent]:
    """Start the SDK with the integrations that could report an error twice."""
    transport = Sent()
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:1/1",
        auto_enabling_integrations=False,
        default_integrations=False,
        integrations=[DedupeIntegration(), LoggingIntegration()],
        transport=transport,
    )
    yield transport
    sentry_sdk.init(auto_enabling_integrations=False, default_integrations=False)


def row(**columns: Any) -> JobRow:
    made = JobRow(
        JobId(7), JobState.RUNNING, 3, 3, NOW, NOW, None, NOW, 1, '{"card": "4711"}', ("me",), (), "act", {}, "default",
        ("eu",), None, None,
    )  # fmt: skip
    return msgspec.structs.replace(made, **columns)


def fails(error: BaseException) -> Callable[[], object]:
    def do() -> None:
        raise error

    return do


async def work(
    do: Callable[[], object],
    *,
    handler: SentryHandler | None = None,
    is_middleware: bool = True,
    periodic_jobs: tuple[PeriodicJob, ...] = (),
    reason: CancelReason | None = None,
    **columns: Any,
) -> None:
    """Execute an attempt as a client does."""
    handler = SentryHandler() if handler is None else handler
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        card = job.args.card
        log.info("charging")
        if reason is not None:
            attempt.cancel(reason)
            await asyncio.sleep(0)
        do()
        assert card

    config = Config(
        workers=workers, middleware=[handler] if is_middleware else [], periodic_jobs=periodic_jobs
    )
    handlers = ErrorHandlers([handler])

    async def handle(failure: AttemptFailure) -> bool:
        return await handlers.handle(failure)

    executor = JobExecutor(
        config,
        client=Client(config),
        hand_over=lambda *_: None,
        handle_failure=handle,
        on_stuck=lambda _: None,
    )
    attempt = Attempt(row(**columns))
    attempt.task = asyncio.create_task(executor.execute(attempt))
    await attempt.task
    executor.close()


@pytest.mark.parametrize("error", [ValueError("declined"), JobTimeout(1.0)], ids=["user's", "timeout"])
@pytest.mark.parametrize("is_middleware", [True, False])
async def test_discarded_job_is_one_event(sent: Sent, error: Exception, is_middleware: bool) -> None:
    """It has kind, queue and attempt, and the kind in its fingerprint; the line `job discarded` is no second event."""
    await work(fails(error), is_middleware=is_middleware)

    [event] = sent.events
    [exception] = event["exception"]["values"]
    assert (exception["type"], exception["mechanism"]) == (
        type(error).__name__,
        {"type": "millhand", "handled": False},
    )
    assert event["tags"] == {"job.kind": "act", "job.queue": "default", "job.attempt": 3}
    assert event["fingerprint"] == ["{{ default }}", "act"]
    assert event["transaction"] == "act"
    assert event["contexts"]["job"] == {"id": 7, "max_attempts": 3, "tags": ["eu"]}


@pytest.mark.parametrize("include", [False, True])
async def test_args_are_sent_only_by_choice(sent: Sent, include: bool) -> None:
    """The local variables of the worker, and with them its args, are sent only with `include_local_variables`."""
    await work(fails(ValueError("declined")), handler=SentryHandler(include_local_variables=include))

    assert ("4711" in json.dumps(sent.items)) is include


async def test_event_has_the_breadcrumbs_of_its_attempt_alone(
    sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    """Lines that this attempt logged are breadcrumbs, and those of an attempt before it are not."""
    with caplog.at_level(logging.INFO):
        await work(lambda: log.info("paid"))
        await work(fails(ValueError("declined")))

    crumbs = sent.events[0]["breadcrumbs"]["values"]
    assert [crumb["message"] for crumb in crumbs if crumb["category"] == log.name] == ["charging"]


@pytest.mark.parametrize(
    ("do", "columns", "num_events"),
    [
        (fails(ValueError("no")), {"attempt": 1}, (0, 1)),
        (fails(ValueError("no")), {}, (1, 1)),
        (fails(JobSnooze(timedelta(1))), {}, (0, 0)),
        (fails(JobCancel("no")), {}, (0, 0)),
        (lambda: None, {}, (0, 0)),
    ],
)
async def test_attempt_that_is_repeated_is_reported_by_choice(
    sent: Sent, do: Callable[[], object], columns: dict[str, Any], num_events: tuple[int, int]
) -> None:
    """By default only the last failure is an event, with `every_attempt` each; a signal never is."""
    await work(do, **columns)
    first = len(sent.events)
    DedupeIntegration.reset_last_seen()
    await work(do, handler=SentryHandler(every_attempt=True), **columns)

    assert (first, len(sent.events) - first) == num_events


NIGHTLY = cron("0 3 * * *", Act(), timezone="Europe/Berlin", id="billing.Nightly")
RUN = {"metadata": {"periodic": True, "river:periodic_job_id": "billing.Nightly"}}
NO = ValueError("no")


@pytest.mark.parametrize(
    ("attempts", "statuses"),
    [
        ([(lambda: None, {"attempt": 1})], ["in_progress", "ok"]),
        ([(fails(NO), {"attempt": 1}), (lambda: None, {"attempt": 2})], ["in_progress", "ok"]),
        ([(fails(NO), {"attempt": 1}), (fails(NO), {"attempt": 3})], ["in_progress", "error"]),
        ([(fails(JobCancel("no")), {"attempt": 1})], ["in_progress", "error"]),
        ([(lambda: None, {"attempt": 1, "reason": CancelReason.STOPPING})], ["in_progress"]),
        ([(fails(JobSnooze(timedelta(1))), {"attempt": 1})], ["in_progress"]),
    ],
    ids=["ok", "retried", "discarded", "cancelled", "interrupted", "snoozed"],
)
async def test_run_of_a_periodic_job_is_one_check_in(
    sent: Sent, attempts: list[tuple[Callable[[], object], dict[str, Any]]], statuses: list[str]
) -> None:
    """The first attempt checks in, the last one ends it, and the monitor has the schedule of the configuration."""
    for do, columns in attempts:
        await work(do, periodic_jobs=(NIGHTLY,), **RUN, **columns)

    assert [one["status"] for one in sent.check_ins] == statuses
    assert len({one["check_in_id"] for one in sent.check_ins}) == 1
    assert {one["monitor_slug"] for one in sent.check_ins} == {"billing-nightly"}
    assert sent.check_ins[0]["monitor_config"] == {
        "schedule": {"type": "crontab", "value": "0 3 * * *"},
        "timezone": "Europe/Berlin",
    }


async def test_other_jobs_do_not_check_in(sent: Sent) -> None:
    """A job without the id of a periodic job has no monitor; one that this configuration lacks has no schedule."""
    await work(lambda: None)
    assert sent.check_ins == []

    await work(lambda: None, attempt=1, **RUN)
    assert [one.get("monitor_config") for one in sent.check_ins] == [None, None]


async def test_nothing_is_done_without_a_client_of_sentry() -> None:
    """Before `sentry_sdk.init`, attempts run and fail as without the handler."""
    await work(lambda: None, attempt=1, **RUN)
    await work(fails(ValueError("no")))


@pytest.mark.parametrize(
    ("job", "schedule"),
    [
        (cron("@daily", Act()), {"schedule": {"type": "crontab", "value": "0 0 * * *"}, "timezone": "UTC"}),
        (cron("0 3 * * *", Act(), timezone=timezone(timedelta(hours=1))), None),
        (cron("@every 90m", Act()), {"schedule": {"type": "interval", "value": 90, "unit": "minute"}}),
        (every(timedelta(hours=2), Act()), {"schedule": {"type": "interval", "value": 2, "unit": "hour"}}),
        (every(timedelta(days=14), Act()), {"schedule": {"type": "interval", "value": 14, "unit": "day"}}),
        (every(timedelta(seconds=90), Act()), None),
        (never(Act()), None),
    ],
)
def test_schedule_is_given_as_sentry_knows_it(job: PeriodicJob, schedule: dict[str, Any] | None) -> None:
    """Cron expressions are five fields with a zone, intervals whole minutes at least; others have no schedule."""
    assert monitor_schedule(job.schedule) == schedule


@pytest.mark.parametrize(
    ("id", "slug"),
    [
        ("nightly", "nightly"),
        ("Billing.Nightly/eu", "billing-nightly-eu"),
        ("ä" * 3, ""),
        ("x" * 99, "x" * 50),
    ],
)
def test_monitor_has_a_name_that_sentry_allows(id: str, slug: str) -> None:
    """A slug has lower-case letters, digits, `-` and `_`, at most 50."""
    assert monitor_slug(id) == slug
