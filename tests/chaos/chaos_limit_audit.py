"""
Checks the limits of a chaos run, from the journals of its processes and the answers to changes.

- Never more jobs of a partition, of a limit with a total, or of one client run at once than the limit allowed when the last
  of them got its slot. An attempt whose client was declared dead no longer counts from its rescue on: its slot is free,
  and that it may run on is what "one attempt at a time" excepts too.
- In any time, no more attempts of a partition start than the rate allows, by the database's clock.
- No attempt of a held partition starts.
- A job in order starts after the end of all jobs of its partition that were inserted before it.
- In the end no job waits for a slot or has one, and the counts of slots are zero. No count was corrected meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from chaos_evidence import Evidence
from chaos_journal import Execution
from chaos_limits import IN_ORDER, LIMITS, RATE, REMOVED
from chaos_migrations import LIMITS_VERSION, lost_until
from chaos_plan import RETRIED_KIND
from chaos_rows import Row

from millhand.core.limit import Limit

# The database tells the begin of a transaction, and two of them may come in the other order. The clocks differ by less.
APART_SECONDS = 0.05
INFINITY = float("inf")
Bound = Callable[[Limit], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One execution of a job of a limit. It got its slot between `fetched_at`, of the database, and `began_at`."""

    client: str
    execution: Execution
    queue: str
    tenant: str
    fetched_at: float
    began_at: float
    ended_at: float


def wrong_limits(evidence: Evidence) -> Iterator[str]:
    """Yield where a limit was exceeded, in sentences."""
    # Jobs that were fetched before their slots were lost count no more.
    since = lost_until(evidence.resets, LIMITS_VERSION)
    slots = [slot for slot in slots_of(evidence) if slot.fetched_at >= since]
    # A frozen client may begin what it fetched after the rescue of it freed the slot.
    audited = [slot for slot in slots if slot.queue not in (REMOVED, RATE) and slot.ended_at > slot.began_at]
    bounds: tuple[tuple[str, Bound, Callable[[Slot], Hashable]], ...] = (
        (
            "at_once",
            lambda limit: limit.at_once,
            lambda slot: (slot.queue, slot.tenant if LIMITS[slot.queue].by_args else ""),
        ),
        ("total", lambda limit: limit.total, lambda slot: slot.queue),
        (
            "at_once_per_client",
            lambda limit: limit.at_once_per_client,
            lambda slot: (slot.queue, slot.tenant, slot.client),
        ),
    )
    for name, bound, key in bounds:
        for group in _grouped([one for one in audited if bound(LIMITS[one.queue]) is not None], key):
            yield from _exceeded(evidence, name, bound, group)
    yield from _rates(evidence, slots)
    yield from _held(evidence, slots)
    yield from _order(evidence, slots)
    yield from evidence.left_behind
    for life in evidence.lives:
        if life.says("limit count corrected"):
            yield f"{life.name} corrected a count of slots"


def slots_of(evidence: Evidence) -> Iterator[Slot]:
    """Yield the executions of jobs of limits, by their beginning."""
    plan = {job.n: job for job in evidence.plan}
    rows = {row.id: row for row in evidence.rows}
    last = {
        (one.job, one.attempt): one.token for one in sorted(evidence.executions, key=lambda one: one.token)
    }
    for one in evidence.executions:
        if one.job not in rows:
            continue  # another check finds it
        job = plan[rows[one.job].args["n"]]
        if job.queue in LIMITS and job.tenant is not None:
            is_last = last[one.job, one.attempt] == one.token
            yield Slot(
                client=one.client,
                execution=one,
                queue=job.queue,
                tenant=job.tenant,
                fetched_at=one.token / 1e6 - evidence.epoch,
                began_at=one.began_at,
                ended_at=_freed_at(evidence, rows[one.job], one, is_last=is_last),
            )


def _freed_at(evidence: Evidence, row: Row, one: Execution, *, is_last: bool) -> float:
    """Return when an execution ended, or was rescued before."""
    ended_at = one.ended_at
    if ended_at is None:
        ended_at = evidence.life(one.client).ended_at or INFINITY
    # Each attempt is rescued once, in its last execution.
    rescued_at = evidence.rescued_at.get((row.id, one.attempt), INFINITY) if is_last else INFINITY
    _count(evidence, "ran on after a rescue", is_counted=rescued_at < ended_at)
    return min(ended_at, rescued_at)


def _grouped(slots: Sequence[Slot], key: Callable[[Slot], Hashable]) -> list[list[Slot]]:
    groups: dict[Hashable, list[Slot]] = defaultdict(list)
    for slot in slots:
        groups[key(slot)].append(slot)
    return list(groups.values())


