"""Undo: bring objects back from quarantine, and rows back from the ledger."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from millhand.driver.protocol import Executor
from millhand.errors import ConfigError, DriverError
from millhand.orphans.event import OnEvent
from millhand.orphans.ledger import (
    Action,
    ActionState,
    action_get_by_key,
    action_get_restorable,
    action_set_state_many,
    database_facts,
)
from millhand.orphans.removal.alerts import TAKEN, how_lost, raise_alerts
from millhand.orphans.removal.quarantine import Move, Whereabouts, find, put_back
from millhand.orphans.sources.key_sql import quoted, quoted_table
from millhand.storage import ObjectStore

BATCH = 100

COLUMNS = """
SELECT attname AS name
FROM pg_catalog.pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attnum
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """
    What came back, and what did not.

    `already` counts what was back before; `kept` objects stay in quarantine because a newer one has their key; `failed`
    names keys of which something did not come back, each with the reason.
    """

    already: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    kept: int = 0
    restored: int = 0
    rows: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever removed of what was chosen, so that there is nothing to bring back."""
        return not (self.already or self.failed or self.kept or self.restored or self.rows)


async def restore(
    executor: Executor,
    store: ObjectStore,
    *,
    run: int | None = None,
    prefix: str | None = None,
    key: str | None = None,
    now: datetime | None = None,
) -> RestoreReport:
    """
    Undo what was done by one run, below one prefix or to one key: the object first, then its row.

    Raises: ConfigError, unless exactly one of the three is given; StoreError; DriverError.
    Concurrency: idempotent, and may be broken off and begun again.
    """
    if sum(selector is not None for selector in (run, prefix, key)) != 1:
        raise ConfigError(f"restore must be told a run, a prefix or a key, got {run!r}, {prefix!r}, {key!r}")
    instant = now or (await executor.run(database_facts())).now
    report = RestoreReport()
    async for actions in _restorable(executor, store.url, run, prefix, key):
        for action in actions:
            report = _added(report, action, await _restore_one(executor, store, action, instant))
    return report


async def recall(
    executor: Executor, store: ObjectStore, key: str, *, on_event: OnEvent | None = None
) -> bool:
    """
    Bring back one object that was asked for and is not there; for the place where an application would answer 404.

    False says that it was not we who took it away, or that it is destroyed. If it was we, the alert rings.

    Raises: StoreError; DriverError.
    """
    taken = [one for one in await executor.run(action_get_by_key(store.url, [key])) if one.state in TAKEN]
    if not taken:
        return False
    now = (await executor.run(database_facts())).now
    report = await restore(executor, store, key=key, now=now)
    how = "it was put back" if report.restored else how_lost(taken[0])
    await raise_alerts(executor, {taken[0].id: f"it was asked for; {how}"}, now=now, on_event=on_event)
    return report.restored > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Restored:
    """What became of one action: its object's way, whether its row is back, and what went wrong."""

    has_row: bool = False
    is_back: bool = False
    move: Move | None = None
    reason: str | None = None


async def _restorable(
    executor: Executor, bucket: str, run: int | None, prefix: str | None, key: str | None
) -> AsyncIterator[list[Action]]:
    after = 0
    while True:
        query = action_get_restorable(bucket, run_id=run, prefix=prefix, key=key, after=after, limit=BATCH)
        actions = await executor.run(query)
        if not actions:
            return
        yield actions
        after = actions[-1].id


async def _restore_one(executor: Executor, store: ObjectStore, action: Action, now: datetime) -> _Restored:
    when = f"{action.updated_at or datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    if action.state == ActionState.PURGED:
        return _Restored(reason=f"its bytes were destroyed at {when}")
    if action.state == ActionState.ABORTED:
        return _Restored(reason=f"its upload in parts was aborted at {when}")
    if action.state == ActionState.RESTORED:
        return _Restored(is_back=True)
    is_moved = action.state == ActionState.QUARANTINED
    if action.state == ActionState.INTENDED:
        # Of a run that was killed, or is at it: then its own look after the move finds the row that comes back here.
        is_moved = await find(store, action) is Whereabouts.IN_QUARANTINE
        if not is_moved and action.row_json is None:
            return _Restored()
    move = await put_back(store, action) if is_moved else None
    if move is not None and move.state is not ActionState.RESTORED:
        # A newer object in its place is no failure: whoever put it there has a row for it.
        return _Restored(
            move=move, reason=move.reason if move.is_failure or move.state is ActionState.KEPT else None
        )
    try:
        has_row = action.row_json is not None and await _insert_row(executor, action)
    except DriverError as error:
        return _Restored(move=move, reason=f"its row did not come back, {error.reason}")
    states = {action.id: (ActionState.RESTORED, "restored by hand")}
    await executor.run(action_set_state_many(states, now=now))
    return _Restored(has_row=has_row, move=move)


async def _insert_row(executor: Executor, action: Action) -> bool:
    """Insert the row as it was; False if its key or id is taken, by itself or by another."""
    table = quoted_table(action.table_name or "")
    kept = json.loads(action.row_json or "{}")
    columns = [quoted(row["name"]) for row in await executor.fetch(COLUMNS, [table]) if row["name"] in kept]
    names = ", ".join(columns)
    inserted = await executor.fetch(
        f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE\n"
        f"SELECT {names} FROM jsonb_populate_record(NULL::{table}, $1::text::jsonb)\n"
        "ON CONFLICT DO NOTHING\nRETURNING 1 AS one",
        [action.row_json],
    )
    return bool(inserted)


def _added(report: RestoreReport, action: Action, restored: _Restored) -> RestoreReport:
    is_back = restored.move is not None and restored.move.state is ActionState.RESTORED
    is_kept = restored.move is not None and not is_back and restored.reason is None
    failed = report.failed if restored.reason is None else (*report.failed, (action.key, restored.reason))
    return replace(
        report,
        already=report.already + restored.is_back,
        failed=failed,
        kept=report.kept + is_kept,
        restored=report.restored + is_back,
        rows=report.rows + restored.has_row,
    )
