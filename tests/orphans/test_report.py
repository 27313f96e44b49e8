"""The report of a run: its figures by mode, and the fields of its log line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from log_fields import FIELDS
from millhand.core.orphans import Mode, OrphansConfig
from millhand.orphans import RunReport
from millhand.orphans.ledger import Run, Totals
from millhand.orphans.report.report import report_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = Run(
    id=7, bucket="b", mode="delete", fingerprint="f", state="sweeping", epoch=1, started_at=NOW, heartbeat_at=NOW,
    scanned_at=NOW, finished_at=None, cursor_key="", is_ordered=True, totals=Totals(), abort_reasons=(), error=None,
)  # fmt: skip


def report(mode: Mode, *reasons: str, **totals: Any) -> RunReport:
    state = "aborted" if reasons else "completed"
    return report_of(RUN, Totals(**totals), mode=mode, state=state, reasons=reasons, is_first=False)


@pytest.mark.parametrize(
    ("mode", "moved"), [(Mode.REPORT, (0, 0)), (Mode.QUARANTINE, (0, 3)), (Mode.DELETE, (3, 0))]
)
def test_moved_objects_count_by_mode(mode: Mode, moved: tuple[int, int]) -> None:
    """Objects that left their place are deleted or quarantined, by the mode of the run."""
    found = report(mode, removed=3)

    assert (found.deleted, found.quarantined) == moved


def test_only_an_aborted_run_has_findings_that_were_not_removed() -> None:
    """Of what was due, removed and kept objects are taken off."""
    totals = {"due": 10, "removed": 3, "kept": 2}

    aborted, completed = report(Mode.DELETE, "a guard", **totals), report(Mode.DELETE, **totals)

    assert (aborted.not_removed, aborted.abort_reasons) == (5, ("a guard",))
    assert (completed.not_removed, completed.abort_reasons) == (0, ())


def test_a_report_says_what_the_run_saw_and_did_not_judge() -> None:
    """Each kind that waits has a line with its number and its limit, and is no finding."""
    config = OrphansConfig(grace=timedelta(hours=36))
    totals = {"young_objects": 1_000, "candidates": 2, "pending_rows": 3, "soft_deleted_rows": 4}
    found = report(Mode.REPORT, **totals)

    assert found.undecided(config) == [
        "1,000 objects without a row, younger than 1 h, not judged yet",
        "2 candidates, seen in one run only or for less than 36 h, not judged yet",
        "3 pending rows, seen in one run only or for less than 36 h, not judged yet",
        "4 soft-deleted rows, seen in one run only or for less than 30 d, not judged yet",
    ]
    assert (found.num_found, report(Mode.REPORT).undecided(config)) == (0, [])


def test_the_fields_of_the_log_line_are_declared() -> None:
    """Each field of the line is in the catalog of log fields."""
    assert set(report(Mode.DELETE).fields()) - set(FIELDS) == set()


def test_findings_of_every_kind_are_found() -> None:
    """A run that found anything, an alert included, does not report an empty result."""
    names = (
        "orphan_objects",
        "near_matches",
        "uploads",
        "size_mismatches",
        "abandoned_rows",
        "missing",
        "shared",
        "alerts",
    )

    assert [report(Mode.REPORT, **{name: 1}).num_found for name in names] == [1] * len(names)
    assert report(Mode.REPORT, live=5, objects=5).num_found == 0
