"""
What earlier runs left behind: moves that were interrupted, and objects in quarantine.

An interrupted move is settled by what is found, never by what was meant: an object that is still in its place is judged
anew, unless its own row was deleted with it within the last day; one that lies in quarantine is treated as moved.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta

from millhand.orphans.ledger import (
    Action,
    ActionState,
    action_get_open,
    action_set_state_many,
    database_facts,
)
from millhand.orphans.removal.alerts import raise_recalled_alerts
from millhand.orphans.removal.quarantine import (
    Destroyed,
    Move,
    Whereabouts,
    destroy_many,
    find,
    put_back_many,
    seen_object,
)
from millhand.orphans.removal.sweep import carry_out, put_back_needed, record
from millhand.orphans.removal.versions import HIDDEN, uncover
from millhand.orphans.rules import Reference
from millhand.orphans.scan.context import RunContext, RunState
from millhand.orphans.scan.lookup import gather_all, is_there
from millhand.orphans.scan.near_match import NearMatchFinder
from millhand.orphans.sources.statements import ReferenceRow

logger = logging.getLogger(__name__)

BATCH = 1_000
RESUME_WITHIN = timedelta(days=1)  # after that, too much may have happened to the key meanwhile


async def settle(context: RunContext, state: RunState) -> None:
    """Bring to an end what a run that was killed had begun. Raises: SourceFailed; StoreError; DriverError."""
    async for actions in _open(context, ActionState.INTENDED):
        found = await gather_all([find(context.store, action) for action in actions])
        places = {action.id: place for action, place in zip(actions, found, strict=True)}
        await _settle_moved(
            context, state, [action for action in actions if places[action.id] is Whereabouts.IN_QUARANTINE]
        )
        unmoved = [action for action in actions if places[action.id] is not Whereabouts.IN_QUARANTINE]
        for action in unmoved:
            if places[action.id] is Whereabouts.IN_BOTH and action.quarantine_key is not None:
                await context.store.delete(action.quarantine_key)
            if places[action.id] is Whereabouts.GONE and action.quarantine_key == HIDDEN:
                await uncover(context.store, seen_object(action))
        resumed = [
            action
            for action in unmoved
            if context.may_act and _is_resumable(context, action, places[action.id])
        ]
        await carry_out(context, state, resumed)
        resumed_ids = {action.id for action in resumed}
        await record(
            context,
            state,
            {action.id: _dropped(action) for action in unmoved if action.id not in resumed_ids},
        )


async def heal(context: RunContext, state: RunState) -> None:
    """Put back what lies in quarantine and is referred to. Raises: SourceFailed; StoreError; DriverError."""
    async for actions in _open(context, ActionState.QUARANTINED):
        naming = await context.holding([action.key for action in actions])
        await _put_back(
            context, state, [action for action in actions if _is_wanted(naming.get(action.key, ()))]
        )


async def purge(context: RunContext, state: RunState) -> None:
    """
    Destroy what lay in quarantine for its time and is still referred to by nobody, or was replaced.

    What a row writes otherwise by then is put back: to ask for it each time for all that lies there would be dear.
    """
    finder = NearMatchFinder.of(context.executor, context.references, context.config, context.store)
    # By the clock of this moment, as the moves were dated; a run may take longer than its quarantine.
    now = context.ledger_now or (await context.executor.run(database_facts())).now
    before = now - context.config.quarantine_for
    async for lying in _open(context, ActionState.QUARANTINED, before):
        near = await finder.find([action.key for action in lying])
        await _put_back(context, state, [action for action in lying if action.key in near])
        actions = [action for action in lying if action.key not in near]
        naming = await context.holding([action.key for action in actions])
        named = [action for action in actions if action.key in naming]
        are_there = await gather_all([is_there(context.store, action.key) for action in named])
        awaited = {action.id for action, is_one in zip(named, are_there, strict=True) if not is_one}
        going = [action for action in actions if action.id not in awaited]
        destroyed = await destroy_many(context.store, going)
        await context.executor.run(action_set_state_many(destroyed.ended, now=context.ledger_now))
        state.count_purged(sum(ended is ActionState.PURGED for ended, _ in destroyed.ended.values()))
        _tell_refused([action for action in going if action.id in destroyed.refused], destroyed)


async def _put_back(context: RunContext, state: RunState, wanted: Sequence[Action]) -> None:
    moves = await put_back_many(context.store, wanted)
    changed = {id_: move for id_, move in moves.items() if move.state is not ActionState.QUARANTINED}
    await record(context, state, changed)
    restored = [one for one in wanted if moves[one.id].state is ActionState.RESTORED]
    await raise_recalled_alerts(context, state, restored)


def _tell_refused(actions: Sequence[Action], destroyed: Destroyed) -> None:
    if actions:
        first = actions[0]
        told = {"bucket": first.bucket, "key": first.key, "reason": destroyed.refused[first.id]}
        logger.warning(
            "orphan cleanup cannot destroy what is in quarantine", extra={**told, "objects": len(actions)}
        )


async def _settle_moved(context: RunContext, state: RunState, moved: Sequence[Action]) -> None:
    moves: Mapping[int, Move] = {
        action.id: Move(reason="", state=ActionState.QUARANTINED) for action in moved
    }
    await record(context, state, {**moves, **await put_back_needed(context, moved)})


async def _open(
    context: RunContext, action_state: ActionState, updated_before: datetime | None = None
) -> AsyncIterator[list[Action]]:
    """Yield all actions in a state that is not their last, batch by batch."""
    after, bucket = 0, context.run.bucket
    while True:
        query = action_get_open(
            bucket, state=action_state, after=after, limit=BATCH, updated_before=updated_before
        )
        actions = await context.executor.run(query)
        if not actions:
            return
        await context.beat()
        yield actions
        after = actions[-1].id


def _is_resumable(context: RunContext, action: Action, place: Whereabouts) -> bool:
    began_at = action.created_at
    is_recent = began_at is not None and context.now - began_at <= RESUME_WITHIN
    return is_recent and action.row_json is not None and place is not Whereabouts.GONE


def _dropped(action: Action) -> Move:
    state = ActionState.ROW_DELETED if action.row_json is not None else ActionState.KEPT
    return Move(reason="interrupted before the object was moved; it is judged anew", state=state)


def _is_wanted(rows: Sequence[ReferenceRow]) -> bool:
    # A pending row waits for an upload of its own; an old object under its key would only be in the way.
    return any(row.reference is not Reference.PENDING for row in rows)
