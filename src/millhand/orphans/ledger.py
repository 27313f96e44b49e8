"""
The ledger, in tables of its own: runs, findings, and every action on a key with its reason.

A bucket has one unfinished run at a time. The process that holds it knows the run's epoch and repeats it in every
statement. If another process takes the run over, the next statement of the first one changes nothing and raises `RunLost`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from millhand.core.errors import MillhandError
from millhand.db.query import Query, Row, parse_none

FIRST_EPOCH = 1
SWEEP_SECONDS = 60.0  # timeout of a statement over a whole wave, on a busy database
YOUNG_FOR = timedelta(days=1)  # at least as long as an object may be too young for a finding


class RunLost(MillhandError):
    """Another process took this run over. This process stops, and the other one continues."""

    def __init__(self, run_id: int, epoch: int) -> None:
        super().__init__(
            f"orphan run must be held by this process, got run {run_id} taken over from epoch {epoch}; wait for it to end"
        )
        self.run_id = run_id
        self.epoch = epoch


class ActionState(StrEnum):
    """The state of an action."""

    INTENDED = "intended"
    QUARANTINED = "quarantined"
    ROW_DELETED = "row_deleted"
    PURGED = "purged"
    RESTORED = "restored"
    KEPT = "kept"
    ABORTED = "aborted"


@dataclass(slots=True, kw_only=True)
class Totals:
    """
    The counts of a run so far. `rows_of` counts rows by source.

    `due` counts findings whose rule removes something, `due_objects` and `due_rows` the objects and rows among them.
    `candidates`, `pending_rows`, `soft_deleted_rows` and `young_objects` count what a later run decides.
    `searched` counts keys that the database was searched for. `unsearched` names tables and columns that could not be.
    """

    abandoned_rows: int = 0
    aborted_uploads: int = 0
    alerts: int = 0
    bytes: int = 0
    candidates: int = 0
    deleted_rows: int = 0
    due: int = 0
    due_bytes: int = 0
    due_objects: int = 0
    due_rows: int = 0
    due_uploads: int = 0
    kept: int = 0
    live: int = 0
    looks: int = 0
    missing: int = 0
    near_matches: int = 0
    objects: int = 0
    orphan_bytes: int = 0
    orphan_objects: int = 0
    pending_rows: int = 0
    purged: int = 0
    ready_rows: int = 0
    removed: int = 0
    restored: int = 0
    rows_of: dict[str, int] = field(default_factory=dict)
    searched: int = 0
    shared: int = 0
    size_mismatches: int = 0
    soft_deleted_rows: int = 0
    unclassified: int = 0
    unsearched: list[str] = field(default_factory=list)
    upload_bytes: int = 0
    uploads: int = 0
    young_objects: int = 0

    @property
    def rows(self) -> int:
        return sum(self.rows_of.values())

    def to_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def from_json(cls, text: str) -> Totals:
        # Another release may have other counts.
        known = cls.__dataclass_fields__
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run over one bucket. `scanned_at` is set once the run has scanned all of it."""

    id: int
    bucket: str
    mode: str
    fingerprint: str
    state: str
    epoch: int
    started_at: datetime
    heartbeat_at: datetime
    scanned_at: datetime | None
    finished_at: datetime | None
    cursor_key: str
    is_ordered: bool
    totals: Totals
    abort_reasons: tuple[str, ...]
    error: str | None

    @property
    def is_taken_over(self) -> bool:
        """Whether a process that died began it."""
        return self.epoch > FIRST_EPOCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    An object without a row (`source` and `row_id` are empty), or a row, that needs attention.

    `sightings` counts the complete runs that recorded it before the last one. `row_version` changes with each update.
    """

    id: int = 0
    bucket: str = ""
    key: str
    source: str = ""
    row_id: str = ""
    kind: str
    reference: str
    rule: int
    is_present: bool
    size: int = 0
    etag: str = ""
    modified_at: datetime | None = None
    first_seen_at: datetime
    last_seen_at: datetime
    sightings: int = 0
    run_id: int = 0
    note: str = ""
    row_version: str = ""

    @property
    def identity(self) -> tuple[str, str, str]:
        """Key, source and row id. They identify the same finding in the next run."""
        return (self.key, self.source, self.row_id)

    @property
    def num_runs(self) -> int:
        """The number of runs that found it: the last one, and the complete runs before."""
        return self.sightings + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """
    What was done to a key, by which rule, its state, and the deleted row: the text of each column, as JSON.

    `cascaded_json` has the rows that the deletion changed otherwise, as `sources.cascades` writes them.
    """

    id: int = 0
    run_id: int = 0
    bucket: str = ""
    key: str
    rule: int
    state: str = ActionState.INTENDED
    reason: str = ""
    size: int = 0
    etag: str = ""
    modified_at: datetime | None = None
    quarantine_key: str | None = None
    source: str = ""
    table_name: str | None = None
    row_id: str = ""
    row_json: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    alert: str | None = None
    alerted_at: datetime | None = None
    cascaded_json: str | None = None


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What the guards need to know about the database."""

    now: datetime
    is_standby: bool
    encoding: str


