"""Restore objects from quarantine and rows from the ledger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from millhand.core.errors import ConfigError, DriverError
from millhand.db.driver.protocol import Executor
from millhand.orphans.event import OnEvent
from millhand.orphans.ledger import (
    Action,
    ActionState,
    action_claim,
    action_get_by_key,
    action_get_restorable,
    action_set_state_many,
    database_facts,
    finding_delete_restored,
)
from millhand.orphans.removal.alerts import REMOVED, raise_alerts, removal_text, updated_text
from millhand.orphans.removal.quarantine import (
    MoveResult,
    ObjectLocation,
    finish_restore,
    locate_object,
    restore_object,
)
from millhand.orphans.removal.restore_rows import restore_rows
from millhand.orphans.scan.lookup import batches
from millhand.storage import ObjectStore

BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """
    What was restored, and what was not.

    `already` counts objects that were restored before. `kept` objects stay in quarantine because a newer object has their
    key, or is in quarantine and was to be restored first. `failed` holds each key that could not be restored in full, with
    the reason.
    """

    already: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    kept: int = 0
    restored: int = 0
    rows: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether the selection holds no removed object and no deleted row."""
        return self == RestoreReport()

    def __add__(self, other: RestoreReport) -> RestoreReport:
        names = self.__dataclass_fields__
        return RestoreReport(**{name: getattr(self, name) + getattr(other, name) for name in names})


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
    Restore all that one run removed, or all below one prefix, or one key: the object first, then its row.

    If several objects of one key are selected, only the newest comes back.

    Raises: ConfigError, unless exactly one of the three is given; StoreError; DriverError.
    Concurrency: idempotent; it may be interrupted and started again.
    """
    if sum(selector is not None for selector in (run, prefix, key)) != 1:
        raise ConfigError(f"restore must get one run, prefix or key, got {run!r}, {prefix!r}, {key!r}")
    instant = now or (await executor.run(database_facts())).now
    report = RestoreReport()
    held: set[str] = set()
    async for actions in batches(
        executor,
        lambda before: action_get_restorable(
            store.url, run_id=run, prefix=prefix, key=key, before=before, limit=BATCH
        ),
    ):
        # Before the objects are back: a killed run may have left its finding, by which they would be due at once.
        await executor.run(finding_delete_restored([action.id for action in actions]))
        for action in actions:
            # Claimed one by one: what was read of a whole batch may be old, and a run may have begun to destroy the object.
            is_held = action.state in (ActionState.INTENDED, ActionState.QUARANTINED)
            current = await executor.run(action_claim(action.id, now=now)) if is_held else action
            report += await _restore_one(executor, store, current, instant, held)
    return report


async def recall(
    executor: Executor, store: ObjectStore, key: str, *, on_event: OnEvent | None = None
) -> bool:
    """
    Restore one missing object, and return whether it is back. Call it where your application would respond with 404.

    False means that Millhand did not remove the object, or that its bytes are deleted; then no row comes back either. If
    Millhand removed it, this raises an alert.
    Raises: StoreError; DriverError.
    """
    actions = await executor.run(action_get_by_key(store.url, [key]))
    removals = [action for action in actions if action.state in REMOVED]
    if not removals:
        return False
    now = (await executor.run(database_facts())).now
    # A row without its object would be a reference to nothing; `restore` inserts it on request.
    is_kept = any(action.state in (ActionState.QUARANTINED, ActionState.INTENDED) for action in actions)
    report = await restore(executor, store, key=key, now=now) if is_kept else RestoreReport()
    result = "it was restored" if report.restored else removal_text(removals[0])
    reasons = {removals[0].id: f"an application requested it; {result}"}
    await raise_alerts(executor, reasons, now=now, on_event=on_event)
    return report.restored > 0


async def _restore_one(
    executor: Executor, store: ObjectStore, action: Action, now: datetime, held: set[str]
) -> RestoreReport:
    """Restore one object and its row. `held` are the keys whose newest object this restore has met."""
    if action.state == ActionState.PURGED:
        return _failed(action, f"its bytes were deleted at {updated_text(action)}")
    if action.state == ActionState.ABORTED:
        return _failed(action, f"its multipart upload was aborted at {updated_text(action)}")
    if action.state == ActionState.RESTORED:
        return RestoreReport(already=1)
    if action.state == ActionState.KEPT:  # since it was read
        return RestoreReport()
    if action.state == ActionState.ROW_DELETED:
        report = await _restore_row(executor, action)
        return await _recorded(executor, action, report, now, was=action.state)
    if action.state == ActionState.INTENDED and not await _is_in_quarantine(store, action):
        return await _restore_unmoved(executor, store, action, now, held)
    moved = await _restore_object(store, action, held)
    if not moved.restored:
        return moved
    return await _recorded(executor, action, moved + await _restore_row(executor, action), now)


async def _restore_unmoved(
    executor: Executor, store: ObjectStore, action: Action, now: datetime, held: set[str]
) -> RestoreReport:
    """
    Insert the row of an object that a run was killed before it moved, or is about to move.

    The action stays intended, so that the next run settles it by where the object is then.
    """
    report = await _restore_row(executor, action)
    if report.failed or not await _is_in_quarantine(store, action):
        is_repeated = action.row_json is not None and report.is_empty
        return RestoreReport(already=1) if is_repeated else report
    # A run moved it meanwhile, and may have read the references after the move before the row was there.
    moved = await _restore_object(store, action, held)
    return await _recorded(executor, action, report + moved, now) if moved.restored else report + moved


async def _restore_object(store: ObjectStore, action: Action, held: set[str]) -> RestoreReport:
    if action.key in held:
        return RestoreReport(kept=1)
    move = await _bring_back(store, action)
    if move.state is not ActionState.KEPT:
        held.add(action.key)
    if move.state is ActionState.RESTORED:
        return RestoreReport(restored=1)
    # A newer object at its key is no failure: the application has a row for that one.
    is_failure = move.is_failure or move.state is ActionState.KEPT
    return _failed(action, move.reason) if is_failure else RestoreReport(kept=1)


async def _restore_row(executor: Executor, action: Action) -> RestoreReport:
    try:
        return RestoreReport(rows=await restore_rows(executor, action))
    except DriverError as error:
        return _failed(action, f"its row could not be inserted, {error.reason}")


async def _recorded(
    executor: Executor, action: Action, report: RestoreReport, now: datetime, *, was: str | None = None
) -> RestoreReport:
    """Record that an action is undone, unless that failed. Of an object that is back this is true, whatever it was."""
    if not report.failed:
        states = {action.id: (ActionState.RESTORED, "restored on request")}
        await executor.run(action_set_state_many(states, was=was, now=now))
    return report


async def _is_in_quarantine(store: ObjectStore, action: Action) -> bool:
    return await locate_object(store, action) is ObjectLocation.IN_QUARANTINE


async def _bring_back(store: ObjectStore, action: Action) -> MoveResult:
    """Move an object out of quarantine, or end what another restore began."""
    move = await restore_object(store, action)
    if move.state is ActionState.RESTORED or move.is_failure or not await finish_restore(store, action):
        return move
    return replace(move, state=ActionState.RESTORED)


def _failed(action: Action, reason: str) -> RestoreReport:
    return RestoreReport(failed=((action.key, reason),))
