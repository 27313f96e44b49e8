"""Move objects into quarantine and back, and report each result as a state of the action."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from millhand.orphans.ledger import Action, ActionState, Finding
from millhand.orphans.removal.versions import HIDDEN, hide, is_hidden, purge_version, unhide
from millhand.orphans.scan.lookup import find_object, gather_all
from millhand.storage import (
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectLocked,
    ObjectNotFound,
    ObjectStore,
    StoreError,
)
from millhand.storage.protocol import RESERVED_PREFIX

QUARANTINE = f"{RESERVED_PREFIX}quarantine/"
MAX_READABLE_BYTES = 700  # a longer key does not fit into 1,024 bytes with the quarantine prefix
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
EXPIRED = (ActionState.PURGED, "its time in quarantine ended")


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveResult:
    """The result of one move. With `is_failure`, the store failed, which says nothing about the object."""

    is_failure: bool = False
    reason: str
    state: ActionState

    @property
    def is_in_place(self) -> bool:
        """Whether the object was not moved, or is gone."""
        return self.state in (ActionState.KEPT, ActionState.ROW_DELETED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeResult:
    """The new state and reason of each action, and the reason for each object that could not be deleted, by action id."""

    states: Mapping[int, tuple[ActionState, str]]
    failed: Mapping[int, str]


class ObjectLocation(Enum):
    """Where the object of an interrupted action is."""

    IN_PLACE = "in_place"
    IN_QUARANTINE = "in_quarantine"
    IN_BOTH = "in_both"
    GONE = "gone"


def quarantine_key(run_id: int, key: str) -> str:
    """Return the key of an object in quarantine. A very long key becomes its hash; the ledger holds the original."""
    data = key.encode()
    name = key if len(data) <= MAX_READABLE_BYTES else f"~{hashlib.sha256(data).hexdigest()}"
    return f"{QUARANTINE}{run_id}/{name}"


def recorded_object(record: Action | Finding) -> ObjectInfo:
    """Return the object of an action or finding as the scan saw it."""
    modified_at = record.modified_at or LONG_AGO
    return ObjectInfo(key=record.key, size=record.size, etag=record.etag, modified_at=modified_at)


def state_if_not_moved(action: Action) -> ActionState:
    """Return the state of an action whose object was not moved."""
    return ActionState.KEPT if action.row_json is None else ActionState.ROW_DELETED


async def quarantine_objects(store: ObjectStore, actions: Sequence[Action]) -> dict[int, MoveResult]:
    """Move objects into quarantine, each only if unchanged since the scan. Return the results by action id."""
    return await _each(store, actions, quarantine_object)


async def restore_objects(store: ObjectStore, actions: Sequence[Action]) -> dict[int, MoveResult]:
    """Move objects out of quarantine, each only if its key is free. Return the results by action id."""
    return await _each(store, actions, restore_object)


async def quarantine_object(store: ObjectStore, action: Action) -> MoveResult:
    """Move one object into quarantine. If it stays in place, return the reason; raise no StoreError."""
    is_failure, seen = False, recorded_object(action)
    try:
        if action.quarantine_key == HIDDEN:
            reason = await hide(store, seen)
        else:
            await store.move(action.key, action.quarantine_key or "", if_same=seen)
            reason = ""
    except ObjectNotFound:
        reason = "the object is gone"
    except ObjectChanged:
        reason = "the object changed since the scan"
    except ObjectLocked:
        reason = "the object is under legal hold or retention (rule 23)"
    except StoreError as error:
        reason, is_failure = str(error), True
    state = state_if_not_moved(action) if reason else ActionState.QUARANTINED
    return MoveResult(is_failure=is_failure, reason=reason, state=state)


async def restore_object(store: ObjectStore, action: Action) -> MoveResult:
    try:
        if action.quarantine_key == HIDDEN:
            state, reason = await unhide(store, recorded_object(action))
            return MoveResult(reason=reason, state=state)
        await store.move(action.quarantine_key or "", action.key, if_absent=True)
    except ObjectExists:
        return MoveResult(reason="a newer object has its key", state=ActionState.QUARANTINED)
    except ObjectNotFound:
        return MoveResult(reason="the object is no longer in quarantine", state=ActionState.KEPT)
    except StoreError as error:
        return MoveResult(is_failure=True, reason=str(error), state=ActionState.QUARANTINED)
    return MoveResult(reason="a row references it", state=ActionState.RESTORED)


async def locate_object(store: ObjectStore, action: Action) -> ObjectLocation:
    seen = recorded_object(action)
    found = await find_object(store, action.key)
    is_in_place = found is not None and found.is_same_as(seen)
    if action.quarantine_key == HIDDEN:
        is_quarantined = not is_in_place and await is_hidden(store, seen)
    else:
        key = action.quarantine_key
        is_quarantined = key is not None and await find_object(store, key) is not None
    if is_in_place:
        return ObjectLocation.IN_BOTH if is_quarantined else ObjectLocation.IN_PLACE
    return ObjectLocation.IN_QUARANTINE if is_quarantined else ObjectLocation.GONE


async def purge_objects(store: ObjectStore, actions: Sequence[Action]) -> PurgeResult:
    """Delete objects in quarantine permanently. An object that the store denies, such as a locked version, stays there."""
    moved = [
        (action.id, action.quarantine_key or "") for action in actions if action.quarantine_key != HIDDEN
    ]
    denied = await store.delete_many([key for _, key in moved])
    states = {id_: EXPIRED for id_, key in moved if key not in denied}
    failed = {id_: denied[key] for id_, key in moved if key in denied}
    for action in actions:
        if action.quarantine_key == HIDDEN:
            try:
                states[action.id] = await purge_version(store, recorded_object(action))
            except StoreError as error:
                if not error.is_denied:
                    raise
                failed[action.id] = str(error)
    return PurgeResult(states=states, failed=failed)


async def _each(
    store: ObjectStore,
    actions: Sequence[Action],
    step: Callable[[ObjectStore, Action], Awaitable[MoveResult]],
) -> dict[int, MoveResult]:
    results = await gather_all([step(store, action) for action in actions])
    return {action.id: result for action, result in zip(actions, results, strict=True)}