def database_facts() -> Query[DatabaseFacts]:
    return Query("orphan_database_facts", {}, lambda rows: DatabaseFacts(*rows[0]))


def run_get_unfinished(bucket: str) -> Query[Run | None]:
    return Query("orphan_run_get_unfinished", {"bucket": bucket}, _parse_maybe_run)


def run_get_scanned(bucket: str, fingerprint: str) -> Query[Run | None]:
    """Return the last complete run over the prefix of a fingerprint, if it had the same sources; else None."""
    return Query("orphan_run_get_scanned", {"bucket": bucket, "fingerprint": fingerprint}, _parse_maybe_run)


def run_get_most_rows(
    bucket: str, fingerprint: str, *, grace: timedelta, now: datetime
) -> Query[Mapping[str, int]]:
    """Return the number of rows that each source had at most, in the runs since what is due now had no row."""
    params = {"bucket": bucket, "fingerprint": fingerprint, "now": now, "span": grace + YOUNG_FOR}
    return Query(
        "orphan_run_get_most_rows", params, lambda rows: {str(name): int(most) for name, most in rows}
    )


def run_insert(
    *, bucket: str, mode: str, fingerprint: str, now: datetime, is_ordered: bool
) -> Query[Run | None]:
    """Insert a run; None if another process inserted one first."""
    params = {
        "bucket": bucket,
        "mode": mode,
        "fingerprint": fingerprint,
        "now": now,
        "is_ordered": is_ordered,
    }
    return Query("orphan_run_insert", params, _parse_maybe_run)


def run_take_over(run: Run, *, now: datetime) -> Query[Run | None]:
    """Take a run over from its process; None if a third process took it first."""
    return Query("orphan_run_take_over", {"id": run.id, "epoch": run.epoch, "now": now}, _parse_maybe_run)


def run_beat(run: Run, *, now: datetime | None) -> Query[None]:
    return Query("orphan_run_beat", {"id": run.id, "epoch": run.epoch, "now": now}, OwnerCheck(run))


def run_restart(run: Run) -> Query[None]:
    """Start the scan again from the first key, for an unordered listing. Raises: RunLost."""
    return Query("orphan_run_restart", {"id": run.id, "epoch": run.epoch}, OwnerCheck(run))


def run_scanned(run: Run, *, now: datetime, beat_at: datetime | None) -> Query[None]:
    params = {"id": run.id, "epoch": run.epoch, "now": now, "beat_at": beat_at}
    return Query("orphan_run_scanned", params, OwnerCheck(run))


def run_finish(
    run: Run,
    *,
    state: str,
    now: datetime | None,
    totals: Totals | None = None,
    abort_reasons: Sequence[str] = (),
    error: str | None = None,
) -> Query[None]:
    params = {
        "id": run.id,
        "epoch": run.epoch,
        "state": state,
        "now": now,
        "totals": totals.to_json() if totals is not None else None,
        "abort_reasons": list(abort_reasons),
        "error": error,
    }
    return Query("orphan_run_finish", params, OwnerCheck(run))


def run_list(*, bucket: str | None, limit: int) -> Query[list[Run]]:
    """Return runs, of all buckets without one. Shape: newest first."""
    if bucket is None:
        return Query("orphan_run_list", {"limit": limit}, parse_runs)
    return Query("orphan_run_list_before", {"before_id": None, "bucket": bucket, "limit": limit}, parse_runs)