def _exceeded(evidence: Evidence, name: str, bound: Bound, slots: Sequence[Slot]) -> Iterator[str]:
    """Yield the instants at which more jobs of a group ran than the limit allowed."""
    running: list[Slot] = []
    for slot in slots:
        running = [one for one in running if one.ended_at > slot.began_at] + [slot]
        # All of them had their slots when the last one got its own.
        latest = max(running, key=lambda one: one.fetched_at)
        most = _most(evidence, latest, bound)
        _count(evidence, f"{name} reached", is_counted=len(running) >= most)
        if len(running) > most:
            yield (
                f"{slot.queue} {slot.tenant}: {name} must be at most {most}, got {len(running)} at {slot.began_at:.3f}: "
                + ", ".join(
                    f"job {one.execution.job} at {one.client} from {one.began_at:.3f} on" for one in running
                )
            )


def _most(evidence: Evidence, slot: Slot, bound: Bound) -> int:
    """Return the largest bound that may have been in force when a slot was given."""
    changes = [one for one in evidence.changes if one.queue == slot.queue]
    limits = [(LIMITS[slot.queue], -INFINITY), *((one.limit, one.sent_at) for one in changes)]
    replaced_at = [*(one.answered_at for one in changes), INFINITY]
    return max(
        bound(limit) or 0
        for (limit, since), until in zip(limits, replaced_at, strict=True)
        if since <= slot.began_at and until >= slot.fetched_at - APART_SECONDS
    )


def _rates(evidence: Evidence, slots: Sequence[Slot]) -> Iterator[str]:
    """Yield the starts that a rate did not allow: a bucket of tokens has one for each start."""
    rate = LIMITS[RATE].rate
    assert rate is not None
    a_second = rate.allowed / rate.per.total_seconds()
    for group in _grouped([slot for slot in slots if slot.queue == RATE], lambda slot: slot.tenant):
        tokens, before = float(rate.burst), -INFINITY
        for at in sorted(slot.fetched_at for slot in group):
            tokens = min(float(rate.burst), tokens + (at - before) * a_second) - 1.0
            before = at
            _count(evidence, "rate reached", is_counted=tokens < 1.0)
            if tokens < -APART_SECONDS * a_second:
                yield f"{RATE} {group[0].tenant}: a start at {at:.3f} exceeds the rate by {-tokens:.3f} jobs"


def _held(evidence: Evidence, slots: Sequence[Slot]) -> Iterator[str]:
    for hold in evidence.holds:
        for slot in slots:
            is_same = (slot.queue, slot.tenant) == (hold.queue, hold.tenant)
            if is_same and hold.answered_at + APART_SECONDS < slot.fetched_at < hold.until - APART_SECONDS:
                yield (
                    f"{hold.queue} {hold.tenant} was held from {hold.answered_at:.3f} to {hold.until:.3f}, and job "
                    f"{slot.execution.job} started at {slot.fetched_at:.3f} in {slot.client}"
                )


def _order(evidence: Evidence, slots: Sequence[Slot]) -> Iterator[str]:
    """Yield the jobs that started before the end of one that was inserted before them."""
    # An insert without an answer may come later than the next one.
    unanswered = {n for n, answers in evidence.answers.items() if "none" in answers}
    places = {row.id: row.args["n"] for row in evidence.rows}
    cancelled = _cancelled(evidence)
    in_order = [
        slot
        for slot in slots
        if slot.queue == IN_ORDER
        and slot.execution.attempt <= cancelled.get(slot.execution.job, slot.execution.attempt)
    ]
    for group in _grouped(in_order, lambda slot: slot.tenant):
        ended: dict[int, float] = {}
        for slot in group:
            ended[slot.execution.job] = max(slot.ended_at, ended.get(slot.execution.job, 0.0))
        began: dict[int, float] = {}
        for slot in group:
            began.setdefault(slot.execution.job, slot.began_at)
        free_at, holder = -INFINITY, 0
        for id in sorted(began):
            if places[id] in unanswered:
                continue
            if began[id] < free_at:
                yield (
                    f"{IN_ORDER} {group[0].tenant}: job {id} started at {began[id]:.3f}, and job {holder} before it "
                    f"ended at {free_at:.3f}"
                )
            if ended[id] > free_at:
                free_at, holder = ended[id], id


def _cancelled(evidence: Evidence) -> dict[int, int]:
    """Return the attempts in which jobs cancelled themselves and left their place in the order. They are retried later."""
    kinds = {job.n: job.kind for job in evidence.plan}
    return {
        row.id: attempt
        for row in evidence.rows
        if kinds[row.args["n"]] == RETRIED_KIND
        for attempt, _ in row.errors
        if attempt not in row.rescued
    }


def _count(evidence: Evidence, what: str, *, is_counted: bool) -> None:
    evidence.figures[what] = evidence.figures.get(what, 0) + is_counted
