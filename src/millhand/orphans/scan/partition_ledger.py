"""
Partitions in the ledger: each is a stretch of keys of one run, with its own cursor and totals.

Every statement of a task repeats the run's epoch, and a claim writes it into the partition. A process whose run was taken
over has an older epoch: its statements change nothing and raise `RunLost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from millhand.db.query import Query, Row, parse_none
from millhand.orphans.ledger import SWEEP_SECONDS, OwnerCheck, Run, Totals, named


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """The keys in (low, high], evaluated up to `cursor_key`. If `high` is None, the last key is in it."""

    run_id: int
    number: int
    low: str
    high: str | None
    cursor_key: str
    is_ordered: bool
    is_done: bool
    run_epoch: int
    totals: Totals
    canaries: tuple[str, ...]
    live_canaries: tuple[str, ...]
    num_partitions: int

    @property
    def is_at_start(self) -> bool:
        """Whether nothing of the first partition was scanned yet. A listing then has no key to start after."""
        return self.number == 0 and self.cursor_key == self.low


@dataclass(frozen=True, slots=True)
class KeyBounds:
    """Keys that cut a table into stretches of about as many rows each, in the order of the table's collation."""

    bounds: tuple[str, ...]
    rows: int


def partition_list(run: Run) -> Query[list[Partition]]:
    """Return the partitions of a run. Shape: in the order of keys."""
    return Query(
        "orphan_partition_list", {"run_id": run.id}, lambda rows: [_parse_partition(row) for row in rows]
    )


def partition_replace(
    run: Run, stretches: Sequence[tuple[str, str | None]], canaries: Sequence[str]
) -> Query[None]:
    """Cut a run's bucket into new partitions. Each canary belongs to the stretch that its key is in."""
    params = {
        "run_id": run.id,
        "bucket": run.bucket,
        "is_ordered": run.is_ordered,
        "lows": [low for low, _ in stretches],
        "highs": [high for _, high in stretches],
        "canaries": list(canaries),
    }
    return Query("orphan_partition_replace", params, parse_none, SWEEP_SECONDS)


def partition_claim(run: Run) -> Query[Partition | None]:
    """Claim the first partition that is neither done nor claimed in this epoch; None if there is none."""
    params = {"run_id": run.id, "run_epoch": run.epoch}
    return Query("orphan_partition_claim", params, lambda rows: _parse_partition(rows[0]) if rows else None)


def partition_advance(
    run: Run,
    partition: Partition,
    *,
    low: str,
    high: str | None,
    totals: Totals,
    live_canaries: Sequence[str],
    now: datetime | None,
) -> Query[None]:
    """
    Move a partition's cursor to `high` (None: past the last key) and delete older findings between `low` and it.

    Also writes the run's heartbeat. Raises: RunLost.
    """
    params = {
        "run_id": run.id,
        "run_epoch": run.epoch,
        "number": partition.number,
        "low": low,
        "high": high,
        "is_done": high is None or high == partition.high,
        "totals": totals.to_json(),
        "live_canaries": list(live_canaries),
        "now": now,
    }
    return Query("orphan_partition_advance", params, OwnerCheck(run), SWEEP_SECONDS)


def partition_count(run: Run, totals: Totals, *, is_end: bool, now: datetime | None) -> Query[None]:
    """Write a run's totals. `is_end` means that those of its partitions are included. Raises: RunLost."""
    params = {
        "run_id": run.id,
        "run_epoch": run.epoch,
        "totals": totals.to_json(),
        "is_end": is_end,
        "now": now,
    }
    return Query("orphan_partition_count", params, OwnerCheck(run))


def key_bounds(table: str, column: str) -> Query[KeyBounds | None]:
    """Return a column's statistics of the last ANALYZE; None if there is no table. `table` is quoted, `column` is not."""
    return Query(
        "orphan_key_bounds",
        {"table": table, "column": column},
        lambda rows: KeyBounds(tuple(rows[0][0]), int(rows[0][1])) if rows else None,
    )


def _parse_partition(row: Row) -> Partition:
    values = named(Partition, row)
    values["totals"] = Totals.from_json(values["totals"])
    for name in ("canaries", "live_canaries"):
        values[name] = tuple(values[name])
    return Partition(**values)
