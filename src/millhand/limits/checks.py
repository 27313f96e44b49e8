"""Verdicts about partitions of limits that start no jobs."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from millhand.core.limit import PartitionStatus
from millhand.core.number_text import counted, duration
from millhand.limits.report_store import HeldQueue
from millhand.shells.doctor.finding import Finding, Found, Level

# A person ends a halt. After a day without that, it may have been overlooked.
HALTED_LONG = timedelta(days=1)
# As a pause: longer than a service that is asked to wait is busy, so the hold may have been forgotten.
HELD_LONG = timedelta(hours=1)


def halted_findings(halted: Sequence[PartitionStatus], now: datetime) -> Found:
    """Judge the partitions that jobs halted, the first halted first: one finding for each queue."""
    by_queue: defaultdict[str, list[PartitionStatus]] = defaultdict(list)
    for one in halted:
        by_queue[one.queue].append(one)
    found = []
    for queue, partitions in by_queue.items():
        first, num_waiting = partitions[0], sum(one.waiting for one in partitions)
        since = "" if first.halted_at is None else f" {duration(now - first.halted_at)} ago"
        found.append(
            Finding(
                level=_halted_level(partitions, now),
                subject=f"queue {queue}",
                found=f"{counted(len(partitions), 'partition')} {'is' if len(partitions) == 1 else 'are'} halted, "
                f"the first by job {first.halted_by}{since}.",
                effect=f"{counted(num_waiting, 'job')} {'waits' if num_waiting == 1 else 'wait'} there until the jobs "
                "that failed finally are retried or skipped.",
                remedy="See which, and retry each job or skip it with millhand limit resume:",
                commands=(f"millhand limit halted {shlex.quote(queue)}",),
            )
        )
    return found


def _halted_level(partitions: Sequence[PartitionStatus], now: datetime) -> Level:
    """Return how bad the halts of a queue are: by the first one behind which jobs wait."""
    halted_ats = [one.halted_at or now for one in partitions if one.waiting]
    if not halted_ats:
        return Level.NOTABLE
    return Level.BROKEN if now - min(halted_ats) >= HALTED_LONG else Level.HARMFUL


def held_findings(held: Sequence[HeldQueue], now: datetime) -> Found:
    """Judge held partitions in which jobs wait: whether one has waited for long, or will."""
    return [
        Finding(
            level=Level.HARMFUL if now - one.due_at >= HELD_LONG else Level.NOTABLE,
            subject=f"queue {one.queue}",
            found=f"{counted(one.num_partitions, 'partition')} with waiting jobs "
            f"{'is' if one.num_partitions == 1 else 'are'} held, {one.key} for another "
            f"{duration(one.held_until - now)}. The first job has waited for {duration(now - one.due_at)}.",
            effect="Their jobs wait until the hold ends.",
            remedy="See which jobs snooze with hold_partition=True, or release it:",
            commands=(
                f"millhand limit show {shlex.quote(one.queue)}",
                f"millhand limit release {shlex.quote(one.queue)} {shlex.quote(one.key)}",
            ),
        )
        for one in held
        if max(now - one.due_at, one.held_until - now) >= HELD_LONG
    ]
