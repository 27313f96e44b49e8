"""
Finish what earlier runs left: interrupted moves, and objects in quarantine.

An interrupted move is settled by where the object is now. An object in quarantine counts as moved.

An object in place is not settled for `quarantine_for`: the process that moves it may only be paused, and move it when it
goes on. Until then each run looks again, so that an object that is moved late is restored if a row references it. No run
moves it meanwhile, unless the run deleted its row with it less than a day ago: then the move is completed. If it cannot
be completed, the action stays as it is, too.

If the object and its copy are there, the paused process may delete the object. The copy would then be all that is left. It
stays for `quarantine_for`, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from millhand.core.log.logger import logger_of
from millhand.core.orphans import Mode
from millhand.orphans.ledger import (
    Action,
    ActionState,
    action_announce_purge,
    action_get_open,
    action_get_outranked,
    action_get_quarantined,
    action_set_state_many,
)
from millhand.orphans.removal.alerts import raise_recalled_alerts
from millhand.orphans.removal.quarantine import (
    MoveResult,
    ObjectLocation,
    locate_object,
    purge_objects,
    recorded_object,
    restore_newest,
    state_if_not_moved,
)
from millhand.orphans.removal.sweep import quarantine_unreferenced, record_moves, restore_referenced
from millhand.orphans.removal.undeclared import Search, expired_actions, search
from millhand.orphans.removal.versions import DOOMED, HIDDEN, unhide_newer
from millhand.orphans.rules import Reference
from millhand.orphans.scan.context import RunContext, RunState
from millhand.orphans.scan.lookup import batches, existing_keys, gather_all
from millhand.orphans.scan.near_match import NearMatchFinder
from millhand.storage import StoreError

logger = logger_of(__name__)

BATCH = 1_000
RESUME_WITHIN = timedelta(days=1)  # later, the key may have changed too much
INTERRUPTED = "interrupted before the object was moved; the next run evaluates it again"
SPARED = (ActionState.QUARANTINED, "a row references it")
QUARANTINED = MoveResult(reason="", state=ActionState.QUARANTINED)


async def settle_interrupted(context: RunContext, state: RunState) -> None:
    """Finish the moves of a run that was killed. Raises: SourceFailed; StoreError; DriverError."""
    async for actions in _open_actions(context, ActionState.INTENDED):
        found = await gather_all([locate_object(context.store, action) for action in actions])
        locations = {action.id: location for action, location in zip(actions, found, strict=True)}
        moved = [one for one in actions if locations[one.id] is ObjectLocation.IN_QUARANTINE]
        moves = dict.fromkeys([action.id for action in moved], QUARANTINED)
        await record_moves(context, state, {**moves, **await restore_referenced(context, moved)})
        unmoved = [action for action in actions if action.id not in moves]
        unsettled = [one for one in unmoved if not await _is_cleared(context, one, locations[one.id])]
        unmoved = [action for action in unmoved if action not in unsettled]
        resumed = [one for one in unmoved if _is_resumable(context, one, locations[one.id])]
        done = await quarantine_unreferenced(context, await _searched(context, state, resumed))
        interrupted = {
            action.id: MoveResult(reason=INTERRUPTED, state=state_if_not_moved(action)) for action in unmoved
        }
        ended = {**interrupted, **done}
        left = [action.id for action in resumed if _is_left(context, action, ended[action.id])]
        await record_moves(context, state, {id_: move for id_, move in ended.items() if id_ not in left})


async def _is_cleared(context: RunContext, action: Action, location: ObjectLocation) -> bool:
    """Remove what a move left beside an object in place. Return False if a later run has to."""
    may_be_moved = location is ObjectLocation.IN_BOTH or (
        location is ObjectLocation.IN_PLACE and not _is_resumable(context, action, location)
    )
    if may_be_moved and _may_be_paused(context, action):
        return False
    try:
        if location is ObjectLocation.IN_BOTH and action.quarantine_key is not None:
            await context.store.delete(action.quarantine_key)
        if location is ObjectLocation.GONE and action.quarantine_key == HIDDEN:
            await unhide_newer(context.store, recorded_object(action))
    except StoreError as error:
        if not error.is_refusal:
            raise
        return False
    return location is not ObjectLocation.UNKNOWN


async def restore_recalled(context: RunContext, state: RunState) -> None:
    """Restore quarantined objects that a row references. Raises: SourceFailed; StoreError; DriverError."""
    async for actions in _open_actions(context, ActionState.QUARANTINED):
        rows = await context.rows_keeping([action.key for action in actions])
        # A pending row waits for its own upload, which must find its key free.
        keys = {
            key for key, found in rows.items() if any(row.reference is not Reference.PENDING for row in found)
        }
        await _restore(context, state, [one for one in actions if one.key in keys])


async def restore_found(context: RunContext, state: RunState, found: Search) -> None:
    """Restore quarantined objects whose key the database names somewhere. Raises: StoreError; DriverError."""
    if found.notes and context.mode is Mode.DELETE:
        async for expired in expired_actions(context):
            await _restore(context, state, [action for action in expired if action.key in found.notes])


async def purge_expired(context: RunContext, state: RunState, found: Search) -> None:
    """
    Delete quarantined objects permanently after their time, if no row references them or a newer object has their key.

    It deletes only objects that the database was searched for. Of a referenced key whose object is an older one that an
    operator restored, the newer one stays: the row may mean that.

    Before that, it restores objects with a near match: checking all of the quarantine in each run would be too slow.
    """
    finder = NearMatchFinder.of(context.executor, context.references, context.config, context.store)
    async for batch in expired_actions(context):
        expired = [action for action in batch if found.clears(action.key)]
        near = await finder.find([action.key for action in expired])
        await _restore(context, state, [action for action in expired if action.key in near])
        actions = await _announced(context, [action for action in expired if action.key not in near])
        rows = await context.rows_keeping([action.key for action in actions])
        referenced = [action.key for action in actions if action.key in rows]
        outranked = await _outranked(context, [action for action in actions if action.key in rows])
        needed = set(referenced) - await existing_keys(context.store, referenced, at_once=BATCH)
        needed |= {action.key for action in outranked}
        purged = await purge_objects(context.store, [one for one in actions if one.key not in needed])
        hidden = [one for one in actions if one.key in needed and one.quarantine_key == HIDDEN]
        spared = {action.id: SPARED for action in (*hidden, *outranked)}
        states = {**purged.states, **spared}
        await context.executor.run(
            action_set_state_many(states, was=ActionState.QUARANTINED, now=context.ledger_now)
        )
        state.add(purged=sum(one is ActionState.PURGED for one, _ in purged.states.values()))
        if failed := [action for action in actions if action.id in purged.failed]:
            first = failed[0]
            fields = {"bucket": first.bucket, "key": first.key, "reason": purged.failed[first.id]}
            logger.warning("orphan cleanup cannot purge objects", extra={**fields, "objects": len(failed)})


async def _announced(context: RunContext, actions: Sequence[Action]) -> list[Action]:
    """
    Record which hidden versions are about to be destroyed, and return all that are still in quarantine. Raises: RunLost.

    A restore has claimed its actions before that, or knows then what is doomed. The references are read after that. A run
    that begins meanwhile takes this one's row, and then knows what is doomed.
    """
    hidden = [action for action in actions if action.quarantine_key == HIDDEN]
    if not hidden:
        return list(actions)
    async with context.executor.begin() as tx:
        await context.beat(tx)
        doomed = await tx.run(action_announce_purge(hidden, reason=DOOMED))
    return [one for one in actions if one.quarantine_key != HIDDEN or one.id in doomed]


async def _outranked(context: RunContext, actions: Sequence[Action]) -> list[Action]:
    """Return the actions that are newer than the object which was restored to their key."""
    if not actions:
        return []
    ids = await context.executor.run(action_get_outranked([action.id for action in actions]))
    return [action for action in actions if action.id in ids]


async def _restore(context: RunContext, state: RunState, wanted: Sequence[Action]) -> None:
    """Restore the newest object in quarantine of each key that has one of these actions."""
    if not wanted:
        return
    keys = sorted({action.key for action in wanted})
    actions = await context.executor.run(action_get_quarantined(context.run.bucket, keys))
    moves = await restore_newest(context.store, actions)
    changed = {id_: move for id_, move in moves.items() if move.state is not ActionState.QUARANTINED}
    await record_moves(context, state, changed, was=ActionState.QUARANTINED)
    restored = [one for one in actions if one.id in moves and moves[one.id].state is ActionState.RESTORED]
    await raise_recalled_alerts(context, state, restored)


async def _searched(context: RunContext, state: RunState, actions: Sequence[Action]) -> list[Action]:
    """Return the actions whose keys the database does not name; none if it cannot be searched."""
    # An action may stay open for a day, and a search reads the whole database. So it leaves out what has a row.
    rows = await context.rows_keeping([action.key for action in actions])
    keys = sorted({action.key for action in actions}.difference(rows))
    if not keys:
        return []
    found = await search(context, state, keys)
    return [] if found.reasons else [action for action in actions if found.clears(action.key)]


async def _open_actions(context: RunContext, action_state: ActionState) -> AsyncIterator[list[Action]]:
    async for actions in batches(
        context.executor,
        lambda after: action_get_open(context.run.bucket, state=action_state, after=after, limit=BATCH),
    ):
        await context.beat()
        yield actions


def _may_be_paused(context: RunContext, action: Action) -> bool:
    """Return whether the process that moves the object may go on. One that knows of a failure has recorded its reason."""
    began_at = action.created_at
    return (
        not action.reason and began_at is not None and context.now - began_at < context.config.quarantine_for
    )


def _is_left(context: RunContext, action: Action, move: MoveResult) -> bool:
    """Return whether an action stays intended: the process that began it may still move what this run did not."""
    return move.state is not ActionState.QUARANTINED and _may_be_paused(context, action)


def _is_resumable(context: RunContext, action: Action, location: ObjectLocation) -> bool:
    began_at = action.created_at
    is_recent = began_at is not None and context.now - began_at <= RESUME_WITHIN
    has_object = location is not ObjectLocation.GONE
    return context.may_act and is_recent and action.row_json is not None and has_object
