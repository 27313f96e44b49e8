"""Verdicts about the way to the database: a pooler, the round trip, and the clocks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from statistics import median

from millhand.core.number_text import duration
from millhand.shells.doctor.finding import Finding, Found, Level

ROUND_TRIP_MAX = timedelta(milliseconds=20)
CLOCK_SKEW_MAX = timedelta(seconds=5)


def pooler_findings(
    own: Collection[int], others: Collection[int], *, is_poll_only: bool, is_refused: bool
) -> Found:
    """
    Judge whether a pooler changes the server's process behind a session.

    `own` are the processes that answered one session, before and while other sessions held transactions in `others`.
    `is_refused` says that a transaction was refused, as by a pooler that has one statement in each transaction.
    """
    is_pooled = len(set(own)) > 1 or not set(own).isdisjoint(others)
    if not (is_pooled or is_refused):
        return []
    if is_poll_only and not is_refused:
        return []
    mode = "statement" if is_refused else "transaction"
    return [
        Finding(
            level=Level.BROKEN,
            subject="DATABASE_URL",
            found=f"A pooler in {mode} mode is between Millhand and the database.",
            effect="LISTEN does not work through it, so workers do not see new jobs, cancels and pauses."
            if mode == "transaction"
            else "Transactions do not work through it, so no job can be fetched.",
            remedy="Connect workers to PostgreSQL itself, or write poll_only = true in [worker] of millhand.toml."
            if mode == "transaction"
            else "Connect workers to PostgreSQL itself.",
        )
    ]


def latency_findings(round_trips: Sequence[timedelta]) -> Found:
    """Judge the median of several round trips."""
    middle = timedelta(seconds=median(one.total_seconds() for one in round_trips))
    if middle <= ROUND_TRIP_MAX:
        return []
    return [
        Finding(
            level=Level.HARMFUL,
            subject="DATABASE_URL",
            found=f"A round trip to the database takes {duration(middle)}.",
            effect="Each fetch and each insert waits that long, so a queue works fewer jobs.",
            remedy="Run workers in the network of the database, and measure again:",
            commands=("millhand doctor --only connection.latency",),
        )
    ]


def clock_findings(ahead: timedelta) -> Found:
    """Judge how far this machine's clock is ahead of the database's; negative if it is behind."""
    if abs(ahead) <= CLOCK_SKEW_MAX:
        return []
    side = "ahead of" if ahead > timedelta(0) else "behind"
    return [
        Finding(
            level=Level.NOTABLE,
            subject="clock of this machine",
            found=f"The clock of this machine is {duration(abs(ahead))} {side} the database's.",
            effect="A job with scheduled_at, and the times in the log, are off by as much.",
            remedy="Start a time daemon:",
            commands=("timedatectl set-ntp true",),
        )
    ]