def finding_get_many(bucket: str, keys: Sequence[str]) -> Query[list[Finding]]:
    return Query("orphan_finding_get_many", {"bucket": bucket, "keys": list(keys)}, parse_findings)


def finding_put_many(bucket: str, run_id: int, findings: Sequence[Finding], *, now: datetime) -> Query[None]:
    """Write findings of this run in place of those of earlier runs. Shape: no two of the same identity."""
    params = {"bucket": bucket, "run_id": run_id, "now": now, **_columns(findings, FINDING_COLUMNS)}
    return Query("orphan_finding_put_many", params, parse_none, SWEEP_SECONDS)


def finding_get_due(run_id: int, *, rules: Sequence[int], after: int, limit: int) -> Query[list[Finding]]:
    """Return the next findings of a run with one of these rules. Shape: by id."""
    params = {"run_id": run_id, "rules": list(rules), "after": after, "limit": limit}
    return Query("orphan_finding_get_due", params, parse_findings)


def finding_delete_many(ids: Sequence[int]) -> Query[None]:
    return Query("orphan_finding_delete_many", {"ids": list(ids)}, parse_none, SWEEP_SECONDS)


def finding_delete_restored(action_ids: Sequence[int]) -> Query[None]:
    """Delete the findings of the objects of these actions."""
    return Query(
        "orphan_finding_delete_restored", {"action_ids": list(action_ids)}, parse_none, SWEEP_SECONDS
    )


def finding_delete_new(run: Run) -> Query[None]:
    """Delete the findings that the run was the first to see."""
    params = {"bucket": run.bucket, "run_id": run.id}
    return Query("orphan_finding_delete_new", params, parse_none, SWEEP_SECONDS)


def finding_list(*, bucket: str | None, kind: str | None, after: int, limit: int) -> Query[list[Finding]]:
    params = {"bucket": bucket, "kind": kind, "after": after, "limit": limit}
    return Query("orphan_finding_list", params, parse_findings)


def finding_list_keys(run: Run, *, after: str, up_to: str | None, limit: int) -> Query[list[str]]:
    """Return keys in (after, up_to] that have findings of earlier runs than `run`. Shape: in order, each once."""
    params = {"bucket": run.bucket, "run_id": run.id, "after": after, "up_to": up_to, "limit": limit}
    return Query("orphan_finding_list_keys", params, lambda rows: [row[0] for row in rows])


def action_insert_many(
    bucket: str, run_id: int, actions: Sequence[Action], *, now: datetime | None
) -> Query[list[Action]]:
    """Insert actions and return them, in the order given. `now` of None is the database's clock."""
    params = {"bucket": bucket, "run_id": run_id, "now": now, **_columns(actions, ACTION_COLUMNS)}
    # Ids follow the order of insertion. RETURNING promises no order.
    return Query(
        "orphan_action_insert_many",
        params,
        lambda rows: sorted(parse_actions(rows), key=lambda action: action.id),
        SWEEP_SECONDS,
    )


def action_set_state_many(
    states: Mapping[int, tuple[str, str]], *, was: str | None, now: datetime | None
) -> Query[None]:
    """
    Write a state and its reason for each action, by id. The time in quarantine counts from `now`.

    An action whose state is no longer `was` stays as it is: another process recorded it while this one was stalled.
    """
    params = {
        "ids": list(states),
        "states": [str(state) for state, _ in states.values()],
        "reasons": [reason for _, reason in states.values()],
        "was": was,
        "now": now,
    }
    return Query("orphan_action_set_state_many", params, parse_none, SWEEP_SECONDS)


def action_claim(id_: int, *, now: datetime | None) -> Query[Action]:
    """Let the time in quarantine of one object begin anew, and return its action as it is then."""
    return Query("orphan_action_claim", {"id": id_, "now": now}, lambda rows: parse_actions(rows)[0])


def action_announce_purge(actions: Sequence[Action], *, reason: str) -> Query[frozenset[int]]:
    """Record why actions in quarantine are about to be purged. Return those that are there, and that no restore claimed."""
    params = {
        "ids": [action.id for action in actions],
        "reason": reason,
        "updated_ats": [action.updated_at for action in actions],
    }
    return Query("orphan_action_announce_purge", params, _parse_ids)


