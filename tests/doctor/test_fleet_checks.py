"""Verdicts about clients, queues and jobs: each has an effect and a command, and is found only where it is true."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from doctor_worlds import named

from millhand.core.client_row import ClientRow, ClientState
from millhand.core.job import ClientId, JobId
from millhand.doctor import fleet_checks
from millhand.doctor.fleet_verdict import (
    Figures,
    KindFigures,
    PeriodicFigures,
    QueueFigures,
    RunningFigures,
    UnworkedFigures,
)
from millhand.doctor.store import DiscardedKind
from millhand.engine.fleet import Fleet
from millhand.engine.queue_report import QueueReport
from millhand.engine.store.client import HeldJobs
from millhand.engine.store.leader import LeaderRole
from millhand.shells.doctor.finding import Finding, Found

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
DAY = timedelta(days=1)

OF_FIGURES: list[tuple[Callable[[Figures], Found], Figures, str, str, str]] = [
    (
        fleet_checks.leader_findings, Figures(vacant=[LeaderRole.PERIODIC]), "broken", "leader role periodic", "",
    ),
    (
        fleet_checks.unresponsive_findings, Figures(unresponsive=[(ClientId("a"), MINUTE)]),
        "notable", "client a", "millhand client list",
    ),
    (
        fleet_checks.history_findings, Figures(history_age=HOUR), "notable", "history", "millhand client list",
    ),
    (
        fleet_checks.unworked_queue_findings,
        Figures(unworked=[UnworkedFigures(queue="a b", kind=None), UnworkedFigures(queue="c", kind="k")]),
        "broken", "queue a b", "millhand worker MODULE:CONFIG --queue 'a b':10",
    ),
    (
        fleet_checks.unknown_kind_findings,
        Figures(unworked=[UnworkedFigures(queue="a", kind=None), UnworkedFigures(queue="c", kind="k")]),
        "broken", "kind k", "millhand job list --state available --queue c --kind k",
    ),
    (
        fleet_checks.behind_findings,
        Figures(queues=[QueueFigures(name="q", num_available=9, oldest=HOUR, usual_oldest=MINUTE)]),
        "harmful", "queue q", "millhand worker MODULE:CONFIG --queue q:50",
    ),
    (
        fleet_checks.failing_findings,
        Figures(kinds=[KindFigures(kind="k", num_attempts=100, num_errors=60)]),
        "harmful", "kind k", "millhand job list --state retryable,discarded --kind k",
    ),
    (
        fleet_checks.failing_findings,
        Figures(kinds=[KindFigures(kind="k", num_attempts=100, num_errors=20)]),
        "notable", "kind k", "millhand job list --state retryable,discarded --kind k",
    ),
    (
        fleet_checks.periodic_findings,
        Figures(periodic=[PeriodicFigures(id="p", inserted_before=HOUR, interval=10 * MINUTE)]),
        "harmful", "periodic job p", "millhand client list",
    ),
    (
        fleet_checks.slow_findings,
        Figures(running=[RunningFigures(job_id=JobId(7), kind="k", running_for=HOUR, usual=MINUTE)]),
        "notable", "job 7", "millhand job show 7",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("check", "figures", "level", "subject", "command"), OF_FIGURES)
def test_verdict_of_the_page_has_an_effect_and_a_remedy(
    check: Callable[[Figures], Found], figures: Figures, level: str, subject: str, command: str
) -> None:
    """Each finding of the web page's verdict is one of `millhand doctor`, with a command; without figures there is none."""
    [one] = check(figures)

    assert named([one]) == [(level, subject)]
    assert one.commands[:1] == ((command,) if command else ())
    assert check(Figures()) == []


@pytest.mark.parametrize(("age", "is_first"), [(MINUTE, True), (HOUR, False)])
@pytest.mark.parametrize("check", [fleet_checks.leader_findings, fleet_checks.unworked_queue_findings])
def test_client_that_hangs_is_looked_at_first(
    check: Callable[[Figures], Found], age: timedelta, *, is_first: bool
) -> None:
    """A blocked event loop leaves queues and leader roles as if no client were there; another worker is no remedy."""
    unresponsive = [(ClientId("a"), age)]
    figures = Figures(
        unresponsive=unresponsive, unworked=[UnworkedFigures(queue="q", kind=None)], vacant=[LeaderRole.RIVER]
    )

    [found] = check(figures)

    assert isinstance(found, Finding)
    assert found.remedy.startswith("First see fleet.unresponsive") is is_first
    assert ["`event loop blocked`" in str(one) for one in fleet_checks.unresponsive_findings(figures)] == [
        True
    ] * is_first


@pytest.mark.parametrize(
    ("hours", "expected"), [(0.5, [("notable", "queue q")]), (1, [("harmful", "queue q")]), (None, [])]
)
def test_pause_of_an_hour_is_harmful(hours: float | None, expected: list[tuple[str, str]]) -> None:
    """A short pause is notable, and one of an hour may have been forgotten."""
    paused_at = None if hours is None else NOW - hours * HOUR
    report = QueueReport(
        name="q", paused_at=paused_at, num_available=2, num_retryable=0, num_running=0, num_scheduled=0
    )
    figures = Figures(queues=[QueueFigures(name="q", num_available=2, is_paused=paused_at is not None)])

    assert named(fleet_checks.paused_findings(figures, [report], NOW)) == expected


