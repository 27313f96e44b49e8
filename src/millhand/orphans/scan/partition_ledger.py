"""
What is remembered of a pass while it is at work: its partitions, each a stretch of keys with a cursor of its own.

Whoever claimed a partition holds its epoch and repeats it with each word, as the pass's owner does with the pass's; both
must still be as they were, or what was judged is not written (`RunLost`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from millhand.orphans.ledger import SWEEP_SECONDS, Run, RunLost, Totals
from millhand.store.query import Query, Row, parse_none


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """The keys in (low, high], high None being the last there is; judged up to `cursor_key`."""

    run_id: int
    number: int
    low: str
    high: str | None
    cursor_key: str
    is_ordered: bool
    is_done: bool
    epoch: int
    run_epoch: int
    totals: Totals
    canaries: tuple[str, ...]
    live_canaries: tuple[str, ...]
    num_partitions: int

    @property
    def is_at_start(self) -> bool:
        """Whether nothing of the pass's first stretch was judged yet, so that a listing has no key to start after."""
        return self.number == 0 and self.cursor_key == self.low


@dataclass(frozen=True, slots=True)
class KeyBounds:
    """Keys between which a table has about as many rows each; in the order of the table's own collation."""

    bounds: tuple[str, ...]
    rows: int


def partition_list(run: Run) -> Query[list[Partition]]:
    """Shape: in the order of keys."""
    return Query("orphan_partition_list", {"run_id": run.id}, _parse_partitions)


def partition_replace(
    run: Run, stretches: Sequence[tuple[str, str | None]], canaries: Sequence[str], *, now: datetime | None
) -> Query[None]:
    """Lay out a pass anew; each canary goes with the stretch that it lies in."""
    params = {
        "run_id": run.id,
        "bucket": run.bucket,
        "is_ordered": run.is_ordered,
        "lows": [low for low, _ in stretches],
        "highs": [high for _, high in stretches],
        "canaries": list(canaries),
        "now": now,
    }
    return Query("orphan_partition_replace", params, parse_none, SWEEP_SECONDS)


def partition_claim(run: Run, *, lease: timedelta, now: datetime | None) -> Query[Partition | None]:
    """Claim the first partition that nobody is at; None if there is none."""
    params = {"run_id": run.id, "run_epoch": run.epoch, "lease": lease, "now": now}
    return Query("orphan_partition_claim", params, _parse_maybe_partition)


def partition_advance(
    run: Run,
    partition: Partition,
    *,
    low: str,
    high: str | None,
    totals: Totals,
    live_canaries: Sequence[str],
    is_owner: bool,
    now: datetime | None,
) -> Query[None]:
    """
    Move a partition's cursor to `high` (None: past the last key) and drop older findings between `low` and it.

    `is_owner` says that the pass is alive too, which only its owner may.

    Raises: RunLost.
    """
    params = {
        **_held(run, partition, is_owner=is_owner),
        "low": low,
        "high": high,
        "is_done": high is None or high == partition.high,
        "totals": totals.to_json(),
        "live_canaries": list(live_canaries),
        "now": now,
    }
    return Query("orphan_partition_advance", params, _ClaimCheck(run), SWEEP_SECONDS)


def partition_beat(run: Run, partition: Partition, *, is_owner: bool, now: datetime | None) -> Query[None]:
    """Raises: RunLost."""
    params = {**_held(run, partition, is_owner=is_owner), "now": now}
    return Query("orphan_partition_beat", params, _ClaimCheck(run))


def partition_count(run: Run, totals: Totals, *, is_end: bool, now: datetime | None) -> Query[None]:
    """Write a pass's totals; at the end those of its partitions are in them. Raises: RunLost."""
    params = {
        "run_id": run.id,
        "run_epoch": run.epoch,
        "totals": totals.to_json(),
        "is_end": is_end,
        "now": now,
    }
    return Query("orphan_partition_count", params, _ClaimCheck(run))


def key_bounds(table: str, column: str) -> Query[KeyBounds | None]:
    """Ask what the last ANALYZE knows of a column; `table` is quoted, `column` is not. None for no table."""
    return Query("orphan_key_bounds", {"table": table, "column": column}, _parse_bounds)


@dataclass(frozen=True, slots=True)
class _ClaimCheck:
    """Read the one row that whoever holds the claim gets back, and nobody else does."""

    run: Run

    def __call__(self, rows: Sequence[Row]) -> None:
        if not rows:
            raise RunLost(self.run.id, self.run.epoch)


PARTITION_FIELDS = (
    "run_id", "number", "low", "high", "cursor_key", "is_ordered", "is_done", "epoch", "run_epoch", "totals",
    "canaries", "live_canaries", "num_partitions",
)  # fmt: skip


def _held(run: Run, partition: Partition, *, is_owner: bool) -> dict[str, object]:
    return {
        "run_id": run.id,
        "run_epoch": run.epoch,
        "number": partition.number,
        "epoch": partition.epoch,
        "is_owner": is_owner,
    }


def _parse_partition(row: Row) -> Partition:
    values: dict[str, Any] = dict(zip(PARTITION_FIELDS, row, strict=True))
    values["totals"] = Totals.from_json(values["totals"])
    for name in ("canaries", "live_canaries"):
        values[name] = tuple(values[name])
    return Partition(**values)


def _parse_partitions(rows: Sequence[Row]) -> list[Partition]:
    return [_parse_partition(row) for row in rows]


def _parse_maybe_partition(rows: Sequence[Row]) -> Partition | None:
    return _parse_partition(rows[0]) if rows else None


def _parse_bounds(rows: Sequence[Row]) -> KeyBounds | None:
    return KeyBounds(tuple(rows[0][0]), int(rows[0][1])) if rows else None
