"""
Move objects into quarantine and back, and report each result as a state of the action.

Rule 1: an object that the store declines to move stays, with the store's reason, and delays no other object.
Rule 2: if a request may or may not have been carried out, the action stays intended. The next run settles it by where the
        object is. No run moves the object before that, so there is at most one copy.
Rule 3: in a bucket with versions, an object goes behind a delete marker only if it has a version id. Otherwise a bucket
        whose versions are suspended meanwhile would destroy it at once, so it is copied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from millhand.core.log.logger import logger_of
from millhand.orphans.ledger import Action, ActionState, Finding
from millhand.orphans.removal.versions import DOOMED, HIDDEN, hide, is_hidden, purge_version, unhide
from millhand.orphans.scan.lookup import find_object, gather_all
from millhand.storage import (
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectLocked,
    ObjectNotFound,
    ObjectStore,
    StoreError,
    Versioning,
)
from millhand.storage.protocol import RESERVED_PREFIX

logger = logger_of(__name__)

QUARANTINE = f"{RESERVED_PREFIX}quarantine/"
MAX_READABLE_BYTES = 700  # a longer key does not fit into 1,024 bytes with the quarantine prefix
NO_VERSION = (None, "null")  # the version of an object from a time without versions
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
CHANGED = "the object changed since the scan"
GONE = "the object is gone"
LOCKED = "the object is under legal hold or retention (rule 23)"
EXPIRED = (ActionState.PURGED, "its time in quarantine ended")


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveResult:
    """
    The result of one move. `is_failure` means that the store declined it or failed.

    The state of a move whose result is unknown is INTENDED.
    """

    is_failure: bool = False
    reason: str
    state: ActionState


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeResult:
    """The new state and reason of each action, and the reason for each object that could not be deleted, by action id."""

    states: Mapping[int, tuple[ActionState, str]]
    failed: Mapping[int, str]


class ObjectLocation(Enum):
    """Where the object of an interrupted action is. UNKNOWN if the store declines to describe it or its copy."""

    IN_PLACE = "in_place"
    IN_QUARANTINE = "in_quarantine"
    IN_BOTH = "in_both"
    GONE = "gone"
    UNKNOWN = "unknown"


def quarantine_key(run_id: int, key: str) -> str:
    """Return the key of an object in quarantine. A very long key becomes its hash; the ledger holds the original."""
    data = key.encode()
    name = key if len(data) <= MAX_READABLE_BYTES else f"~{hashlib.sha256(data).hexdigest()}"
    return f"{QUARANTINE}{run_id}/{name}"


async def quarantine_places(store: ObjectStore, run_id: int, keys: Sequence[str]) -> dict[str, str]:
    """Return where each object goes: a key in quarantine, or `HIDDEN`. Raises: StoreError."""
    places = {key: quarantine_key(run_id, key) for key in keys}
    if keys and await store.versioning() is Versioning.ENABLED:
        found = await gather_all([_described(store, key) for key in places])
        places |= {one.key: HIDDEN for one in found if one is not None and one.version not in NO_VERSION}
    return places


async def is_working(store: ObjectStore) -> bool:
    """Return whether the store moves a small object of our own, and brings back one that it hid."""
    # Fixed keys, so that a store that declines the move keeps one such object and not one for each run.
    source, target = f"{RESERVED_PREFIX}probe/move", f"{RESERVED_PREFIX}probe/moved"
    try:
        seen = await store.put(source, b"millhand")
        await store.move(source, target, if_same=seen)
        await store.delete(target)
        return not (await store.probe()).hiding_error
    except StoreError:
        return False


def log_unmoved(failed: Sequence[Action], moves: Mapping[int, MoveResult]) -> None:
    """Log the number of objects that the store did not move, with the first one and its reason."""
    if failed:
        first = failed[0]
        fields = {"bucket": first.bucket, "key": first.key, "reason": moves[first.id].reason}
        logger.warning("orphan cleanup cannot move objects", extra={**fields, "objects": len(failed)})


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
    """Move objects out of quarantine, each only if its key is free. Log failures, and return the results by action id."""
    results = await _each(store, actions, restore_object)
    _log_unrestored(actions, results)
    return results


async def restore_newest(store: ObjectStore, actions: Sequence[Action]) -> dict[int, MoveResult]:
    """
    Move the newest object of each key out of quarantine. Log failures, and return the results by action id.

    An older one comes back only if the newer ones are gone: a row that names the key means the newest.
    """
    of_key: dict[str, list[Action]] = {}
    for action in sorted(actions, key=lambda one: one.id, reverse=True):
        of_key.setdefault(action.key, []).append(action)
    results = await gather_all([_restore_first(store, newest_first) for newest_first in of_key.values()])
    moves = {id_: move for some in results for id_, move in some.items()}
    _log_unrestored(actions, moves)
    return moves


def _log_unrestored(actions: Sequence[Action], moves: Mapping[int, MoveResult]) -> None:
    if failed := [action for action in actions if action.id in moves and moves[action.id].is_failure]:
        first = failed[0]
        fields = {"bucket": first.bucket, "key": first.key, "reason": moves[first.id].reason}
        logger.warning("orphan cleanup cannot restore objects", extra={**fields, "objects": len(failed)})


async def _restore_first(store: ObjectStore, actions: Sequence[Action]) -> dict[int, MoveResult]:
    moves: dict[int, MoveResult] = {}
    for action in actions:
        moves[action.id] = await restore_object(store, action)
        if moves[action.id].state is not ActionState.KEPT:
            break
    return moves


async def quarantine_object(store: ObjectStore, action: Action) -> MoveResult:
    """Move one object into quarantine. If it stays in place, return the reason; raise no StoreError."""
    seen = recorded_object(action)
    try:
        if action.quarantine_key == HIDDEN:
            reason = await hide(store, seen)
        else:
            await _move_aside(store, action, seen)
            reason = ""
    except ObjectNotFound:
        reason = GONE
    except ObjectChanged:
        reason = CHANGED
    except ObjectLocked:
        reason = LOCKED
    except StoreError as error:
        state = state_if_not_moved(action) if error.is_refusal else ActionState.INTENDED
        return MoveResult(is_failure=True, reason=str(error), state=state)
    return MoveResult(reason=reason, state=state_if_not_moved(action) if reason else ActionState.QUARANTINED)


async def _move_aside(store: ObjectStore, action: Action, seen: ObjectInfo) -> None:
    """Move an object to its key in quarantine, unless another process has moved it there for the same action."""
    key = action.quarantine_key or ""
    try:
        await store.move(action.key, key, if_same=seen)
    except ObjectNotFound:
        if await find_object(store, key) is None:
            raise


async def restore_object(store: ObjectStore, action: Action) -> MoveResult:
    try:
        if action.quarantine_key == HIDDEN:
            is_doomed = action.reason == DOOMED
            state, reason = await unhide(store, recorded_object(action), is_doomed=is_doomed)
            return MoveResult(reason=reason, state=state)
        await store.move(action.quarantine_key or "", action.key, if_absent=True)
    except ObjectExists:
        return MoveResult(reason="a newer object has its key", state=ActionState.QUARANTINED)
    except ObjectNotFound:
        return MoveResult(reason="the object is no longer in quarantine", state=ActionState.KEPT)
    except StoreError as error:
        return MoveResult(is_failure=True, reason=str(error), state=ActionState.QUARANTINED)
    return MoveResult(reason="a row references it", state=ActionState.RESTORED)


async def finish_restore(store: ObjectStore, action: Action) -> bool:
    """
    Return whether another restore brought the object back, and delete the copy that it left in quarantine.

    It was killed, or runs beside this one. An object whose bytes may be others is a newer one, and the copy stays.
    Raises: StoreError.
    """
    seen, key = recorded_object(action), action.quarantine_key
    found = await find_object(store, action.key)
    if found is None or key is None or key == HIDDEN:
        return found is not None and key == HIDDEN and found.is_same_as(seen)
    copy = await find_object(store, key)
    if (found.etag, found.size) != ((copy or seen).etag, (copy or seen).size):
        return False
    if copy is not None:
        await store.delete(key)
    return True


async def locate_object(store: ObjectStore, action: Action) -> ObjectLocation:
    """Return where an object is. Raises: StoreError, unless the store declines to describe this one object."""
    seen, key = recorded_object(action), action.quarantine_key
    try:
        found = await find_object(store, action.key)
        is_in_place = found is not None and found.is_same_as(seen)
        if key == HIDDEN:
            is_quarantined = not is_in_place and await is_hidden(store, seen)
        else:
            is_quarantined = key is not None and await find_object(store, key) is not None
    except StoreError as error:
        if error.is_refusal:
            return ObjectLocation.UNKNOWN
        raise
    if is_in_place:
        return ObjectLocation.IN_BOTH if is_quarantined else ObjectLocation.IN_PLACE
    return ObjectLocation.IN_QUARANTINE if is_quarantined else ObjectLocation.GONE


async def purge_objects(store: ObjectStore, actions: Sequence[Action]) -> PurgeResult:
    """Delete objects in quarantine permanently. An object that the store denies, such as a locked version, stays there."""
    is_plain = await store.versioning() in (Versioning.OFF, Versioning.UNKNOWN)
    keys = {one.id: one.quarantine_key or "" for one in actions if is_plain and one.quarantine_key != HIDDEN}
    denied = await store.delete_many(list(keys.values()))
    states = {id_: EXPIRED for id_, key in keys.items() if key not in denied}
    failed = {id_: denied[key] for id_, key in keys.items() if key in denied}
    for action in actions:
        if action.id not in keys:
            try:
                states[action.id] = await _purge_versions(store, action)
            except StoreError as error:
                if not error.is_refusal:
                    raise
                failed[action.id] = str(error)
    return PurgeResult(states=states, failed=failed)


async def _purge_versions(store: ObjectStore, action: Action) -> tuple[ActionState, str]:
    """Delete the hidden version, or the copy and the version that its move left behind a delete marker."""
    if action.quarantine_key == HIDDEN:
        return await purge_version(store, recorded_object(action))
    await store.delete(action.quarantine_key or "")
    await purge_version(store, recorded_object(action))
    return EXPIRED


async def _described(store: ObjectStore, key: str) -> ObjectInfo | None:
    try:
        return await find_object(store, key)
    except StoreError:
        return None  # its move fails, and reports why


async def _each(
    store: ObjectStore,
    actions: Sequence[Action],
    step: Callable[[ObjectStore, Action], Awaitable[MoveResult]],
) -> dict[int, MoveResult]:
    results = await gather_all([step(store, action) for action in actions])
    return {action.id: result for action, result in zip(actions, results, strict=True)}
