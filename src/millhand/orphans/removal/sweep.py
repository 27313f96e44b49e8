"""
Remove the objects and rows that are due, in an order that loses no referenced object.

Rule 1: no object is deleted in place. The sweep moves it to `.millhand/quarantine/<run>/<key>`, or hides it behind a
        delete marker if the bucket keeps versions. A later run purges it after `quarantine_for`.
Rule 2: the ledger records each step before it is done, and its result afterwards.
Rule 3: references are read right before the move and right after it. If a row references the object by then, the object
        is restored. A row that comes later finds it gone, as after any deletion.
Rule 4: an object that changed since the scan (etag, size, time) stays.
Rule 5: a row is removed before its object. One transaction locks it, evaluates it again, records and deletes it. Before that
        its object is looked up: if that is not as the scan saw it, or is locked, the row stays, and its age starts again.
Rule 6: waves grow from 10 to 100 to 1,000 keys. After a failed move the sweep tries a small move of its own. If that fails
        too, the sweep ends after that wave. Otherwise only the object that failed stays, and its grace starts again.
Rule 7: an object that the database was not searched for stays, and so does its row.

    row: look ─▶ lock ─▶ evaluate ─▶ delete ┐
                                            ├▶ intended │ references ─▶ move ─▶ references ─▶ quarantined │ … ─▶ purged
    object: ────────────────────────────────┘           └ after a crash here, the next run settles the action
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, repeat

from millhand.core.errors import DriverError
from millhand.db.driver.protocol import Executor
from millhand.orphans.evaluate import Observation, evaluate
from millhand.orphans.ledger import (
    Action,
    ActionState,
    Finding,
    action_insert_many,
    action_set_state_many,
    finding_delete_many,
    finding_get_due,
)
from millhand.orphans.removal.quarantine import (
    CHANGED,
    GONE,
    LOCKED,
    MoveResult,
    is_working,
    log_unmoved,
    quarantine_objects,
    quarantine_places,
    recorded_object,
    restore_objects,
    state_if_not_moved,
)
from millhand.orphans.removal.undeclared import Search
from millhand.orphans.rules import REMOVING, REMOVING_NUMBERS
from millhand.orphans.scan.context import RunContext, RunState
from millhand.orphans.scan.lookup import find_object, gather_all
from millhand.orphans.sources.cascades import with_left_row
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import ObjectInfo, StoreError

WAVES = (10, 100, 1_000)


async def sweep(context: RunContext, state: RunState, found: Search) -> str | None:
    """
    Remove all that is due, wave by wave. Return the reason of the first failed move, which ended the sweep, if any.

    Raises: SourceFailed; RunLost; DriverError. The next run then settles the interrupted actions.
    """
    after = 0
    for size in chain(WAVES, repeat(WAVES[-1])):
        query = finding_get_due(context.run.id, rules=REMOVING_NUMBERS, after=after, limit=size)
        due = await context.executor.run(query)
        if not due:
            break
        after = due[-1].id
        began = time.monotonic()
        wave = [
            one for one in due if context.is_removable(one) and (found.clears(one.key) or not one.is_present)
        ]
        failure = await _sweep_wave(context, state, wave)
        context.report_progress("sweep", due[-1].key, state.totals)
        if failure is not None:
            return failure
        pause = began + len(due) / context.config.max_keys_per_second - time.monotonic()
        await asyncio.sleep(max(0.0, pause))
    return None


async def quarantine_unreferenced(context: RunContext, actions: Sequence[Action]) -> Mapping[int, MoveResult]:
    """
    Move the objects of actions into quarantine, unless a row references them before or after the move.

    Return the results by action id, for `record_moves`: the ledger still has the actions as intended.
    Raises: SourceFailed; DriverError.
    """
    rows = await context.rows_keeping([action.key for action in actions])
    moves = await quarantine_objects(context.store, [action for action in actions if action.key not in rows])
    moves |= {
        action.id: MoveResult(reason="a row references it again", state=state_if_not_moved(action))
        for action in actions
        if action.key in rows
    }
    moved = [action for action in actions if moves[action.id].state is ActionState.QUARANTINED]
    moves |= await restore_referenced(context, moved)
    return moves


async def restore_referenced(context: RunContext, moved: Sequence[Action]) -> Mapping[int, MoveResult]:
    """Restore objects that a row references since their move. Return only their results, by action id."""
    rows = await context.rows_keeping([action.key for action in moved])
    return await restore_objects(context.store, [action for action in moved if action.key in rows])


async def record_moves(
    context: RunContext,
    state: RunState,
    moves: Mapping[int, MoveResult],
    *,
    was: ActionState = ActionState.INTENDED,
) -> None:
    """Write the results of moves to the ledger, if their actions are still as they were. Raises: DriverError."""
    if not moves:
        return
    state.count_moves(move.state for move in moves.values())
    states = {id: (move.state, move.reason) for id, move in moves.items()}
    await context.executor.run(action_set_state_many(states, was=was, now=context.ledger_now))


async def _sweep_wave(context: RunContext, state: RunState, findings: Sequence[Finding]) -> str | None:
    rows = await _with_same_objects(context, state, [finding for finding in findings if finding.source])
    objects = [finding for finding in findings if not finding.source]
    present = [finding.key for finding in (*rows, *objects) if finding.is_present]
    places = await quarantine_places(context.store, context.run.id, present)
    row_actions = await _delete_rows(context, state, rows, places)
    object_actions = await _record_intended(context, objects, places)
    actions = [*row_actions, *object_actions]
    moves = await quarantine_unreferenced(context, actions)
    await record_moves(context, state, moves)
    failed = [action for action in actions if moves[action.id].is_failure]
    log_unmoved(failed, moves)
    is_broken = bool(failed) and not await is_working(context.store)
    # A finding that stays is due in the next run again. Without it, the object's grace starts again.
    pairs = zip(objects, object_actions, strict=True)
    done_ids = [finding.id for finding, action in pairs if not (is_broken and moves[action.id].is_failure)]
    await context.executor.run(finding_delete_many(done_ids))
    return moves[failed[0].id].reason if is_broken else None


async def _record_intended(
    context: RunContext, findings: Sequence[Finding], places: Mapping[str, str]
) -> list[Action]:
    """Write to the ledger which objects the sweep will remove. Shape: one action for each finding, in order."""
    if not findings:
        return []
    async with context.executor.begin() as tx:
        await context.beat(tx)
        return await _insert_actions(tx, context, [_action(finding, places) for finding in findings])


async def _with_same_objects(
    context: RunContext, state: RunState, findings: Sequence[Finding]
) -> Sequence[Finding]:
    """
    Return the findings of rows whose objects are as the scan saw them, and keep the other rows.

    Hours may lie between scan and sweep, and an upload may have ended meanwhile.
    """
    reasons = await gather_all([_look_again(context, finding) for finding in findings])
    found = list(zip(findings, reasons, strict=True))
    await _keep_rows(context, state, [(finding, reason) for finding, reason in found if reason])
    return [finding for finding, reason in found if not reason]


async def _look_again(context: RunContext, finding: Finding) -> str:
    """Return why a row stays although it is due, or an empty text."""
    try:
        return why_row_stays(finding, await find_object(context.store, finding.key))
    except StoreError as error:
        return str(error)


def why_row_stays(finding: Finding, found: ObjectInfo | None) -> str:
    """Return why a row that is due stays because of its object, `found` right before the deletion; empty if it may go."""
    if found is None:
        return GONE if finding.is_present else ""
    if found.is_locked:
        return LOCKED
    return "" if finding.is_present and found.is_same_as(recorded_object(finding)) else CHANGED


async def _keep_rows(context: RunContext, state: RunState, kept: Sequence[tuple[Finding, str]]) -> None:
    """Record why rows stay that were due. Without their findings, their ages start again."""
    if not kept:
        return
    async with context.executor.begin() as tx:
        await context.beat(tx)
        records = [replace(_action(finding, {}), state=ActionState.KEPT) for finding, _ in kept]
        actions = await _insert_actions(tx, context, records)
        pairs = zip(actions, kept, strict=True)
        states = {action.id: (ActionState.KEPT, reason) for action, (_, reason) in pairs}
        await tx.run(action_set_state_many(states, was=ActionState.KEPT, now=context.ledger_now))
        await tx.run(finding_delete_many([finding.id for finding, _ in kept]))
    state.count_moves(ActionState.KEPT for _ in kept)


async def _delete_rows(
    context: RunContext, state: RunState, findings: Sequence[Finding], places: Mapping[str, str]
) -> list[Action]:
    """Delete the rows that are still due. Return the actions on their objects."""
    actions = []
    for source in sorted({finding.source for finding in findings}):
        of_source = [finding for finding in findings if finding.source == source]
        try:
            actions += await _delete_rows_of(context, state, source, of_source, places)
        except DriverError:
            # One row may violate a constraint. Delete each row alone, so that the others go.
            for finding in of_source:
                actions += await _delete_row(context, state, finding, places)
    return actions


async def _delete_row(
    context: RunContext, state: RunState, finding: Finding, places: Mapping[str, str]
) -> list[Action]:
    try:
        return await _delete_rows_of(context, state, finding.source, [finding], places)
    except DriverError as error:
        if error.retryable:
            raise
        await _keep_rows(context, state, [(finding, str(error))])
        return []


async def _delete_rows_of(
    context: RunContext, state: RunState, source: str, findings: Sequence[Finding], places: Mapping[str, str]
) -> list[Action]:
    by_id = {finding.row_id: finding for finding in findings}
    references = context.references
    async with context.executor.begin() as tx:
        await context.beat(tx)
        await tx.fetch("SET LOCAL row_security = off")
        locked = await references.lock_rows(tx, source, list(by_id))
        rows = await references.rows_by_key(sorted({row.key for row in locked}), executor=tx)
        due = [row for row in locked if _is_still_due(context, row, by_id[row.row_id], rows)]
        if not due:
            return []
        cascaded = await references.lock_cascaded(tx, due)
        left = await references.delete_rows(tx, source, [row.row_id for row in due])
        deleted = [
            replace(
                _action(by_id[row.row_id], places),
                cascaded_json=with_left_row(
                    cascaded[row.row_id], references.source(source), row.row_json, left.get(row.row_id)
                ),
                row_json=row.row_json,
                table_name=references.source(source).table,
            )
            for row in due
        ]
        actions = await _insert_actions(tx, context, deleted)
        await tx.run(finding_delete_many([by_id[row.row_id].id for row in due]))
    state.add(deleted_rows=len(due))
    return [action for action in actions if action.state == ActionState.INTENDED]


async def _insert_actions(executor: Executor, context: RunContext, actions: Sequence[Action]) -> list[Action]:
    run = context.run
    return await executor.run(action_insert_many(run.bucket, run.id, actions, now=context.ledger_now))


def _is_still_due(
    context: RunContext, row: ReferenceRow, finding: Finding, rows: Mapping[str, Sequence[ReferenceRow]]
) -> bool:
    """Evaluate again a row that is now locked, so that no transaction can change it."""
    is_shared = any(
        (other.source, other.row_id) != (row.source, row.row_id) for other in rows.get(row.key, ())
    )
    seen = recorded_object(finding) if finding.is_present else None
    observation = Observation(key=row.key, object=seen, row=row, is_shared=is_shared)
    rule, _ = evaluate(observation, finding, complete_run_id=None, config=context.config, now=context.now)
    return row.key == finding.key and rule.verdict in REMOVING


def _action(finding: Finding, places: Mapping[str, str]) -> Action:
    return Action(
        key=finding.key,
        rule=finding.rule,
        state=ActionState.INTENDED if finding.is_present else ActionState.ROW_DELETED,
        size=finding.size,
        etag=finding.etag,
        modified_at=finding.modified_at,
        quarantine_key=places.get(finding.key) if finding.is_present else None,
        source=finding.source,
        row_id=finding.row_id,
    )
