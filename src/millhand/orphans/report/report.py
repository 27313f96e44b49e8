"""The report of one run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from millhand.core.orphans import Mode, OrphansConfig
from millhand.orphans.ledger import Run, Totals

LOGGED = (
    "objects", "rows", "orphan_objects", "abandoned_rows", "missing", "near_matches", "uploads", "deleted", "deleted_rows",
    "quarantined", "aborted_uploads", "restored", "alerts", "searched", "kept", "not_removed",
)  # fmt: skip
MAX_NAMED = 10  # tables and columns in a log line


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """
    What one run found and did.

    `uploads` counts multipart uploads that no row waits for, `aborted_uploads` those that the run aborted. `deleted` and
    `quarantined` count objects moved out of their place, by mode; until they are `purged`, both can be restored.
    `abort_reasons` says why the run aborted, and `not_removed` counts what was due and stayed because of that. `kept`
    counts what was due but turned out to be live, changed, locked or gone at the second check, or named elsewhere in the
    database. `alerts` counts removed objects that a row references or a reader asked for. `searched` counts the keys that
    the database was searched for; `unsearched` names the tables and columns that could not be read. `candidates`,
    `pending_rows`, `soft_deleted_rows` and `young_objects` count what the run saw and leaves to a later run.
    """

    abandoned_rows: int = 0
    aborted_uploads: int = 0
    alerts: int = 0
    bucket: str
    bytes: int = 0
    candidates: int = 0
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
    pending_rows: int = 0
    purged: int = 0
    quarantined: int = 0
    abort_reasons: tuple[str, ...] = ()
    not_removed: int = 0
    restored: int = 0
    rows: int = 0
    run_id: int | None = None
    searched: int = 0
    seconds: float = 0.0
    shared: int = 0
    size_mismatches: int = 0
    soft_deleted_rows: int = 0
    state: str
    unclassified: int = 0
    unsearched: tuple[str, ...] = ()
    uploads: int = 0
    young_objects: int = 0

    def fields(self) -> dict[str, str | int | float]:
        """Return the fields of the run's log line."""
        numbers = {name: getattr(self, name) for name in LOGGED}
        names = ", ".join(self.unsearched[:MAX_NAMED])
        if (more := len(self.unsearched) - MAX_NAMED) > 0:
            names += f" and {more:,} more"
        return {"mode": self.mode.value, **numbers, "unsearched": names, "seconds": round(self.seconds, 3)}

    def undecided(self, config: OrphansConfig) -> list[str]:
        """Return what the run saw and cannot decide yet, a line for each kind with its number and age."""
        found = (
            (self.young_objects, "object{s} without a row, younger than", config.min_object_age),
            (self.candidates, "candidate{s}, seen in one run only or for less than", config.grace),
            (self.pending_rows, "pending row{s}, seen in one run only or for less than", config.grace),
            (
                self.soft_deleted_rows,
                "soft-deleted row{s}, seen in one run only or for less than",
                config.retention,
            ),
        )
        return [
            f"{number:,} {what.format(s='' if number == 1 else 's')} {duration_text(age)}, not judged yet"
            for number, what, age in found
            if number
        ]

    @property
    def num_found(self) -> int:
        """The number of findings and alerts."""
        objects = self.orphan_objects + self.near_matches + self.uploads + self.size_mismatches
        return objects + self.abandoned_rows + self.missing + self.shared + self.alerts


def report_of(
    run: Run, totals: Totals, *, mode: Mode, state: str, reasons: tuple[str, ...], is_first: bool
) -> RunReport:
    """Return the report of a run. It has the totals of the same name."""
    names = RunReport.__dataclass_fields__.keys() & Totals.__dataclass_fields__.keys()
    return RunReport(
        **{name: getattr(totals, name) for name in names - {"unsearched"}},
        abort_reasons=reasons,
        bucket=run.bucket,
        deleted=totals.removed if mode is Mode.DELETE else 0,
        is_first=is_first,
        mode=mode,
        not_removed=max(0, totals.due - totals.removed - totals.kept) if reasons else 0,
        quarantined=totals.removed if mode is Mode.QUARANTINE else 0,
        rows=totals.rows,
        run_id=run.id,
        state=state,
        unsearched=tuple(totals.unsearched),
    )


def duration_text(span: timedelta) -> str:
    """Return a duration in its largest whole unit: `7 d`, `36 h`."""
    units = (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1)))
    for unit, length in units:
        if span and not span % length:
            return f"{span // length:,} {unit}"
    return f"{span.total_seconds():g} s"
