"""
Checks the runs of the periodic job against docs/explanation/delivery_guarantees.md, by the logged terms of each process.

- A run that falls due while a worker holds the leader role is inserted at once, or after a fault has ended. Of the runs
  that fell due during a fault, the first is inserted and the log counts the others. A term that ends before may lose them.
- If no client holds the leader role, a client that is well takes it within one term.
- A run is inserted twice only if its insert may have got no answer, if its process stood still meanwhile, or if the leader
  role changed hands within a second of it.
- No run is inserted early, or by a client without the leader role.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from chaos_evidence import Evidence, Tick
from chaos_fleet import Life, Line

from millhand.engine.leadership import PERIODIC_RENEW_SECONDS, PERIODIC_TTL_SECONDS

# From a run's time until its insert without faults, on a busy machine.
INSERT_SECONDS = 6.0
# From the end of a fault: a statement under way, and a backoff delay.
AGAIN_SECONDS = 22.0
# Around a change of the leader, different clocks and the start of a process matter for this time.
PASSING_SECONDS = 1.0
# A term, a renewal without an answer, and a bid.
FOLLOWED_SECONDS = PERIODIC_TTL_SECONDS + PERIODIC_RENEW_SECONDS + 3.0
# Faults in which no client holds the leader role, whatever it believes.
BLOCKING = frozenset(("cut", "forget", "frozen", "partition", "partition_to_client", "partition_to_server"))
INFINITY = float("inf")


@dataclass(frozen=True, kw_only=True)
class Term:
    """When a life held the leader role, as it believed; `left_out_at` is when it logged that it skipped runs."""

    began_at: float
    ended_at: float
    left_out_at: tuple[float, ...]
    life: Life

    def holds(self, at: float, margin: float = 0.0) -> bool:
        return self.began_at - margin <= at <= self.ended_at + margin


def terms_of(life: Life, epoch: float) -> Iterator[Term]:
    """Yield the terms of a life from its log."""
    began_at: float | None = None
    left_out_at: list[float] = []
    for line in life.lines():
        match line.get("message"):
            case "leadership gained" if line["leader_role"] == "periodic":
                began_at, left_out_at = _at(line, epoch), []
            case "periodic runs missed":
                left_out_at.append(_at(line, epoch))
            case "leadership lost" | "leadership resigned" if line["leader_role"] == "periodic" and began_at:
                yield Term(
                    began_at=began_at, ended_at=_at(line, epoch), left_out_at=tuple(left_out_at), life=life
                )
                began_at = None
    if began_at:
        ended_at = INFINITY if life.ended_at is None else life.ended_at
        yield Term(began_at=began_at, ended_at=ended_at, left_out_at=tuple(left_out_at), life=life)


def _at(line: Line, epoch: float) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp() - epoch


def wrong_runs(evidence: Evidence) -> list[str]:
    """Return the violations of the periodic runs."""
    terms = [term for life in evidence.lives for term in terms_of(life, evidence.epoch)]
    evidence.figures["periodic terms"] = len(terms)
    runs: dict[int, list[Tick]] = defaultdict(list)
    for tick in evidence.ticks:
        runs[round(tick.due_at)].append(tick)
    return [
        *_doubled(evidence, terms, runs),
        *_missing(evidence, terms, runs),
        *_untimely(evidence, terms),
        *_unfollowed(evidence, terms),
    ]


def _doubled(evidence: Evidence, terms: list[Term], runs: dict[int, list[Tick]]) -> Iterator[str]:
    for due_at, ticks in sorted(runs.items()):
        if len(ticks) == 1:
            continue
        _count(evidence, "periodic runs doubled", len(ticks) - 1)
        first, last = due_at - evidence.epoch, max(tick.created_at for tick in ticks) - evidence.epoch
        lives = {term.life.name: term.life for term in terms if _touches(term, first, last)}
        has_passed = len({term.life.name for term in terms if _touches(term, first, first)}) > 1
        is_spoiled = any(evidence.spoiled(life.who, first - PASSING_SECONDS, last) for life in lives.values())
        if not has_passed and not is_spoiled:
            yield f"the periodic run of {due_at} exists {len(ticks)} times although {', '.join(lives)} was well"


def _touches(term: Term, first: float, last: float) -> bool:
    return term.began_at - PASSING_SECONDS <= last and first <= term.ended_at + PASSING_SECONDS


def _missing(evidence: Evidence, terms: list[Term], runs: dict[int, list[Tick]]) -> Iterator[str]:
    step = round(evidence.tick_seconds)
    first = int(evidence.began_at + evidence.epoch) // step + 1
    last = int(evidence.ended_at + evidence.epoch) // step
    for due_at in range(first * step, last * step, step):
        if runs[due_at]:
            continue
        _count(evidence, "periodic runs missing", 1)
        at = due_at - evidence.epoch
        for term in terms:
            if term.began_at + PASSING_SECONDS <= at <= term.ended_at:
                later = [tick for due in runs if due > due_at for tick in runs[due]]
                own = [tick for tick in later if _holder(terms, tick.due_at - evidence.epoch) is term]
                yield from _missed(evidence, term, due_at, own)


def _holder(terms: list[Term], at: float) -> Term | None:
    """Return the term that a run belongs to; of two that overlap, the later one."""
    return max((term for term in terms if term.holds(at)), key=lambda one: one.began_at, default=None)


def _missed(evidence: Evidence, term: Term, due_at: int, later: Sequence[Tick]) -> Iterator[str]:
    """Yield a missing run that fell due in a term, unless there is a reason; `later` are the term's later runs."""
    at, life = due_at - evidence.epoch, term.life
    next_at = min((tick.created_at - evidence.epoch for tick in later), default=None)
    until = evidence.done_until(life.who, at, seconds=INSERT_SECONDS, after=AGAIN_SECONDS)
    if next_at is None:
        if term.ended_at > until:
            yield f"the periodic run of {due_at} is missing, {life.name} which held the leader role throughout"
    elif not any(at <= stop_sent_at <= next_at + PASSING_SECONDS for stop_sent_at in term.left_out_at):
        yield f"the periodic run of {due_at} was skipped by {life.name} without a log line"
    elif not evidence.spoiled(life.who, at - AGAIN_SECONDS, at):
        yield f"the periodic run of {due_at} was skipped by {life.name}, which was well"