def action_get_open(
    bucket: str, *, state: str, after: int, limit: int, updated_before: datetime | None = None
) -> Query[list[Action]]:
    params = {
        "bucket": bucket,
        "state": state,
        "after": after,
        "limit": limit,
        "updated_before": updated_before,
    }
    return Query("orphan_action_get_open", params, parse_actions)


def action_get_by_key(bucket: str, keys: Sequence[str], *, limit: int = 100) -> Query[list[Action]]:
    params = {"bucket": bucket, "keys": list(keys), "limit": limit}
    return Query("orphan_action_get_by_key", params, parse_actions)


def action_get_quarantined(bucket: str, keys: Sequence[str]) -> Query[list[Action]]:
    """Return the actions on these keys whose objects are in quarantine. Shape: newest first."""
    params = {"bucket": bucket, "keys": list(keys)}
    return Query("orphan_action_get_quarantined", params, parse_actions)


def action_get_outranked(ids: Sequence[int]) -> Query[frozenset[int]]:
    """Return which quarantined actions are newer than the object that was restored to their key."""
    return Query("orphan_action_get_outranked", {"ids": list(ids)}, _parse_ids)


def action_get_restorable(
    bucket: str, *, run_id: int | None, prefix: str | None, key: str | None, before: int, limit: int
) -> Query[list[Action]]:
    """Return the next actions that can be undone. Shape: newest first; `before` of 0 begins with the newest."""
    params = {
        "bucket": bucket,
        "run_id": run_id,
        "prefix": prefix,
        "key": key,
        "before": before,
        "limit": limit,
    }
    return Query("orphan_action_get_restorable", params, parse_actions)


@dataclass(frozen=True, slots=True)
class OwnerCheck:
    """Raise RunLost unless the statement returned a row: it does so only for the process that holds the run."""

    run: Run

    def __call__(self, rows: Sequence[Row]) -> None:
        if not rows:
            raise RunLost(self.run.id, self.run.epoch)


FINDING_COLUMNS = {
    "keys": "key", "sources": "source", "row_ids": "row_id", "kinds": "kind", "references": "reference", "rules": "rule",
    "are_present": "is_present", "sizes": "size", "etags": "etag", "modified_ats": "modified_at",
    "first_seen_ats": "first_seen_at", "sightings": "sightings", "notes": "note",
    "row_versions": "row_version",
}  # fmt: skip
ACTION_COLUMNS = {
    "keys": "key", "rules": "rule", "states": "state", "sizes": "size", "etags": "etag", "modified_ats": "modified_at",
    "quarantine_keys": "quarantine_key", "sources": "source", "table_names": "table_name", "row_ids": "row_id",
    "row_jsons": "row_json", "cascaded_jsons": "cascaded_json",
}  # fmt: skip


def _columns(records: Sequence[Finding | Action], attributes: Mapping[str, str]) -> dict[str, list[Any]]:
    """Return the values of the records, a column for each parameter. An enum becomes its text."""
    values = {
        name: [getattr(record, attribute) for record in records] for name, attribute in attributes.items()
    }
    return {
        name: [str(value) if isinstance(value, StrEnum) else value for value in column]
        for name, column in values.items()
    }


def named(cls: type[Any], row: Row) -> dict[str, Any]:
    """Return the columns of a row by name. They are in the order of the class's fields."""
    return dict(zip(cls.__dataclass_fields__, row, strict=True))


def _parse_run(row: Row) -> Run:
    values = named(Run, row)
    values["totals"] = Totals.from_json(values["totals"])
    values["abort_reasons"] = tuple(values["abort_reasons"])
    return Run(**values)


def _parse_maybe_run(rows: Sequence[Row]) -> Run | None:
    return _parse_run(rows[0]) if rows else None


def parse_runs(rows: Sequence[Row]) -> list[Run]:
    return [_parse_run(row) for row in rows]


def parse_findings(rows: Sequence[Row]) -> list[Finding]:
    return [Finding(**named(Finding, row)) for row in rows]


def parse_actions(rows: Sequence[Row]) -> list[Action]:
    return [Action(**named(Action, row)) for row in rows]


def _parse_ids(rows: Sequence[Row]) -> frozenset[int]:
    return frozenset(row[0] for row in rows)