@pytest.mark.parametrize(("seconds", "is_found"), [(None, False), (-60, False), (60, False), (61, True)])
def test_due_job_that_stays_is_found(seconds: float | None, *, is_found: bool) -> None:
    """A job that was due more than a minute ago, and is not available, waits for a leader."""
    due = None if seconds is None else NOW - timedelta(seconds=seconds)
    report = QueueReport(
        name="q", next_scheduled_at=due, num_available=0, num_retryable=1, num_running=0, num_scheduled=0
    )

    found = fleet_checks.overdue_findings([report], NOW)

    assert named(found) == ([("broken", "queue q")] if is_found else [])


def test_unresponsive_client_with_running_jobs_is_harmful() -> None:
    """Jobs of a killed client wait until a leader gives them to another one; a client without jobs is only notable."""
    figures = Figures(unresponsive=[(ClientId("a"), MINUTE), (ClientId("b"), MINUTE)])
    held = [HeldJobs(ClientId("a"), queue, 2, NOW, NOW) for queue in ("q", "r")]

    found = fleet_checks.unresponsive_findings(figures, held)

    assert named(found) == [("harmful", "client a"), ("notable", "client b")]
    assert [one.found.partition("did not stop. ")[2] for one in found if isinstance(one, Finding)] == [
        "4 jobs are marked as running there.",
        "",
    ]


def fleet(*rows: ClientRow) -> Fleet:
    return Fleet(clients=rows, leaders={}, other_queues=frozenset(), is_registering=True)


def client(state: ClientState, seen: timedelta = timedelta(0), version: str | None = "1") -> ClientRow:
    return ClientRow(id=ClientId("a"), state=state, last_seen_at=NOW - seen, version=version)


@pytest.mark.parametrize(
    ("row", "age", "is_found"),
    [
        (client(ClientState.WORKING), DAY, False),
        (client(ClientState.STOPPED, HOUR), HOUR, True),
        (client(ClientState.STOPPED, MINUTE), HOUR, False),
        (client(ClientState.UNRESPONSIVE, HOUR), HOUR, True),
        (client(ClientState.UNRESPONSIVE, HOUR), MINUTE, False),
        (client(ClientState.UNREGISTERED), HOUR, False),
        (client(ClientState.UNREGISTERED), DAY, True),
        (None, HOUR, False),
        (None, DAY, True),
    ],
)
def test_jobs_of_clients_that_are_gone_are_found(
    row: ClientRow | None, age: timedelta, *, is_found: bool
) -> None:
    """A living client may run a job for long; a dead one has lost it, and an unknown one probably after two hours."""
    held = HeldJobs(ClientId("a"), "q", 2, NOW - age, NOW)

    found = fleet_checks.stranded_findings([held], fleet(*([row] if row else [])), NOW)

    assert named(found) == ([("harmful", "client a")] if is_found else [])


@pytest.mark.parametrize(
    ("versions", "text"),
    [
        (["1"], None),
        (["1", "1"], None),
        (["2", "1", "2"], "Clients of several versions work: 1 (1), 2 (2)."),
        ([None, "1"], None),
    ],
)
def test_several_versions_are_notable(versions: list[str | None], text: str | None) -> None:
    """Only working clients that report a version count."""
    rows = [client(ClientState.WORKING, version=version) for version in versions]
    stopped = client(ClientState.STOPPED, version="0")

    found = fleet_checks.version_findings(fleet(*rows, stopped))

    assert [one.found for one in found] == ([] if text is None else [text])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("oldest", "retention", "is_known", "expected"),
    [
        (DAY, DAY, True, []),
        (DAY + 2 * HOUR, DAY, True, [("harmful", "table river_job")]),
        (DAY + 2 * HOUR, DAY, False, [("unseen", "")]),
        (99 * DAY, None, True, []),
        (None, DAY, True, []),
    ],
)
def test_old_jobs_are_judged_by_the_retention_if_it_is_known(
    oldest: timedelta | None, retention: timedelta | None, expected: list[tuple[str, str]], *, is_known: bool
) -> None:
    """Older jobs are a fault only if the leader's retention is known; without it, the check says that it cannot see."""
    figures = Figures(oldest_completed=oldest, num_dead=10**9)

    assert named(fleet_checks.cleanup_findings(figures, retention, is_known=is_known)) == expected


def test_discarded_jobs_are_counted_by_kind() -> None:
    """One job and many are named with the command that runs them again."""
    one, many = fleet_checks.discarded_findings([DiscardedKind("pay", 1), DiscardedKind("mail", 12_000)])

    assert one.found == "1 job of kind pay was discarded within a day."  # type: ignore[union-attr]
    assert many.found == "12,000 jobs of kind mail were discarded within a day."  # type: ignore[union-attr]
    assert many.commands[1] == "millhand job retry --state discarded --kind mail"
