"""The report of one run."""

from __future__ import annotations

from dataclasses import dataclass

from millhand.orphans.config import Mode
from millhand.orphans.ledger import Run, Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """
    What one run found and did.

    `uploads` counts multipart uploads that no row waits for, `aborted_uploads` those that the run aborted. `deleted` and
    `quarantined` count objects moved out of their place, by mode; until they are `purged`, both can be restored.
    `abort_reasons` says why the run aborted, and `not_removed` counts what was due and stayed because of that. `kept`
    counts what was due but turned out to be live, changed, locked or gone at the second check. `alerts` counts removed
    objects that a row references or a reader asked for.
    """

    abandoned_rows: int = 0
    aborted_uploads: int = 0
    alerts: int = 0
    bucket: str
    bytes: int = 0
    deleted: int = 0
    deleted_rows: int = 0
    is_first: bool = False
    is_resumed: bool = False
    kept: int = 0
    missing: int = 0
    near_matches: int = 0
    mode: Mode
    objects: int = 0
    orphan_bytes: int = 0
    orphan_objects: int = 0
    purged: int = 0
    quarantined: int = 0
    abort_reasons: tuple[str, ...] = ()
    not_removed: int = 0
    restored: int = 0
    rows: int = 0
    run_id: int | None = None
    seconds: float = 0.0
    shared: int = 0
    size_mismatches: int = 0
    state: str
    unclassified: int = 0
    uploads: int = 0

    def fields(self) -> dict[str, str | int | float]:
        """Return the fields of the run's log line."""
        return {
            "mode": self.mode.value,
            "objects": self.objects,
            "rows": self.rows,
            "orphan_objects": self.orphan_objects,
            "abandoned_rows": self.abandoned_rows,
            "missing": self.missing,
            "near_matches": self.near_matches,
            "uploads": self.uploads,
            "deleted": self.deleted,
            "deleted_rows": self.deleted_rows,
            "quarantined": self.quarantined,
            "aborted_uploads": self.aborted_uploads,
            "restored": self.restored,
            "alerts": self.alerts,
            "not_removed": self.not_removed,
            "seconds": round(self.seconds, 3),
        }

    @property
    def num_found(self) -> int:
        """The number of findings and alerts."""
        objects = self.orphan_objects + self.near_matches + self.uploads + self.size_mismatches
        return objects + self.abandoned_rows + self.missing + self.shared + self.alerts


def report_of(
    run: Run, totals: Totals, *, mode: Mode, state: str, reasons: tuple[str, ...], is_first: bool
) -> RunReport:
    """Return the report of a run, from its totals."""
    return RunReport(
        abandoned_rows=totals.abandoned_rows,
        aborted_uploads=totals.aborted_uploads,
        alerts=totals.alerts,
        bucket=run.bucket,
        bytes=totals.bytes,
        deleted=totals.removed if mode is Mode.DELETE else 0,
        deleted_rows=totals.deleted_rows,
        is_first=is_first,
        kept=totals.kept,
        missing=totals.missing,
        near_matches=totals.near_matches,
        mode=mode,
        objects=totals.objects,
        orphan_bytes=totals.orphan_bytes,
        orphan_objects=totals.orphan_objects,
        purged=totals.purged,
        quarantined=totals.removed if mode is Mode.QUARANTINE else 0,
        abort_reasons=reasons,
        not_removed=max(0, totals.due - totals.removed - totals.kept) if reasons else 0,
        restored=totals.restored,
        rows=totals.rows,
        run_id=run.id,
        shared=totals.shared,
        size_mismatches=totals.size_mismatches,
        state=state,
        unclassified=totals.unclassified,
        uploads=totals.uploads,
    )
