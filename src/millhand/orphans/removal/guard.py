"""
May this run act at all? Pure: numbers in, refusals out.

Each refusal is one sentence with the limit, the number and the way to override it. One is enough: then nothing is
removed, and what was found stays in the ledger for a person to look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from millhand.orphans.config import OrphansConfig
from millhand.orphans.ledger import Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardFacts:
    """What a complete run saw. `previous` is what the last complete one saw; None on the first."""

    config: OrphansConfig
    database_now: datetime
    is_writable: bool
    previous: Totals | None
    process_now: datetime
    store_now: datetime
    totals: Totals


def abort_reasons(facts: GuardFacts) -> tuple[str, ...]:
    """Return the reasons why nothing may be removed; none if it may."""
    checks = (_permission, _floors, _overlap, _shares)
    return tuple(sentence for check in checks for sentence in check(facts))


def clock_abort_reasons(facts: GuardFacts) -> tuple[str, ...]:
    """Return why no age may be reckoned by the database's clock, not even for a report; needs no totals."""
    return tuple(_clocks(facts))


def _permission(facts: GuardFacts) -> Iterator[str]:
    if not facts.is_writable:
        yield (
            "the store must let us write under .millhand/ to keep what is removed, got permission denied; "
            "grant put and delete, or set orphans.mode = 'report'"
        )


def _clocks(facts: GuardFacts) -> Iterator[str]:
    limit = facts.config.max_clock_skew
    for name, instant in (("store", facts.store_now), ("process", facts.process_now)):
        skew = abs(instant - facts.database_now)
        if skew > limit:
            yield (
                f"clocks of {name} and database must agree within {limit.total_seconds():g} s, "
                f"got {skew.total_seconds():.0f} s; set them right, or raise orphans.max_clock_skew (once: --max-clock-skew)"
            )


def _floors(facts: GuardFacts) -> Iterator[str]:
    for source in facts.config.sources:
        rows = facts.totals.rows_of.get(source.name, 0)
        before = facts.previous.rows_of.get(source.name, 0) if facts.previous is not None else 0
        floor = max(1, before // 2) if source.min_rows is None else source.min_rows
        if rows < floor:
            yield (
                f"source {source.name!r} must have at least {floor:,} rows, got {rows:,} ({before:,} in the last run); "
                f"if that is right, set min_rows of the source"
            )


def _overlap(facts: GuardFacts) -> Iterator[str]:
    totals = facts.totals
    if totals.live == 0 and facts.config.min_overlap > 0:
        yield (
            f"at least one object must be live, got none of {totals.objects:,}; "
            "see whether the sources spell keys like the bucket, or set orphans.min_overlap = 0 (once: --min-overlap 0)"
        )
    present = totals.ready_rows - totals.missing
    if totals.ready_rows and present / totals.ready_rows < facts.config.min_overlap:
        yield (
            f"at least {facts.config.min_overlap:.0%} of ready rows must have their object, got {present:,} of "
            f"{totals.ready_rows:,}; see whether this is the right bucket and prefix, "
            "or lower orphans.min_overlap (once: --min-overlap)"
        )


def _shares(facts: GuardFacts) -> Iterator[str]:
    config, totals = facts.config, facts.totals
    for unit, due, whole in (
        ("objects", totals.due_objects, totals.objects),
        ("bytes", totals.due_bytes, totals.bytes),
    ):
        if due > config.max_share * whole:
            share = due / whole if whole else 1.0
            yield (
                f"a run may remove at most {config.max_share:.2%} of {whole:,} {unit}, got {due:,} ({share:.2%}); "
                f"look at `millhand orphans list`, then raise orphans.max_share (once: --max-share)"
            )
    due = max(totals.due_objects, totals.due_rows, totals.due_uploads)
    if due > config.max_objects:
        yield (
            f"a run may remove at most {config.max_objects:,} objects, got {due:,}; "
            "look at `millhand orphans list`, then raise orphans.max_objects (once: --max-objects)"
        )
