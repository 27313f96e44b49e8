"""Statements that list parts of the ledger for a person. Each reads a bounded number of rows of a ledger of any size."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from millhand.core.job import JobId
from millhand.db.query import Query, Row
from millhand.orphans.ledger import Finding, Run, parse_findings, parse_runs

STORES_MAX = 50
# Findings of a rule, and objects in quarantine, are counted up to this number.
COUNTED_MAX = 10_000
# Alerts are looked for among so many of the newest removals, because no index has them.
LOOKED_AT = 5_000
# The last completed run is looked for among so many: with a run each hour, those of six weeks.
RUNS_LOOKED_AT = 1_000


class LedgerStore(msgspec.Struct, frozen=True, kw_only=True):
    """
    A bucket with runs, and the database that it is bound to.

    `searched_at` is the last search of this database for undeclared references, which took `search_seconds`.
    """

    bucket: str
    database: str | None
    bound_at: datetime | None
    searched_at: datetime | None
    search_seconds: float | None


class RuleCount(NamedTuple):
    """How many findings a run recorded by a rule, up to `COUNTED_MAX`."""

    run_id: int
    rule: int
    number: int


class LedgerRemoval(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to a key. `has_row` is whether its row was deleted with it; the ledger keeps a copy."""

    id: int
    run_id: int
    key: str
    rule: int
    state: str
    reason: str
    size: int
    quarantine_key: str | None
    source: str
    row_id: str
    has_row: bool
    updated_at: datetime
    alert: str | None
    alerted_at: datetime | None


class QuarantineSum(NamedTuple):
    """The objects in quarantine and their bytes, of the first `COUNTED_MAX`."""

    number: int
    bytes: int


def ledger_get_shape() -> Query[bool]:
    """Return whether the tables of the ledger are there."""
    return Query("orphan_ledger_get_shape", {}, lambda rows: bool(rows[0][0]))


def store_list() -> Query[list[LedgerStore]]:
    """Return the first `STORES_MAX` buckets. Shape: by bucket."""
    return Query(
        "orphan_store_list",
        {"limit": STORES_MAX},
        lambda rows: [
            LedgerStore(**dict(zip(LedgerStore.__struct_fields__, row, strict=True))) for row in rows
        ],
    )


def run_list_before(bucket: str, *, before_id: int | None, limit: int) -> Query[list[Run]]:
    """Return runs over a bucket. Shape: newest first."""
    params = {"bucket": bucket, "before_id": before_id, "limit": limit}
    return Query("orphan_run_list_before", params, parse_runs)


def run_get_completed_at(bucket: str) -> Query[datetime | None]:
    """Return when the last completed run ended; None if none of the newest `RUNS_LOOKED_AT` runs completed."""
    params = {"bucket": bucket, "looked_at": RUNS_LOOKED_AT}
    return Query("orphan_run_get_completed_at", params, lambda rows: rows[0][0] if rows else None)


def finding_count(bucket: str) -> Query[list[RuleCount]]:
    """Return the numbers of findings. Shape: by rule and run. An aborted run leaves those of earlier runs."""
    params = {"bucket": bucket, "limit": COUNTED_MAX}
    return Query("orphan_finding_count", params, lambda rows: [RuleCount(*row) for row in rows])


def finding_list_of_rules(counts: Sequence[RuleCount], *, after: int, limit: int) -> Query[list[Finding]]:
    """Return findings of these runs and rules. Shape: by id."""
    params = {
        "run_ids": [one.run_id for one in counts],
        "rules": [one.rule for one in counts],
        "after": after,
        "limit": limit,
    }
    return Query("orphan_finding_list_of_rules", params, parse_findings)


def finding_list_of_key(bucket: str, key: str, *, limit: int) -> Query[list[Finding]]:
    params = {"bucket": bucket, "key": key, "limit": limit}
    return Query("orphan_finding_list_of_key", params, parse_findings)


def removal_list_of_key(bucket: str, key: str, *, limit: int) -> Query[list[LedgerRemoval]]:
    """Return what was done to a key. Shape: newest first."""
    params = {"bucket": bucket, "key": key, "limit": limit}
    return Query("orphan_removal_list_of_key", params, _parse_removals)


def removal_list_quarantined(bucket: str, *, after: int, limit: int) -> Query[list[LedgerRemoval]]:
    """Return what is in quarantine. Shape: by id, so oldest first."""
    params = {"bucket": bucket, "after": after, "limit": limit}
    return Query("orphan_removal_list_quarantined", params, _parse_removals)


def removal_sum_quarantined(bucket: str) -> Query[QuarantineSum]:
    params = {"bucket": bucket, "limit": COUNTED_MAX}
    return Query("orphan_removal_sum_quarantined", params, lambda rows: QuarantineSum(*rows[0]))


def removal_list_alerts(bucket: str, *, limit: int) -> Query[list[LedgerRemoval]]:
    """Return removals with an alert, among the newest `LOOKED_AT` of all buckets. Shape: newest first."""
    params = {"bucket": bucket, "looked_at": LOOKED_AT, "limit": limit}
    return Query("orphan_removal_list_alerts", params, _parse_removals)


class LedgerRestore(msgspec.Struct, frozen=True):
    """A job that restores: its args, output and last error as texts. A large one is not read, and the error is cut."""

    id: JobId
    state: str
    created_at: datetime
    args: str
    output: str | None
    error: str | None


def restore_list(kind: str, *, limit: int) -> Query[list[LedgerRestore]]:
    """Return jobs of the kind that restores. Shape: newest first."""
    params = {"kind": kind, "limit": limit}
    return Query("orphan_restore_list", params, lambda rows: [LedgerRestore(*row) for row in rows])


def _parse_removals(rows: Sequence[Row]) -> list[LedgerRemoval]:
    return [LedgerRemoval(**dict(zip(LedgerRemoval.__struct_fields__, row, strict=True))) for row in rows]