def _untimely(evidence: Evidence, terms: list[Term]) -> Iterator[str]:
    """Yield the runs that were inserted early, late, or outside of all terms."""
    for tick in evidence.ticks:
        at, created_at = tick.due_at - evidence.epoch, tick.created_at - evidence.epoch
        holders = [term for term in terms if term.holds(at, PASSING_SECONDS)]
        named = f"the periodic run of {tick.due_at:.0f}"
        if created_at < at - PASSING_SECONDS:
            yield f"{named} was inserted {at - created_at:.1f} s before it"
        elif not holders:
            yield f"{named} was inserted while no client held the leader role"
        elif created_at > (
            until := max(
                evidence.done_until(term.life.who, at, seconds=INSERT_SECONDS, after=AGAIN_SECONDS)
                for term in holders
            )
        ):
            yield f"{named} was inserted {created_at - at:.1f} s after it, and was to be in {until - at:.1f} s"


def _unfollowed(evidence: Evidence, terms: list[Term]) -> Iterator[str]:
    """Yield a worker that was well for longer than a term without taking a free leader role."""
    for began_at, ended_at in _gaps(evidence, terms):
        longest = round(ended_at - began_at)
        evidence.figures["longest without the leader_role, s"] = max(
            longest, evidence.figures.get("longest without the leader_role, s", 0)
        )
        for life in evidence.lives:
            since = max(began_at, _works_since(life, evidence.epoch))
            until = evidence.done_until(life.who, since, seconds=FOLLOWED_SECONDS, after=FOLLOWED_SECONDS)
            gone_at = min(life.ended_at or INFINITY, life.stop_sent_at or INFINITY)
            if until < min(ended_at, gone_at):
                yield (
                    f"no client inserted the periodic jobs for {ended_at - began_at:.1f} s from {began_at:.1f} on, and "
                    f"{life.name} was to do so {until - began_at:.1f} s after that at the latest"
                )


def _works_since(life: Life, epoch: float) -> float:
    started = next((line for line in life.lines() if line.get("message") == "worker started"), None)
    return INFINITY if started is None or "timestamp" not in started else _at(started, epoch)


def _gaps(evidence: Evidence, terms: list[Term]) -> Iterator[tuple[float, float]]:
    """Yield the times at which no client that could use it held the leader role."""
    held = sorted(
        (max(began_at, evidence.began_at), min(ended_at, evidence.ended_at))
        for term in terms
        for began_at, ended_at in _unblocked(evidence, term)
        if began_at < evidence.ended_at  # later ones are of the time in which jobs are worked off
    )
    held = [(evidence.began_at, evidence.began_at), *held, (evidence.ended_at, evidence.ended_at)]
    covered_until = evidence.began_at
    for (_, before), (after, _) in pairwise(held):
        covered_until = max(covered_until, before)
        if after > covered_until:
            yield covered_until, after


def _unblocked(evidence: Evidence, term: Term) -> Iterator[tuple[float, float]]:
    at = term.began_at
    for trouble in sorted(evidence.troubles_of(term.life.who), key=lambda one: one.began_at):
        if trouble.name in BLOCKING and trouble.ended_at > at and trouble.began_at < term.ended_at:
            if trouble.began_at > at:
                yield at, trouble.began_at
            at = trouble.ended_at
    if at < term.ended_at:
        yield at, term.ended_at


def _count(evidence: Evidence, what: str, num: int) -> None:
    evidence.figures[what] = evidence.figures.get(what, 0) + num
