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
from millhand.orphans.scan.near_match import Spelling
from millhand.orphans.scan.scan import Pass, gather_all, is_there
from millhand.orphans.sources.statements import ReferenceRow

logger = logging.getLogger(__name__)

BATCH = 1_000
RESUME_WITHIN = timedelta(days=1)  # after that, too much may have happened to the key meanwhile


async def settle(pass_: Pass, *, may_act: bool) -> None:
    """Bring to an end what a run that was killed had begun. Raises: SourceFailed; StoreError; DriverError."""
    async for actions in _open(pass_, ActionState.INTENDED):
        found = await gather_all([find(pass_.store, action) for action in actions])
        places = {action.id: place for action, place in zip(actions, found, strict=True)}
        await _settle_moved(
            pass_, [action for action in actions if places[action.id] is Whereabouts.IN_QUARANTINE]
        )
        unmoved = [action for action in actions if places[action.id] is not Whereabouts.IN_QUARANTINE]
        for action in unmoved:
            if places[action.id] is Whereabouts.IN_BOTH and action.quarantine_key is not None:
                await pass_.store.delete(action.quarantine_key)
            if places[action.id] is Whereabouts.GONE and action.quarantine_key == HIDDEN:
                await uncover(pass_.store, seen_object(action))
        resumed = [
            action for action in unmoved if may_act and _is_resumable(pass_, action, places[action.id])
        ]
        await carry_out(pass_, resumed)
        resumed_ids = {action.id for action in resumed}
        await record(
            pass_, {action.id: _dropped(action) for action in unmoved if action.id not in resumed_ids}
        )


async def heal(pass_: Pass) -> None:
    """Put back what lies in quarantine and is referred to. Raises: SourceFailed; StoreError; DriverError."""
    async for actions in _open(pass_, ActionState.QUARANTINED):
        naming = await pass_.holding([action.key for action in actions])
        await _put_back(pass_, [action for action in actions if _is_wanted(naming.get(action.key, ()))])


async def purge(pass_: Pass) -> None:
    """
    Destroy what lay in quarantine for its time and is still referred to by nobody, or was replaced.

    What a row writes otherwise by then is put back: to ask for it each time for all that lies there would be dear.
    """
    twins_of = Spelling.of(pass_.executor, pass_.references, pass_.config, pass_.store)
    # By the clock of this moment, as the moves were dated; a run may take longer than its quarantine.
    now = pass_.brought_now or (await pass_.executor.run(database_facts())).now
    before = now - pass_.config.quarantine_for
    async for lying in _open(pass_, ActionState.QUARANTINED, before):
        twins = await twins_of([action.key for action in lying])
        await _put_back(pass_, [action for action in lying if action.key in twins])
        actions = [action for action in lying if action.key not in twins]
        naming = await pass_.holding([action.key for action in actions])
        named = [action for action in actions if action.key in naming]
        are_there = await gather_all([is_there(pass_.store, action.key) for action in named])
        awaited = {action.id for action, is_one in zip(named, are_there, strict=True) if not is_one}
        going = [action for action in actions if action.id not in awaited]
        destroyed = await destroy_many(pass_.store, going)
        await pass_.executor.run(action_set_state_many(destroyed.ended, now=pass_.brought_now))
        pass_.run.totals.purged += sum(state is ActionState.PURGED for state, _ in destroyed.ended.values())
        _tell_refused([action for action in going if action.id in destroyed.refused], destroyed)


async def _put_back(pass_: Pass, wanted: Sequence[Action]) -> None:
    moves = await put_back_many(pass_.store, wanted)
    changed = {id_: move for id_, move in moves.items() if move.state is not ActionState.QUARANTINED}
    await record(pass_, changed)
    restored = [one for one in wanted if moves[one.id].state is ActionState.RESTORED]
    await raise_recalled_alerts(pass_, restored)


def _tell_refused(actions: Sequence[Action], destroyed: Destroyed) -> None:
    if actions:
        first = actions[0]
        told = {"bucket": first.bucket, "key": first.key, "reason": destroyed.refused[first.id]}
        logger.warning(
            "orphan cleanup cannot destroy what is in quarantine", extra={**told, "objects": len(actions)}
        )


async def _settle_moved(pass_: Pass, moved: Sequence[Action]) -> None:
    moves: Mapping[int, Move] = {
        action.id: Move(reason="", state=ActionState.QUARANTINED) for action in moved
    }
    await record(pass_, {**moves, **await put_back_needed(pass_, moved)})


async def _open(
    pass_: Pass, state: ActionState, updated_before: datetime | None = None
) -> AsyncIterator[list[Action]]:
    """Yield all actions in a state that is not their last, batch by batch."""
    after, bucket = 0, pass_.run.bucket
    while True:
        query = action_get_open(bucket, state=state, after=after, limit=BATCH, updated_before=updated_before)
        actions = await pass_.executor.run(query)
        if not actions:
            return
        await pass_.beat()
        yield actions
        after = actions[-1].id


def _is_resumable(pass_: Pass, action: Action, place: Whereabouts) -> bool:
    began_at = action.created_at
    is_recent = began_at is not None and pass_.now - began_at <= RESUME_WITHIN
    return is_recent and action.row_json is not None and place is not Whereabouts.GONE


def _dropped(action: Action) -> Move:
    state = ActionState.ROW_DELETED if action.row_json is not None else ActionState.KEPT
    return Move(reason="interrupted before the object was moved; it is judged anew", state=state)


def _is_wanted(rows: Sequence[ReferenceRow]) -> bool:
    # A pending row waits for an upload of its own; an old object under its key would only be in the way.
    return any(row.reference is not Reference.PENDING for row in rows)
