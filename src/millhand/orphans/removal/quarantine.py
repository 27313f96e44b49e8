"""The way of an object into quarantine and back; what it says of the store's answers, it says as an action's state."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from millhand.orphans.ledger import Action, ActionState
from millhand.orphans.removal.versions import HIDDEN, destroy, hide, is_hidden, unhide
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
MAX_READABLE_BYTES = 700  # of a key; a longer one would not fit into 1,024 with what comes in front of it
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What became of one move. A failure is the store's, and says nothing of the object."""

    is_failure: bool = False
    reason: str
    state: ActionState

    @property
    def is_in_place(self) -> bool:
        """Whether the object was not moved, or is gone."""
        return self.state in (ActionState.KEPT, ActionState.ROW_DELETED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destroyed:
    """What became of what was to be destroyed, and why the rest is still there; both by action id."""

    ended: Mapping[int, tuple[ActionState, str]]
    refused: Mapping[int, str]


class Whereabouts(Enum):
    """Where the object of an action is that was interrupted."""

    IN_PLACE = "in_place"
    IN_QUARANTINE = "in_quarantine"
    IN_BOTH = "in_both"
    GONE = "gone"


def quarantine_key(run_id: int, key: str) -> str:
    """Return where an object of a run is kept; the key of a very long one is in the ledger alone."""
    data = key.encode()
    name = key if len(data) <= MAX_READABLE_BYTES else f"~{hashlib.sha256(data).hexdigest()}"
    return f"{QUARANTINE}{run_id}/{name}"


def seen_object(action: Action) -> ObjectInfo:
    """Return the object that an action is about, as the run saw it."""
    modified_at = action.modified_at or LONG_AGO
    return ObjectInfo(key=action.key, size=action.size, etag=action.etag, modified_at=modified_at)


async def move_many(store: ObjectStore, actions: Sequence[Action]) -> Mapping[int, Move]:
    """Move the objects of actions into quarantine, each if it is still the one that was seen; answers by action id."""
    return await _each(store, actions, move_away)


async def put_back_many(store: ObjectStore, actions: Sequence[Action]) -> Mapping[int, Move]:
    """Move objects out of quarantine, each unless another has taken its place; answers by action id."""
    return await _each(store, actions, put_back)


async def move_away(store: ObjectStore, action: Action) -> Move:
    """Move one object into quarantine. Whatever keeps it in its place is a reason, not an error."""
    spared = ActionState.ROW_DELETED if action.row_json is not None else ActionState.KEPT
    try:
        if action.quarantine_key == HIDDEN:
            if (reason := await hide(store, seen_object(action))) is not None:
                return Move(reason=reason, state=spared)
        else:
            await store.move(action.key, action.quarantine_key or "", if_same=seen_object(action))
    except ObjectNotFound:
        return Move(reason="the object is gone", state=spared)
    except ObjectChanged:
        return Move(reason="the object is another one than was seen", state=spared)
    except ObjectLocked:
        return Move(reason="the object is under legal hold or retention (rule 23)", state=spared)
    except StoreError as error:
        return Move(is_failure=True, reason=str(error), state=spared)
    return Move(reason="", state=ActionState.QUARANTINED)


async def put_back(store: ObjectStore, action: Action) -> Move:
    """Move one object back to its key."""
    try:
        if action.quarantine_key == HIDDEN:
            state, reason = await unhide(store, seen_object(action))
            return Move(reason=reason, state=state)
        await store.move(action.quarantine_key or "", action.key, if_absent=True)
    except ObjectExists:
        return Move(reason="a newer object has taken its place", state=ActionState.QUARANTINED)
    except ObjectNotFound:
        return Move(reason="the object is no longer in quarantine", state=ActionState.KEPT)
    except StoreError as error:
        return Move(is_failure=True, reason=str(error), state=ActionState.QUARANTINED)
    return Move(reason="a row refers to it", state=ActionState.RESTORED)


async def find(store: ObjectStore, action: Action) -> Whereabouts:
    """Find the object of an action that was interrupted."""
    in_place = await find_object(store, action.key)
    is_in_place = in_place is not None and in_place.is_same_as(seen_object(action))
    if action.quarantine_key == HIDDEN:
        is_hidden_there = not is_in_place and await is_hidden(store, seen_object(action))
        found = Whereabouts.IN_QUARANTINE if is_hidden_there else Whereabouts.GONE
        return Whereabouts.IN_PLACE if is_in_place else found
    is_kept = (
        action.quarantine_key is not None and await find_object(store, action.quarantine_key) is not None
    )
    if is_in_place:
        return Whereabouts.IN_BOTH if is_kept else Whereabouts.IN_PLACE
    return Whereabouts.IN_QUARANTINE if is_kept else Whereabouts.GONE


async def destroy_many(store: ObjectStore, actions: Sequence[Action]) -> Destroyed:
    """
    End the bytes of what is in quarantine. What the store refuses, such as a version under legal hold, stays there.

    Raises: StoreError.
    """
    moved = [action for action in actions if action.quarantine_key != HIDDEN]
    failed = await store.delete_many([action.quarantine_key or "" for action in moved])
    over = (ActionState.PURGED, "its time in quarantine was over")
    ended = {action.id: over for action in moved if action.quarantine_key not in failed}
    refused = {action.id: failed[key] for action in moved if (key := action.quarantine_key or "") in failed}
    for action in actions:
        if action.quarantine_key == HIDDEN:
            try:
                ended[action.id] = await destroy(store, action, seen_object(action))
            except StoreError as error:
                if not error.is_denied:
                    raise
                refused[action.id] = str(error)
    return Destroyed(ended=ended, refused=refused)


async def _each(
    store: ObjectStore, actions: Sequence[Action], step: Callable[[ObjectStore, Action], Awaitable[Move]]
) -> Mapping[int, Move]:
    moves = await gather_all([step(store, action) for action in actions])
    return {action.id: move for action, move in zip(actions, moves, strict=True)}
