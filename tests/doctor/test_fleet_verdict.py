"""The verdict: each check finds what is wrong, says what is usual, and is silent when all is well."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from millhand.core.job import ClientId, JobId
from millhand.doctor.fleet_verdict import (
    Check,
    Figures,
    KindFigures,
    Level,
    PeriodicFigures,
    QueueFigures,
    RunningFigures,
    UnworkedFigures,
    verdict_of,
)
from millhand.engine.store.leader import LeaderRole

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def kind(num_errors: int, num_attempts: int, *usual: int) -> Figures:
    usual_errors, usual_attempts = usual or (0, 0)
    return Figures(
        kinds=[
            KindFigures(
                kind="mail",
                num_attempts=num_attempts,
                num_errors=num_errors,
                usual_attempts=usual_attempts,
                usual_errors=usual_errors,
            )
        ]
    )


def queue(num_available: int, **given: Any) -> Figures:
    return Figures(queues=[QueueFigures(name="a/b", num_available=num_available, **given)])


def late(*hours: float) -> Figures:
    """Return periodic jobs that run each hour, and were last inserted so many hours ago."""
    jobs = [
        PeriodicFigures(id=f"p{number}", inserted_before=ago * HOUR, interval=HOUR)
        for number, ago in enumerate(hours)
    ]
    return Figures(periodic=jobs)


def running(minutes: float, usual_seconds: float | None) -> Figures:
    usual = None if usual_seconds is None else timedelta(seconds=usual_seconds)
    one = RunningFigures(job_id=JobId(7), kind="mail", running_for=minutes * MINUTE, usual=usual)
    return Figures(running=[one])


FOUND = [
    (
        kind(45, 90, 3, 1_000),
        (Check.FAILING, Level.CRITICAL, "mail failed in 45 attempts of 90 in 10 min, which is 50 %.",
         "0.3 % at this time of day", "/errors?kind=mail"),
    ),
    (
        kind(20, 100),
        (Check.FAILING, Level.WARNING, "mail failed in 20 attempts of 100 in 10 min, which is 20 %.",
         None, "/errors?kind=mail"),
    ),
    (
        queue(5, oldest=11 * MINUTE, usual_oldest=MINUTE),
        (Check.BEHIND, Level.WARNING, "The oldest due job in queue a/b has waited for 11 min.",
         "up to 1 min at this time of day", "/queues/a%2Fb"),
    ),
    (
        queue(700, oldest=20 * MINUTE, num_before=500, num_ended=100),
        (Check.BEHIND, Level.CRITICAL,
         "The oldest due job in queue a/b has waited for 20 min, and 200 jobs more wait than 10 min ago.",
         None, "/queues/a%2Fb"),
    ),
    (
        Figures(unworked=[UnworkedFigures(kind="mail", queue="b")]),
        (Check.UNWORKED, Level.CRITICAL, "No client of queue b works kind mail, of which jobs are due.",
         None, "/queues/b"),
    ),
    (
        Figures(unworked=[UnworkedFigures(kind=None, queue="b")]),
        (Check.UNWORKED, Level.CRITICAL, "No client works queue b, in which jobs are due.", None, "/queues/b"),
    ),
    (
        Figures(unresponsive=[(ClientId("w1"), 2 * MINUTE)]),
        (Check.UNRESPONSIVE, Level.WARNING, "Client w1 has sent no heartbeat for 2 min and did not stop.",
         None, "/fleet"),
    ),
    (
        Figures(vacant=[LeaderRole.RIVER]),
        (Check.LEADERLESS, Level.CRITICAL, "No client leads, so no scheduled or failed job becomes available.",
         None, "/fleet"),
    ),
    (
        queue(2, is_paused=True, oldest=HOUR),
        (Check.PAUSED, Level.WARNING, "Queue a/b is paused, and 2 jobs are due.", None, "/queues/a%2Fb"),
    ),
    (
        running(90, 60),
        (Check.STUCK, Level.WARNING, "Job 7 of kind mail has run for 1 h 30 min.",
         "95 of 100 jobs of its kind take at most 1 min", "/jobs/7"),
    ),
    (
        Figures(running=[*running(2, 1).running, *running(90, 60).running, *running(3, 1).running]),
        (Check.STUCK, Level.WARNING,
         "3 jobs run for much longer than their kinds do. Job 7 of kind mail has run for 1 h 30 min.",
         "95 of 100 jobs of its kind take at most 1 min", "/jobs?q=state%3Arunning"),
    ),
    (
        late(1.5, 2.1),
        (Check.MISSED, Level.WARNING, "Periodic job p1 was last inserted 2 h 6 min ago.", "every 1 h", "/periodic"),
    ),
    (
        late(3, 5, 1, 4),
        (Check.MISSED, Level.WARNING, "3 periodic jobs are late. Periodic job p1 was last inserted 5 h ago.",
         "every 1 h", "/periodic"),
    ),
    (
        Figures(oldest_completed=26 * HOUR, completed_retention=24 * HOUR),
        (Check.CLEANUP, Level.WARNING,
         "The oldest completed job is 1 d 2 h old. The leader deletes them after 1 d.", None, "/fleet"),
    ),
    (
        Figures(num_dead=2_000_000, num_live=100_000),
        (Check.CLEANUP, Level.WARNING,
         "PostgreSQL keeps 2,000,000 dead rows of jobs beside 100,000 live ones. A long transaction may hold them.",
         None, "/fleet"),
    ),
    (
        Figures(history_age=HOUR),
        (Check.HISTORY, Level.WARNING, "The history ends 1 h ago, so charts and comparisons are not current.",
         None, "/fleet"),
    ),
]  # fmt: skip

WELL = {
    "nothing is known": Figures(),
    "few failures": kind(19, 19),
    "failures are usual": kind(30, 100, 100, 1_000),
    "a new kind fails rarely": kind(20, 200),
    "a short wait": queue(9_000, oldest=59 * MINUTE / 60, usual_oldest=timedelta(0)),
    "a usual wait": queue(9, oldest=10 * MINUTE, usual_oldest=MINUTE),
    "a wait in a queue that shrinks": queue(500, oldest=HOUR, num_before=900, num_ended=1_000),
    "a fast queue grows a little": queue(1_100, oldest=2 * MINUTE, num_before=900, num_ended=10_000),
    "a paused queue is empty": queue(0, is_paused=True),
    "an old client": Figures(unresponsive=[(ClientId("w1"), HOUR)]),
    "a long kind": running(90, 600),
    "a periodic job that is due": late(1.9),
    "a periodic job of each second, as it was a minute ago": Figures(
        periodic=[PeriodicFigures(id="p", inserted_before=1.01 * MINUTE, interval=MINUTE / 60)]
    ),
    "a periodic job that nobody declares any more": late(25),
    "a short job of a short kind": running(0.9, 0.01),
    "a job of an unknown kind": running(900, None),
    "a job about to be deleted": Figures(oldest_completed=24.5 * HOUR, completed_retention=24 * HOUR),
    "unknown retention": Figures(oldest_completed=1_000 * HOUR),
    "few dead rows": Figures(num_dead=90_000, num_live=1),
    "the history is current": Figures(history_age=2 * MINUTE),
}


@pytest.mark.parametrize(
    ("figures", "finding"), FOUND, ids=lambda value: str(value[0]) if isinstance(value, tuple) else ""
)
def test_check_finds_what_is_wrong(figures: Figures, finding: tuple[Any, ...]) -> None:
    """The finding has its level, a sentence, what is usual, and the page that shows more."""
    verdict = verdict_of(figures)

    [one] = verdict.findings
    assert (one.check, one.level, one.text, one.usual, one.path) == finding
    assert verdict.level is one.level


@pytest.mark.parametrize("name", WELL)
def test_check_finds_nothing_when_all_is_well(name: str) -> None:
    """What is usual, small or unknown is no finding."""
    verdict = verdict_of(WELL[name])

    assert (verdict.level, verdict.findings) == (Level.OK, ())


def test_worst_finding_comes_first() -> None:
    """Critical findings precede warnings, and each check is tested above."""
    figures = Figures(
        queues=[QueueFigures(name="a", num_available=1, is_paused=True)], vacant=[LeaderRole.PERIODIC]
    )

    assert [one.level for one in verdict_of(figures).findings] == [Level.CRITICAL, Level.WARNING]
    assert {finding[0] for _, finding in FOUND} == set(Check)
