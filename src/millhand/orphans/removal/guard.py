"""
The guards: decide from the numbers of a run whether it may remove anything. They do no input or output.

Each reason is one sentence with the limit, the number and the setting that overrides it. One reason aborts the removal. The
findings stay in the ledger for review.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from millhand.core.orphans import OrphansConfig
from millhand.orphans.ledger import Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardFacts:
    """
    The numbers of a complete run. `previous` holds those of the last complete run, None for the first.

    `most_rows` has the rows that each source had at most, since what is due had no row.
    """

    config: OrphansConfig
    database_now: datetime
    hiding_error: str
    is_writable: bool
    most_rows: Mapping[str, int]
    previous: Totals | None
    process_now: datetime
    store_now: datetime
    totals: Totals


def abort_reasons(facts: GuardFacts) -> tuple[str, ...]:
    """Return the reasons to remove nothing; none if the run may act."""
    checks = (_permission, _row_counts, _overlap, _shares)
    return tuple(sentence for check in checks for sentence in check(facts))


def clock_abort_reasons(facts: GuardFacts) -> tuple[str, ...]:
    """Return the reasons to record no age, not even for a report. It needs no totals."""
    limit = facts.config.max_clock_skew
    return tuple(
        f"clocks of {name} and database must agree within {limit.total_seconds():g} s, got {skew.total_seconds():.0f} s; "
        "correct them, or raise orphans.max_clock_skew (once: --max-clock-skew)"
        for name, instant in (("store", facts.store_now), ("process", facts.process_now))
        if (skew := abs(instant - facts.database_now)) > limit
    )


def comparison_abort_reasons(facts: GuardFacts, *, is_by_another_engine: bool) -> tuple[str, ...]:
    """Return the reasons to use nothing of an inventory's comparison; its totals are those before the scan."""
    # Another engine may have read empty tables. The rows that Millhand exported itself are all rows, as in a listing's scan.
    checks = (_row_counts, _nothing_left) if is_by_another_engine else (_nothing_left,)
    return tuple(sentence for check in checks for sentence in check(facts))


def _permission(facts: GuardFacts) -> Iterator[str]:
    if not facts.is_writable:
        yield (
            "the store must allow writes under .millhand/ for the quarantine, got permission denied; "
            "grant put and delete, or set orphans.mode = 'report'"
        )
    if facts.hiding_error:
        yield (
            f"the store must bring back an object that it hid behind a delete marker, got: {facts.hiding_error}; "
            "grant s3:ListBucketVersions and s3:DeleteObjectVersion, or set orphans.mode = 'report'"
        )


def _row_counts(facts: GuardFacts) -> Iterator[str]:
    for source in facts.config.sources:
        rows = facts.totals.rows_of.get(source.name, 0)
        before = facts.most_rows.get(source.name, 0)
        least = max(1, before // 2) if source.min_rows is None else source.min_rows
        if rows < least:
            yield (
                f"source {source.name!r} must have at least {least:,} rows, got {rows:,} ({before:,} in an earlier run); "
                f"if this is correct, set min_rows of the source"
            )


def _nothing_left(facts: GuardFacts) -> Iterator[str]:
    if facts.previous is None:
        return
    for unit, now, before in (
        ("objects", facts.totals.objects, facts.previous.objects),
        ("rows", facts.totals.rows, facts.previous.rows),
    ):
        if before and not now:
            yield (
                f"an inventory must have {unit} if the last run had some, got none ({before:,} in the last run); "
                "if this is correct, run once by a listing, without orphans.inventory"
            )


def _overlap(facts: GuardFacts) -> Iterator[str]:
    totals = facts.totals
    if totals.live == 0 and facts.config.min_overlap > 0:
        yield (
            f"at least one object must be live, got none of {totals.objects:,}; "
            "check that the sources and the bucket write keys alike, or set orphans.min_overlap = 0 (once: --min-overlap 0)"
        )
    present = totals.ready_rows - totals.missing
    if totals.ready_rows and present / totals.ready_rows < facts.config.min_overlap:
        yield (
            f"at least {facts.config.min_overlap:.0%} of ready rows must have their object, got {present:,} of "
            f"{totals.ready_rows:,}; check that this is the right bucket and prefix, "
            "or lower orphans.min_overlap (once: --min-overlap)"
        )


def _shares(facts: GuardFacts) -> Iterator[str]:
    config, totals = facts.config, facts.totals
    over = [
        f"{due:,} of {whole:,} {unit} ({due / whole if whole else 1.0:.2%})"
        for unit, due, whole in (
            ("objects", totals.due_objects, totals.objects),
            ("bytes", totals.due_bytes, totals.bytes),
        )
        if due > config.max_share * whole
    ]
    if over:
        yield (
            f"a run may remove at most {config.max_share:.2%} of all objects and bytes, got {' and '.join(over)}; "
            "check `millhand orphans list`, then raise orphans.max_share (once: --max-share)"
        )
    due = max(totals.due_objects, totals.due_rows, totals.due_uploads)
    if due > config.max_objects:
        yield (
            f"a run may remove at most {config.max_objects:,} objects, got {due:,}; "
            "check `millhand orphans list`, then raise orphans.max_objects (once: --max-objects)"
        )
