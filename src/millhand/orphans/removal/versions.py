"""
Quarantine in a bucket that keeps versions: a delete marker hides an object in its place, and no byte is copied.

Rule 1: to take away is to delete, which leaves the object behind a marker; what was hidden must be what was seen, or the
        marker goes again at once; if we are killed before it does, the next run sees to it.
Rule 2: to bring back is to remove the marker, if nothing newer is on top of it.
Rule 3: to destroy is to remove that one version, and the marker when nothing else is left behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from millhand.orphans.ledger import Action, ActionState
from millhand.storage import ObjectInfo, ObjectNotFound, ObjectStore, ObjectVersion

HIDDEN = "behind its delete marker"  # where an action's object is, in place of a quarantine key


async def hide(store: ObjectStore, seen: ObjectInfo) -> str | None:
    """
    Delete an object as it was seen, and return why not if it turned out to be another one.

    Raises: as `ObjectStore.delete`; ObjectNotFound.
    """
    if not await store.delete(seen.key, if_same=seen):
        raise ObjectNotFound("delete", seen.key)
    versions = await versions_of(store, seen.key)
    if hidden_version(versions, seen) is not None:
        return None
    # Somebody put another one between our look and our delete, on a server that minds no conditions.
    await _unmark(store, versions)
    return "the object is another one than was seen"


async def unhide(store: ObjectStore, seen: ObjectInfo) -> tuple[ActionState, str]:
    """Remove the marker from an object, and return what became of it and why."""
    versions = await versions_of(store, seen.key)
    if _find(versions, seen) is None:
        return ActionState.KEPT, "the object is no longer in quarantine"
    if hidden_version(versions, seen) is None:
        return ActionState.QUARANTINED, "a newer object has taken its place"
    await _unmark(store, versions)
    return ActionState.RESTORED, "a row refers to it"


async def destroy(store: ObjectStore, action: Action, seen: ObjectInfo) -> tuple[ActionState, str]:
    """Remove the one version for good, unless somebody has brought it back."""
    versions = await versions_of(store, action.key)
    version = _find(versions, seen)
    if version is not None and version.is_latest:
        return ActionState.KEPT, "somebody brought it back; it is judged anew"
    if version is not None:
        await store.delete_version(action.key, version.version)
    left = [one for one in versions if one is not version]
    if all(one.is_delete_marker for one in left):
        await _unmark(store, left)
    return ActionState.PURGED, "its time in quarantine was over"


async def uncover(store: ObjectStore, seen: ObjectInfo) -> bool:
    """
    Remove the marker from an object that somebody put on top of the one that was seen; False if there is no such marker.

    It is most likely ours: servers look at the condition of a delete and delete in two steps, and an upload may come
    between them. Should it be its owner's, then an object without a row is back, and has its grace once more.
    """
    versions = await versions_of(store, seen.key)
    is_covered = bool(versions) and versions[0].is_delete_marker and _find(versions, seen) is not None
    if not is_covered or hidden_version(versions, seen) is not None:
        return False
    await _unmark(store, versions)
    return True


async def is_hidden(store: ObjectStore, seen: ObjectInfo) -> bool:
    """Whether an object lies behind a delete marker."""
    return hidden_version(await versions_of(store, seen.key), seen) is not None


async def versions_of(store: ObjectStore, key: str) -> list[ObjectVersion]:
    """Return the versions and markers of one key, the newest first."""
    found: list[ObjectVersion] = []
    async for page in store.list_versions(prefix=key):
        mine = [version for version in page if version.key == key]
        found += mine
        # Whatever else begins so comes after it; a key of which there is nothing has nothing on the first page.
        if len(mine) < len(page):
            break
    return found


def hidden_version(versions: Sequence[ObjectVersion], seen: ObjectInfo) -> ObjectVersion | None:
    """Return the version that was seen, if it is the first one below one or more markers."""
    if not versions or not versions[0].is_delete_marker:
        return None
    below = next((version for version in versions if not version.is_delete_marker), None)
    return below if below is not None and _is_seen(below, seen) else None


def _find(versions: Sequence[ObjectVersion], seen: ObjectInfo) -> ObjectVersion | None:
    return next((version for version in versions if _is_seen(version, seen)), None)


def _is_seen(version: ObjectVersion, seen: ObjectInfo) -> bool:
    is_same = (version.etag, version.size) == (seen.etag, seen.size)
    return (
        is_same
        and not version.is_delete_marker
        and version.modified_at.replace(microsecond=0) == seen.modified_at.replace(microsecond=0)
    )


async def _unmark(store: ObjectStore, versions: Sequence[ObjectVersion]) -> None:
    """Remove the markers on top of a key; between two of them it stays hidden."""
    for version in versions:
        if not version.is_delete_marker:
            return
        await store.delete_version(version.key, version.version)
