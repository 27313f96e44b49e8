"""
The application of the race: `adversary.App` with multipart uploads, derived keys, rows with wrong keys, and an operator.

It knows what it relies on from its own history, and reads no table of the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from adversary import ACTIONS, App, key_of_copy
from race_record import Record
from world import World

from millhand.core.errors import DriverError
from millhand.orphans import recall, restore
from millhand.storage import ObjectInfo, ObjectNotFound, ObjectStore
from millhand.storage.s3_bucket import S3Bucket

OUT_OF_SCOPE = ("cache/kept", "cache/a.b")  # below an excluded prefix, with no row
DERIVED = "variants/{key}/*"
MORE_ACTIONS = ("derive", "miswrite", "misstate", "recall", "restore")
PARTS_ACTIONS = (
    "await_parts",
    "begin_loose_parts",
    "begin_parts",
    "begin_upload",
    "complete_parts",
    "put_more_parts",
)


@dataclass(kw_only=True)
class Parts:
    """
    A multipart upload: when its last part came, by the world's clock and by the server's.

    `row_id` is the row that waits for it. A later row of the same key waits for another upload.
    """

    at: datetime
    is_loose: bool
    row_id: object = None
    second: int
    upload_id: str


@dataclass(kw_only=True)
class RaceWorld(World):
    """
    A world in which a delete in progress may hide an upload at once, until its marker is removed.

    `replaced` are versions under which the application has put another one.
    """

    newest: dict[str, str] = field(default_factory=dict)
    replaced: set[tuple[str, str]] = field(default_factory=set)

    async def put(self, key: str, data: bytes | None = None) -> ObjectInfo | None:
        info = None
        # Our store checks what it has put. An application does not, and the audit will.
        with contextlib.suppress(ObjectNotFound):
            info = await super().put(key, data)
        self.note_version(key, None if info is None else info.version)
        return info

    def note_version(self, key: str, version: str | None) -> None:
        """Note that the application has put a new version. None: the store did not return which."""
        if key in self.newest:
            self.replaced.add((key, self.newest.pop(key)))
        if version is not None:
            self.newest[key] = version


@dataclass(kw_only=True)
class RaceApp(App):
    """
    An application in a world with a long history. `is_versioned` selects the kind of quarantine.

    `orphans` are objects that no row needs: since when, and after how many complete runs. `gone` are those that a run
    removed, and `taken` those that must still be in quarantine, since when.
    """

    etags: dict[str, str] = field(default_factory=dict)
    out_of_scope: dict[str, bytes] = field(default_factory=dict)
    forgotten: frozenset[str] = (
        frozenset()
    )  # copies and versions that were in quarantine before a restore of the ledger
    gone: list[str] = field(default_factory=list)
    history: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    is_moved_today: bool = (
        True  # whether objects that are gone since the last audit were moved by the clock of that day
    )
    is_versioned: bool = False
    miswritten: dict[str, bytes] = field(default_factory=dict)
    uncertain: set[str] = field(default_factory=set)
    num_scans: int = 0
    orphans: dict[str, tuple[datetime, int]] = field(default_factory=dict)
    parts: dict[str, Parts] = field(default_factory=dict)
    pending_at: dict[str, datetime] = field(default_factory=dict)
    thrown_away: set[str] = field(
        default_factory=set
    )  # by the application: its delete marker is no quarantine
    taken: dict[str, datetime] = field(default_factory=dict)
    recon_store: ObjectStore  # the store under the URL that runs know
    variants: dict[str, bytes] = field(default_factory=dict)
    world: RaceWorld
    written: Record
    situation: Callable[[], str] = str  # what each process waits for

    @property
    def actions(self) -> tuple[str, ...]:
        """The actions that are possible here."""
        often = (
            "put_orphan",
            "put_orphan",
            "put_orphan",
            "put_first",
            "upload",
            "refer_and_look",
            "finish_upload",
        )
        return (*ACTIONS, *often, *MORE_ACTIONS, *(PARTS_ACTIONS if self.has_parts else ()))

    @property
    def has_parts(self) -> bool:
        """Whether the store has multipart uploads."""
        return isinstance(getattr(self.store, "blocking", None), S3Bucket)

    @property
    def store(self) -> ObjectStore:
        return self.world.store

    def content(self, key: str) -> bytes:
        data = super().content(key)
        self.thrown_away.discard(key)
        self.etags[key] = _etag(data)
        return data

    async def act(self, action: str, key: str) -> bool:
        """
        Act on a key, and return whether that had an effect.

        An action that waits for a lock of a run is abandoned.
        """
        before, num_calls = self._known_as(key), self.world.num_calls
        self.written(f"{action} {key!r} begins; {self.situation()}")
        self.orphans.pop(key, None)
        self.taken.pop(key, None)
        try:
            await getattr(self, action)(key)
        except DriverError as error:
            self.uncertain.add(key)
            self.record(key, f"{action} abandoned: {error.reason[:60]}")
            return True
        after = self._known_as(key)
        if action in ("put_orphan", "put_first") and self.is_quiet(key) and key not in self.uncertain:
            self.orphans[key] = (self.world.now, self.num_scans)
        elif action not in ("put_orphan_again", "look", "put_and_adopt", "adopt") and "begin" in action:
            self.uncertain.add(key)
        self.record(key, f"{action}: {before} → {after}")
        return self.world.num_calls > num_calls

    def record(self, key: str, text: str) -> None:
        """Add a line to the history of a key."""
        self.history[key].append(f"{self.world.now:%Y-%m-%d %H:%M} {text}")
        self.written(f"{key!r} {text}")

    def record_all(self, text: str) -> None:
        """Add a line to the history of every key."""
        self.history[""].append(f"{self.world.now:%Y-%m-%d %H:%M} {text}")
        self.written.of_all(text)

    def _known_as(self, key: str) -> str:
        books = ("live", "kept_until", "pending", "put_at", "referring", "awaited", "orphans", "parts")
        return " ".join(name for name in books if key in getattr(self, name)) or "nothing"

    # More actions of an application.

    async def derive(self, key: str) -> None:
        """Put an object that is derived from a live one."""
        if key in self.live:
            variant = f"variants/{key}/small"
            self.variants[variant] = self.content(variant)
            await self.world.put(variant, self.variants[variant])

    async def miswrite(self, key: str) -> None:
        """Put an object whose row writes its key in another case."""
        name = f"Photo {key}.JPG"
        if name not in self.miswritten:
            self.miswritten[name] = self.content(name)
            await self.world.put(name, self.miswritten[name])
            await self.world.row(name.lower(), state="ready")

    async def misstate(self, key: str) -> None:
        """Write another size into a row than its object has."""
        if key in self.live:
            await self.world.sql("UPDATE {schema}.uploads SET size = 1 WHERE key = $1", key)

    async def rename(self, key: str) -> None:
        was_live = key in self.live
        await super().rename(key)
        if was_live and key not in self.live:
            self.thrown_away.add(key)

    async def restore(self, key: str) -> None:
        """Restore whatever was done to a key."""
        self.world.num_calls += 1
        self.uncertain.add(key)
        async with self._rows_come_back(key):
            await restore(self.world.executor, self.recon_store, key=key, now=self.world.now)

    async def recall(self, key: str) -> None:
        """Ask for a missing object, where an application would return 404."""
        if not await self.is_there(key):
            self.world.num_calls += 1
            async with self._rows_come_back(key):
                await recall(self.world.executor, self.recon_store, key)

    @contextlib.asynccontextmanager
    async def _rows_come_back(self, key: str) -> AsyncIterator[None]:
        """Upload again if the row of an upload is back, long after its object was destroyed as one without a row."""
        had_row = await self._has_row(key)
        yield
        if key in self.pending and not had_row and not await self.is_there(key):
            self.pending[key] = (self.pending[key][0], None)

    # Multipart uploads.

    async def begin_upload(self, key: str) -> None:
        before = self.pending.get(key)
        await super().begin_upload(key)
        if self.pending.get(key) != before:  # else the key was in use, and nothing began
            self.pending_at[key] = self.world.now

    async def begin_parts(self, key: str) -> None:
        """Begin the upload that a pending row waits for."""
        if key in self.pending and self.pending[key][1] is None and key not in self.parts:
            await self._begin_parts(key, is_loose=False)
            self.parts[key].row_id = self.pending[key][0]
            sql = "UPDATE {schema}.uploads SET upload_id = $3 WHERE id = $1 AND key = $2"
            await self.world.sql(sql, self.pending[key][0], key, self.parts[key].upload_id)

    async def begin_loose_parts(self, key: str) -> None:
        """Begin an upload that no row has yet."""
        if key not in self.parts and self.is_quiet(key):
            await self._begin_parts(key, is_loose=True)

    async def await_parts(self, key: str) -> None:
        """Insert the row of an upload that was begun without one."""
        parts = self.parts.get(key)
        if parts is not None and parts.is_loose and self.is_quiet(key):
            self.pending[key] = (await self.world.row(key, state="pending", upload_id=parts.upload_id), None)
            self.pending_at[key], parts.is_loose = self.world.now, False
            parts.row_id = self.pending[key][0]

    async def put_more_parts(self, key: str) -> None:
        """Send one more part. The server's clock is real, so the part is newer only in another second."""
        parts = self.parts.get(key)
        if parts is None or int(time.time()) - parts.second < 2:
            return
        with contextlib.suppress(Exception):
            await self._put_part(key, parts.upload_id, self.num_puts + 2, b"more")
            parts.at, parts.second = self.world.now, int(time.time())

    async def complete_parts(self, key: str) -> None:
        """Complete an upload that a row waits for."""
        parts = self.parts.get(key)
        if parts is None or parts.is_loose or key not in self.pending:
            return
        data = self.content(key)
        try:
            etag = await self._put_part(key, parts.upload_id, 1, data)
            completed = await self._bucket(
                "complete_multipart_upload",
                key,
                UploadId=parts.upload_id,
                MultipartUpload={"Parts": [{"ETag": etag, "PartNumber": 1}]},
            )
        except Exception:
            return
        del self.parts[key]
        self.world.note_version(key, completed.get("VersionId"))
        self.put_at.pop(key, None)
        self.pending[key] = (self.pending[key][0], data)

    async def _begin_parts(self, key: str, *, is_loose: bool) -> None:
        begun = await self._bucket("create_multipart_upload", key)
        upload_id = str(begun["UploadId"])
        await self._put_part(key, upload_id, 1, b"first")
        self.parts[key] = Parts(
            at=self.world.now, is_loose=is_loose, second=int(time.time()), upload_id=upload_id
        )

    async def _put_part(self, key: str, upload_id: str, number: int, data: bytes) -> str:
        answer = await self._bucket("upload_part", key, UploadId=upload_id, PartNumber=number, Body=data)
        return str(answer["ETag"])

    async def _bucket(self, operation: str, key: str, **arguments: Any) -> dict[str, Any]:
        self.world.num_calls += 1
        bucket: S3Bucket = self.store.blocking  # type: ignore[attr-defined]
        call = getattr(bucket.client, operation)
        return await asyncio.to_thread(call, **bucket.object_params(key), **arguments)  # type: ignore[no-any-return]

    # Where things are.

    async def where(self, key: str, data: bytes) -> str:
        if not self.is_versioned:
            return await super().where(key, data)
        with contextlib.suppress(ObjectNotFound):
            if await self.store.get(key) == data:
                return "place"
        return "quarantine" if await self._hidden(key, _etag(data)) else "nowhere"

    async def _hidden(self, key: str, etag: str) -> str | None:
        """
        Return the version with this content that is behind a marker.

        Older versions stay below it for ever and are no quarantine, even if they have the same content: an application that
        repeats a put has two of them, and only the newer one was moved.
        """
        found = [one async for page in self.store.list_versions(prefix=key) for one in page if one.key == key]
        below = [one for one in found if not one.is_delete_marker]
        if not below or not found[0].is_delete_marker or (key, below[0].version) in self.world.replaced:
            return None
        return below[0].version if "-" in below[0].etag or below[0].etag == etag else None

    async def in_quarantine(self) -> frozenset[str]:
        """Return all copies in quarantine, or all versions behind others."""
        if not self.is_versioned:
            return frozenset(await self.world.keys(".millhand/quarantine/"))
        pages = [page async for page in self.store.list_versions()]
        return frozenset(one.version for page in pages for one in page if not one.is_latest)

    async def forget(self, key: str) -> None:
        """Await nothing of this key that is in quarantine now."""
        if self.is_versioned:
            pages = [page async for page in self.store.list_versions(prefix=key)]
            self.forgotten |= {one.version for page in pages for one in page if one.key == key}
        else:
            kept = await self.world.keys(".millhand/quarantine/")
            self.forgotten |= {one for one in kept if key_of_copy(one) == key}
        self.awaited.pop(key, None)

    async def is_kept(self, key: str) -> bool:
        if self.is_versioned:
            is_ours = key not in self.thrown_away
            hidden = await self._hidden(key, self.etags.get(key, "")) if is_ours else None
            return hidden is not None and hidden not in self.forgotten
        kept = [one for one in await self.world.keys(".millhand/quarantine/") if one not in self.forgotten]
        return any(key_of_copy(one) == key for one in kept)

    async def losses(self, *, after_run: bool) -> dict[str, str]:
        """Return the objects and rows that the application relies on and cannot find."""
        lost = await super().losses(after_run=after_run)
        for key, data in (self.out_of_scope | self.miswritten | self._variants_of_live()).items():
            if (found := await self.where(key, data)) != "place":
                lost[key] = f"{found}, although out of scope, a near match or derived"
        early = await self._too_early() | await self._destroyed_early()
        return lost | await self._lost_rows() | await self._lost_parts() | early

    def _variants_of_live(self) -> dict[str, bytes]:
        """Return derived objects whose parent was live all the time."""
        gone = [one for one in self.variants if one.split("/", 1)[1].rsplit("/", 1)[0] not in self.live]
        for one in gone:
            del self.variants[one]
        return self.variants

    async def _lost_rows(self) -> dict[str, str]:
        ready = await self._keys_where("state = 'ready' AND deleted_at IS NULL")
        soft = await self._keys_where("deleted_at IS NOT NULL")
        lost = {key: "its row is gone" for key in self.live if key not in ready}
        now = self.world.now
        kept = {key for key, (until, _) in self.kept_until.items() if now < until}
        return lost | dict.fromkeys(kept - soft, "its soft-deleted row is gone")

    async def _has_row(self, key: str) -> bool:
        return bool(await self.world.sql("SELECT 1 FROM {schema}.uploads WHERE key = $1", key))

    async def _keys_where(self, condition: str) -> set[str]:
        rows = await self.world.sql(f"SELECT key FROM {{schema}}.uploads WHERE {condition}")
        return {row["key"] for row in rows}

    async def _lost_parts(self) -> dict[str, str]:
        if not self.parts:
            return {}
        there = {one.upload_id async for page in self.store.list_uploads() for one in page}
        lost = {}
        for key, parts in list(self.parts.items()):
            if parts.upload_id in there:
                continue
            del self.parts[key]
            row_id, _ = self.pending.get(key, (None, None))
            is_awaited = not parts.is_loose and row_id is not None and row_id == parts.row_id
            since = max(parts.at, self.pending_at.get(key, parts.at)) if is_awaited else parts.at
            if self.world.now - since < self.world.config.grace:
                lost[key] = "its multipart upload is gone"
        return lost

    async def _too_early(self) -> dict[str, str]:
        """Return objects that were removed although they were young, or seen by one complete run at most."""
        lost = {}
        for key, (since, num_scans) in list(self.orphans.items()):
            if await self.is_there(key):
                continue
            del self.orphans[key]
            self.gone.append(key)
            if self.is_moved_today:
                self.taken[key] = self.world.now
            if self.world.now - since < self.world.config.grace:
                lost[key] = f"gone, although an orphan only since {since:%Y-%m-%d %H:%M}"
            elif self.num_scans - num_scans < 2:
                lost[key] = "gone, although seen by one whole run only"
        return lost

    async def _destroyed_early(self) -> dict[str, str]:
        """Return removed objects that cannot be restored although their time in quarantine is not over."""
        until = self.world.config.quarantine_for
        self.taken = {key: at for key, at in self.taken.items() if self.world.now - at < until}
        missing = [key for key in self.taken if not (await self.is_there(key) or await self.is_kept(key))]
        return {key: f"destroyed, although removed on {self.taken[key]:%Y-%m-%d} only" for key in missing}


def _etag(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()  # noqa: S324 - a server's etag
