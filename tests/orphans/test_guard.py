"""The guards of a run: each aborts beyond its limit, with the number, the limit and the setting."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.orphans import OrphansConfig, ReferenceSource
from millhand.orphans.ledger import Totals
from millhand.orphans.removal.guard import (
    GuardFacts,
    abort_reasons,
    clock_abort_reasons,
    comparison_abort_reasons,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
UPLOADS = ReferenceSource(name="uploads", table="uploads")
CONFIG = OrphansConfig(sources=(UPLOADS,))


def facts(*, config: OrphansConfig = CONFIG, **changes: Any) -> GuardFacts:
    """Return the facts of a run that may act, with the changes of a test; `totals` by field."""
    totals = Totals(objects=1_000, bytes=100_000, live=990, ready_rows=990, rows_of={"uploads": 990})
    totals = replace(totals, **changes.pop("totals", {}))
    plain = GuardFacts(
        config=config,
        database_now=NOW,
        hiding_error="",
        is_writable=True,
        most_rows={"uploads": 1_000},
        previous=Totals(),
        process_now=NOW,
        store_now=NOW,
        totals=totals,
    )
    return replace(plain, **changes)


def test_a_run_within_all_limits_may_act() -> None:
    """A run within its limits, or exactly at them, may act."""
    on_the_limit = facts(
        totals={"due_objects": 10, "due_bytes": 1_000, "missing": 49, "rows_of": {"uploads": 500}},
        store_now=NOW + timedelta(minutes=5),
        process_now=NOW - timedelta(minutes=5),
    )

    assert abort_reasons(facts()) == ()
    assert abort_reasons(on_the_limit) == ()
    assert clock_abort_reasons(on_the_limit) == ()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"totals": {"due_objects": 11}},
            (
                "a run may remove at most 1.00% of all objects and bytes, got 11 of 1,000 objects (1.10%); "
                "check `millhand orphans list`, then raise orphans.max_share (once: --max-share)"
            ),
        ),
        (
            {"totals": {"due_objects": 1, "due_bytes": 50_000}},
            (
                "a run may remove at most 1.00% of all objects and bytes, got 50,000 of 100,000 bytes (50.00%); "
                "check `millhand orphans list`, then raise orphans.max_share (once: --max-share)"
            ),
        ),
        (
            {"totals": {"due_objects": 11, "due_bytes": 50_000}},
            (
                "a run may remove at most 1.00% of all objects and bytes, "
                "got 11 of 1,000 objects (1.10%) and 50,000 of 100,000 bytes (50.00%); "
                "check `millhand orphans list`, then raise orphans.max_share (once: --max-share)"
            ),
        ),
        (
            {"totals": {"due_rows": 10_001}},
            (
                "a run may remove at most 10,000 objects, got 10,001; "
                "check `millhand orphans list`, then raise orphans.max_objects (once: --max-objects)"
            ),
        ),
        (
            {"totals": {"rows_of": {"uploads": 499}}},
            (
                "source 'uploads' must have at least 500 rows, got 499 (1,000 in an earlier run); "
                "if this is correct, set min_rows of the source"
            ),
        ),
        (
            {"totals": {"missing": 50}},
            (
                "at least 95% of ready rows must have their object, got 940 of 990; "
                "check that this is the right bucket and prefix, or lower orphans.min_overlap (once: --min-overlap)"
            ),
        ),
        (
            {"totals": {"live": 0}},
            (
                "at least one object must be live, got none of 1,000; "
                "check that the sources and the bucket write keys alike, "
                "or set orphans.min_overlap = 0 (once: --min-overlap 0)"
            ),
        ),
        (
            {"store_now": NOW + timedelta(seconds=301)},
            (
                "clocks of store and database must agree within 300 s, got 301 s; "
                "correct them, or raise orphans.max_clock_skew (once: --max-clock-skew)"
            ),
        ),
        (
            {"process_now": NOW - timedelta(hours=1)},
            (
                "clocks of process and database must agree within 300 s, got 3600 s; "
                "correct them, or raise orphans.max_clock_skew (once: --max-clock-skew)"
            ),
        ),
        (
            {"hiding_error": "list versions must succeed, got AccessDenied"},
            (
                "the store must bring back an object that it hid behind a delete marker, got: "
                "list versions must succeed, got AccessDenied; "
                "grant s3:ListBucketVersions and s3:DeleteObjectVersion, or set orphans.mode = 'report'"
            ),
        ),
        (
            {"is_writable": False},
            (
                "the store must allow writes under .millhand/ for the quarantine, got permission denied; "
                "grant put and delete, or set orphans.mode = 'report'"
            ),
        ),
    ],
    ids=[
        "objects",
        "bytes",
        "objects and bytes",
        "count",
        "row count",
        "overlap",
        "none live",
        "store clock",
        "process clock",
        "permission for versions",
        "permission",
    ],
)
def test_a_guard_aborts_beyond_its_limit(changes: dict[str, Any], sentence: str) -> None:
    """Each guard has one sentence, and a single guard aborts the run."""
    found = facts(**changes)

    assert (*clock_abort_reasons(found), *abort_reasons(found)) == (sentence,)


def test_an_empty_source_aborts_unless_it_may_be_empty() -> None:
    """The least number of rows is 1 even in the first run; only `min_rows = 0` allows an empty source."""
    empty = {"totals": {"rows_of": {}}, "most_rows": {}}
    may_be_empty = replace(CONFIG, sources=(replace(UPLOADS, min_rows=0),))

    assert abort_reasons(facts(**empty)) == (
        (
            "source 'uploads' must have at least 1 rows, got 0 (0 in an earlier run); "
            "if this is correct, set min_rows of the source"
        ),
    )
    assert abort_reasons(facts(**empty, config=may_be_empty)) == ()


def test_a_comparison_without_objects_or_rows_aborts_after_a_run_that_had_some() -> None:
    """An inventory that lost all objects or all rows is not used; another engine must have half of the rows too."""
    before = Totals(objects=5, rows_of={"uploads": 1_000})
    counted = facts(previous=before, totals={"rows_of": {"uploads": 499}})
    lost = facts(previous=before, totals={"objects": 0, "rows_of": {}})
    rows = (
        "source 'uploads' must have at least 500 rows, got {} (1,000 in an earlier run); "
        "if this is correct, set min_rows of the source"
    )
    nothing = (
        "an inventory must have {0} if the last run had some, got none ({1} in the last run); "
        "if this is correct, run once by a listing, without orphans.inventory"
    )
    nothings = (nothing.format("objects", "5"), nothing.format("rows", "1,000"))

    assert comparison_abort_reasons(counted, is_by_another_engine=False) == ()
    assert comparison_abort_reasons(counted, is_by_another_engine=True) == (rows.format(499),)
    assert comparison_abort_reasons(lost, is_by_another_engine=False) == nothings
    assert comparison_abort_reasons(lost, is_by_another_engine=True) == (rows.format(0), *nothings)
    assert comparison_abort_reasons(replace(lost, previous=None), is_by_another_engine=False) == ()


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0, 1))
def test_no_share_above_the_limit_passes(due: int, whole: int, limit: float) -> None:
    """For any numbers, a run removes at most its share of the objects, or it aborts."""
    config = replace(CONFIG, max_share=limit)
    found = abort_reasons(facts(config=config, totals={"due_objects": due, "objects": whole}))

    assert (due > limit * whole) == any("objects" in sentence for sentence in found)
