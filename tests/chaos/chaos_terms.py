"""
Check the runs of the periodic job against docs/explanation/delivery_guarantees.md, from the terms that each process logs.

- A run that falls due while a worker holds the leader_role is there, at once, or as soon as what was wrong then is over. Of
  those that fell due meanwhile the first is there, and the log counts the others. A term that ends before may lose them.
- Once nobody holds the leader_role, somebody does within a term: whoever is well bids.
- A run is there twice only if its insert may have got no answer, or if whoever inserted it stood still around it, or if
  the leader_role passed on within a second of it.
- None is inserted before it is due, nor by anybody who does not hold the leader_role.
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

# From when a run is due until it is in, where nothing is wrong: an insert, on a machine that is busy.
INSERT_SECONDS = 6.0
# From when what was wrong is over: a statement that was under way, and a pause between two tries.
AGAIN_SECONDS = 22.0
# Within this time of a change of hands, clocks of clients that differ and a start of ours make a difference.
PASSING_SECONDS = 1.0
# A term, a renewal whose answer did not come, and a bid.
FOLLOWED_SECONDS = PERIODIC_TTL_SECONDS + PERIODIC_RENEW_SECONDS + 3.0
# What has nobody hold an leader_role any more, whatever it believes.
BLOCKING = frozenset(("cut", "forget", "frozen", "partition", "partition_to_client", "partition_to_server"))
INFINITY = float("inf")


@dataclass(frozen=True, kw_only=True)
class Term:
    """When a life held the leader_role, as it believed; `left_out_at` is when it said that it left runs out."""

    began_at: float
    ended_at: float
    left_out_at: tuple[float, ...]
    life: Life

    def holds(self, at: float, margin: float = 0.0) -> bool:
        return self.began_at - margin <= at <= self.ended_at + margin


def terms_of(life: Life, epoch: float) -> Iterator[Term]:
    """Give the terms of a life, from its log."""
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
    """Return what is wrong with the runs, in sentences."""
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
            yield f"the periodic run of {due_at} is there {len(ticks)} times, {', '.join(lives)} being well"


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
    """Return the term whose run one is: of two that overlap, for one was not heard of, the later."""
    return max((term for term in terms if term.holds(at)), key=lambda one: one.began_at, default=None)


def _missed(evidence: Evidence, term: Term, due_at: int, later: Sequence[Tick]) -> Iterator[str]:
    """Tell of a run that fell due in a term, and is not there, if there is no reason; `later` are that term's."""
    at, life = due_at - evidence.epoch, term.life
    next_at = min((tick.created_at - evidence.epoch for tick in later), default=None)
    until = evidence.done_until(life.who, at, seconds=INSERT_SECONDS, after=AGAIN_SECONDS)
    if next_at is None:
        if term.ended_at > until:
            yield f"the periodic run of {due_at} is missing, {life.name} having held the leader_role throughout"
    elif not any(at <= told_at <= next_at + PASSING_SECONDS for told_at in term.left_out_at):
        yield f"the periodic run of {due_at} was left out by {life.name}, which must say so, and does not"
    elif not evidence.spoiled(life.who, at - AGAIN_SECONDS, at):
        yield f"the periodic run of {due_at} was left out by {life.name}, which was well"


def _untimely(evidence: Evidence, terms: list[Term]) -> Iterator[str]:
    """Tell of runs that were inserted early, late, or by nobody who held the leader_role."""
    for tick in evidence.ticks:
        at, created_at = tick.due_at - evidence.epoch, tick.created_at - evidence.epoch
        holders = [term for term in terms if term.holds(at, PASSING_SECONDS)]
        named = f"the periodic run of {tick.due_at:.0f}"
        if created_at < at - PASSING_SECONDS:
            yield f"{named} was inserted {at - created_at:.1f} s before it"
        elif not holders:
            yield f"{named} was inserted, and nobody held the leader_role"
        elif created_at > (
            until := max(
                evidence.done_until(term.life.who, at, seconds=INSERT_SECONDS, after=AGAIN_SECONDS)
                for term in holders
            )
        ):
            yield f"{named} was inserted {created_at - at:.1f} s after it, and was to be in {until - at:.1f} s"


def _unfollowed(evidence: Evidence, terms: list[Term]) -> Iterator[str]:
    """Tell of a worker that was well for longer than a term, while nobody held the leader_role, and did not take it."""
    for began_at, ended_at in _gaps(evidence, terms):
        longest = round(ended_at - began_at)
        evidence.figures["longest without the leader_role, s"] = max(
            longest, evidence.figures.get("longest without the leader_role, s", 0)
        )
        for life in evidence.lives:
            since = max(began_at, _works_since(life, evidence.epoch))
            until = evidence.done_until(life.who, since, seconds=FOLLOWED_SECONDS, after=FOLLOWED_SECONDS)
            gone_at = min(life.ended_at or INFINITY, life.told_at or INFINITY)
            if until < min(ended_at, gone_at):
                yield (
                    f"nobody inserted the periodic jobs for {ended_at - began_at:.1f} s from {began_at:.1f} on, and "
                    f"{life.name} was to do so {until - began_at:.1f} s after that at the latest"
                )


def _works_since(life: Life, epoch: float) -> float:
    started = next((line for line in life.lines() if line.get("message") == "worker started"), None)
    return INFINITY if started is None or "timestamp" not in started else _at(started, epoch)


def _gaps(evidence: Evidence, terms: list[Term]) -> Iterator[tuple[float, float]]:
    """Give the times at which nobody held the leader_role that could do anything with it."""
    held = sorted(
        (max(began_at, evidence.began_at), min(ended_at, evidence.ended_at))
        for term in terms
        for began_at, ended_at in _unblocked(evidence, term)
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
