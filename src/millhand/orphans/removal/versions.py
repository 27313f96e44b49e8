"""
Quarantine in a bucket with versions: a delete marker hides an object in place, and no byte is copied.

Rule 1: hiding deletes the object, which keeps it behind a delete marker. If the hidden version is not the one that the scan
        saw, the marker is deleted at once. If the process is killed before that, the next run deletes it.
Rule 2: unhiding deletes the marker, unless a newer object is on top of it.
Rule 3: purging deletes that one version, and the marker if no other version is behind it.
Rule 4: only an object with a version id is hidden. A delete while versions are suspended destroys any other.
Rule 5: the ledger records that a version is doomed before it is deleted. The process that deletes it may be stalled right
        before that, and no server compares anything when it deletes a version. So a doomed version is not unhidden but
        copied, and the object that is back is another version.
"""

from __future__ import annotations

from collections.abc import Sequence

from millhand.orphans.ledger import ActionState
from millhand.storage import ObjectChanged, ObjectInfo, ObjectNotFound, ObjectStore, ObjectVersion, StoreError

HIDDEN = "behind its delete marker"  # stands in the ledger instead of a quarantine key
DOOMED = "its time in quarantine ended, and its deletion has begun"


async def hide(store: ObjectStore, seen: ObjectInfo) -> str:
    """Delete an object if it is still the one that the scan saw. Return why it was not, or an empty text."""
    try:
        if not await store.delete(seen.key, if_same=seen):
            raise ObjectNotFound("delete", seen.key)
    except (ObjectChanged, ObjectNotFound):
        # A delete that was repeated after a lost answer finds the object hidden.
        if await is_hidden(store, seen):
            return ""
        raise
    try:
        versions = await versions_of(store, seen.key)
        if _hidden_version(versions, seen) is not None:
            return ""
        # An upload came between our read and our delete, on a server that ignores conditions.
        await _delete_markers(store, versions)
    except StoreError as error:  # something is hidden, so this is no refusal
        raise StoreError(error.operation, error.reason, key=seen.key) from error
    return "the object changed since the scan"


async def unhide(store: ObjectStore, seen: ObjectInfo, *, is_doomed: bool) -> tuple[ActionState, str]:
    """Delete the marker on an object, or copy the object. Return the new state of its action, and the reason."""
    versions = await versions_of(store, seen.key)
    if _find(versions, seen) is None:
        return ActionState.KEPT, "the object is no longer in quarantine"
    hidden = _hidden_version(versions, seen)
    if hidden is None:
        return ActionState.QUARANTINED, "a newer object has its key"
    if is_doomed:
        await store.copy_version(seen.key, hidden.version)
        await store.delete_version(seen.key, hidden.version)
        await _delete_markers(store, versions)
        return ActionState.RESTORED, "a row references it"
    await _delete_markers(store, versions)
    # SeaweedFS keeps a marker that came while versions were suspended.
    if await is_hidden(store, seen):
        return (
            ActionState.QUARANTINED,
            "the store does not delete its delete marker; copy the version by hand",
        )
    return ActionState.RESTORED, "a row references it"


async def purge_version(store: ObjectStore, seen: ObjectInfo) -> tuple[ActionState, str]:
    """Delete the one version permanently, unless it was restored outside Millhand."""
    versions = await versions_of(store, seen.key)
    version = _find(versions, seen)
    if version is not None and version.is_latest:
        return ActionState.KEPT, "the object was restored outside Millhand; the next run evaluates it again"
    if version is not None:
        await store.delete_version(seen.key, version.version)
    left = [one for one in versions if one is not version]
    if all(one.is_delete_marker for one in left):
        await _delete_markers(store, left)
    return ActionState.PURGED, "its time in quarantine ended"


async def unhide_newer(store: ObjectStore, seen: ObjectInfo) -> bool:
    """
    Delete the marker on an object that was uploaded over the one that the scan saw. Return whether there was one.

    The marker is most likely ours. Some servers delete in a separate step after they check the condition, and an upload may
    come in between. If the application wrote the marker, its object is back without a row, and waits for its grace again.
    """
    versions = await versions_of(store, seen.key)
    is_covered = bool(versions) and versions[0].is_delete_marker and _find(versions, seen) is not None
    if not is_covered or _hidden_version(versions, seen) is not None:
        return False
    await _delete_markers(store, versions)
    return True


async def is_hidden(store: ObjectStore, seen: ObjectInfo) -> bool:
    return _hidden_version(await versions_of(store, seen.key), seen) is not None


async def versions_of(store: ObjectStore, key: str) -> list[ObjectVersion]:
    """Return the versions and markers of one key, newest first."""
    found: list[ObjectVersion] = []
    async for page in store.list_versions(prefix=key):
        versions = [version for version in page if version.key == key]
        found += versions
        # Longer keys with this prefix follow, so the first page without it is the end.
        if len(versions) < len(page):
            break
    return found


def _hidden_version(versions: Sequence[ObjectVersion], seen: ObjectInfo) -> ObjectVersion | None:
    """Return the version that the scan saw, if it is the first one below the markers on top."""
    if not versions or not versions[0].is_delete_marker:
        return None
    below = next((version for version in versions if not version.is_delete_marker), None)
    return below if below is not None and _is_version_of(below, seen) else None


def _find(versions: Sequence[ObjectVersion], seen: ObjectInfo) -> ObjectVersion | None:
    return next((version for version in versions if _is_version_of(version, seen)), None)


def _is_version_of(version: ObjectVersion, seen: ObjectInfo) -> bool:
    return (
        not version.is_delete_marker
        and (version.etag, version.size) == (seen.etag, seen.size)
        and version.modified_at.replace(microsecond=0) == seen.modified_at.replace(microsecond=0)
    )


async def _delete_markers(store: ObjectStore, versions: Sequence[ObjectVersion]) -> None:
    """Delete the markers on top of a key. The object stays hidden until the last one is deleted."""
    for version in versions:
        if not version.is_delete_marker:
            return
        await store.delete_version(version.key, version.version)
