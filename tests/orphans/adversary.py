"""An application, an adversary and a clumsy server: what a run must survive between any two of its steps."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from world import World

from millhand.core.errors import DriverError
from millhand.db.driver.protocol import Executor
from millhand.db.query import CopyOut
from millhand.storage import (
    Capabilities,
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    ObjectPage,
    ObjectStore,
    ObjectVersion,
    Upload,
    Versioning,
)

Hook = Callable[[str], Awaitable[None]]
Moment = int | tuple[str, int]  # the n-th step of a run, or the n-th of one operation


class Killed(BaseException):
    """The process was killed at this point."""


@dataclass(kw_only=True)
class Interrupter:
    """Counts the steps of a run, one before each call of the database or the store, and lets others act in between."""

    interventions: dict[Moment, list[Callable[[], Awaitable[None]]]]
    steps: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    is_source_broken: bool = False
    operation: str = ""

    @property
    def may_be_destroying(self) -> bool:
        """Whether the run may have read the references for the last time before it destroys something."""
        return self.operation in ("fetch", "head", "delete", "delete_many")

    async def __call__(self, operation: str) -> None:
        self.operation = operation
        self.steps += 1
        self.seen[operation] += 1
        for moment in (self.steps, (operation, self.seen[operation])):
            for intervene in self.interventions.get(moment, ()):
                await intervene()
        if self.is_source_broken and operation == "fetch":
            self.is_source_broken = False
            raise DriverError("SELECT", "a source that is broken")


async def break_source(interrupter: Interrupter) -> None:
    """Let a source fail at the next query."""
    interrupter.is_source_broken = True


class ChaosExecutor:
    """An executor that calls a hook before each statement."""

    def __init__(self, executor: Executor, hook: Hook) -> None:
        self._executor = executor
        self._hook = hook

    async def run(self, query: Any) -> Any:
        await self._hook("run")
        return await self._executor.run(query)

    async def fetch(self, sql: str, params: Sequence[Any] = (), **options: Any) -> list[dict[str, Any]]:
        await self._hook("fetch")
        return await self._executor.fetch(sql, params, **options)

    async def copy_out(self, copy: CopyOut) -> int:
        await self._hook("copy out")
        return await self._executor.copy_out(copy)

    async def execute_script(self, sql: str, **options: Any) -> None:
        await self._executor.execute_script(sql, **options)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        await self._hook("begin")
        async with self._executor.begin() as tx:
            yield ChaosExecutor(tx, self._hook)
            await self._hook("commit")
        await self._hook("committed")


class ChaosStore:
    """A store that calls a hook before each request."""

    def __init__(self, store: ObjectStore, hook: Hook) -> None:
        self._store = store
        self._hook = hook

    @property
    def hook(self) -> Hook:
        """The hook for the other calls of the same run."""
        return self._hook

    @property
    def url(self) -> str:
        return self._store.url

    async def probe(self) -> Capabilities:
        await self._hook("probe")
        return await self._store.probe()

    async def versioning(self) -> Versioning:
        return await self._store.versioning()

    async def list_pages(self, **question: Any) -> AsyncIterator[ObjectPage]:
        async for page in self._store.list_pages(**question):
            await self._hook("list")
            yield page

    async def head(self, key: str) -> ObjectInfo:
        await self._hook("head")
        return await self._store.head(key)

    async def get(self, key: str) -> bytes:
        return await self._store.get(key)

    async def get_from_parents(self, key: str) -> Sequence[bytes]:
        return await self._store.get_from_parents(key)

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        return await self._store.put(key, data, if_absent=if_absent)

    async def delete(self, key: str, *, if_same: ObjectInfo | None = None) -> bool:
        await self._hook("delete")
        return await self._store.delete(key, if_same=if_same)

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        await self._hook("delete_many")
        return await self._store.delete_many(keys)

    async def move(
        self, source: str, target: str, *, if_same: ObjectInfo | None = None, if_absent: bool = False
    ) -> ObjectInfo:
        await self._hook("move")
        moved = await self._store.move(source, target, if_same=if_same, if_absent=if_absent)
        await self._hook("moved")
        return moved

    async def list_uploads(self, **question: Any) -> AsyncIterator[Sequence[Upload]]:
        async for page in self._store.list_uploads(**question):
            await self._hook("list uploads")
            yield page

    async def upload_touched_at(self, upload: Upload) -> datetime:
        await self._hook("parts")
        return await self._store.upload_touched_at(upload)

    async def abort_upload(self, upload: Upload) -> bool:
        await self._hook("abort")
        return await self._store.abort_upload(upload)

    async def list_versions(self, **question: Any) -> AsyncIterator[Sequence[ObjectVersion]]:
        async for page in self._store.list_versions(**question):
            yield page

    async def delete_version(self, key: str, version: str) -> None:
        await self._hook("delete version")
        await self._store.delete_version(key, version)

    async def copy_version(self, key: str, version: str) -> None:
        await self._hook("copy")
        await self._store.copy_version(key, version)

    async def aclose(self) -> None:
        await self._store.aclose()


class ClumsyStore(ChaosStore):
    """
    The worst server: it lists in no order, ignores If-Match, and has etags of the bytes alone and times of whole seconds.

    A move is a HEAD, a copy, another HEAD and a delete. Others may act in between, but not between the last two: such a
    server has nothing that would close this gap. Several moves run at once, so no hook is called while one is there.
    """

    def __init__(self, store: ObjectStore, hook: Hook) -> None:
        self._in_gap = in_gap = asyncio.Lock()

        async def hook_outside_gaps(operation: str) -> None:
            async with in_gap:
                await hook(operation)

        super().__init__(store, hook_outside_gaps)

    async def probe(self) -> Capabilities:
        found = await super().probe()
        return replace(found, has_conditional_delete=False, has_exact_start_after=False, is_ordered=False)

    async def list_pages(self, **question: Any) -> AsyncIterator[ObjectPage]:
        async for page in super().list_pages(**question):
            infos = [await self._clumsy(page.describe(index)) for index in range(len(page.keys))]
            infos.sort(key=lambda info: hashlib.sha256(info.key.encode()).digest())
            yield ObjectPage(
                describe=infos.__getitem__,
                keys=[info.key for info in infos],
                sizes=[info.size for info in infos],
            )

    async def head(self, key: str) -> ObjectInfo:
        return await self._clumsy(await super().head(key))

    async def move(
        self, source: str, target: str, *, if_same: ObjectInfo | None = None, if_absent: bool = False
    ) -> ObjectInfo:
        seen = await self.head(source)
        if if_same is not None and not seen.is_same_as(if_same):
            raise ObjectChanged("move", source)
        if if_absent and await self._is_there(target):
            raise ObjectExists("move", target)
        await self._hook("copy")
        try:
            data = await self._store.get(source)
            await self._store.put(target, data, if_absent=if_absent)
        except ObjectNotFound:
            raise ObjectNotFound("move", source) from None
        await self._hook("copied")
        async with self._in_gap:
            if not (await self._clumsy(await self._store.head(source))).is_same_as(seen):
                if not if_absent:
                    await self._store.delete(target)  # as our own store does
                raise ObjectChanged("move", source)
            # An upload of equal bytes in the same second is taken for the same object.
            await self._store.delete(source)
        await self._hook("moved")
        return await self.head(target)

    async def _clumsy(self, info: ObjectInfo) -> ObjectInfo:
        with contextlib.suppress(ObjectNotFound):
            digest = hashlib.sha256(await self._store.get(info.key)).hexdigest()
            return replace(info, etag=digest, modified_at=info.modified_at.replace(microsecond=0))
        return info

    async def _is_there(self, key: str) -> bool:
        try:
            await self.head(key)
        except ObjectNotFound:
            return False
        return True


def key_of_copy(place: str) -> str:
    """Return the key of the object whose copy is at this place in quarantine."""
    return place.partition("/quarantine/")[2].partition("/")[2]


@dataclass(kw_only=True)
class App:
    """
    A well-behaved application: it relies on an object that it put itself, or that it saw after it wrote the row.

    `live` is what it relies on: the bytes of each key. A run must not lose any of them. The application also relies on
    objects that it has just put and whose row comes later (`put_at`). If an object is in quarantine when the application
    writes its row, the run must not destroy it (`awaited`).
    """

    world: World
    awaited: dict[str, bool] = field(default_factory=dict)  # whether a run has begun since
    live: dict[str, bytes] = field(default_factory=dict)
    kept_until: dict[str, tuple[datetime, bytes]] = field(default_factory=dict)
    pending: dict[str, tuple[int, bytes | None]] = field(default_factory=dict)
    put_at: dict[str, tuple[datetime, bytes]] = field(default_factory=dict)
    referring: dict[str, int] = field(default_factory=dict)
    num_puts: int = 0
    is_purging: bool = False

    def content(self, key: str) -> bytes:
        self.num_puts += 1
        return f"{key} {self.num_puts}".encode()

    def is_quiet(self, key: str) -> bool:
        """Return whether no row that the application relies on, or is about to write, names the key."""
        return not any(key in names for names in (self.live, self.kept_until, self.pending, self.referring))

    async def begin_upload(self, key: str) -> None:
        if self.is_quiet(key):
            self.pending[key] = (await self.world.row(key, state="pending"), None)

    async def put_upload(self, key: str) -> None:
        if key in self.pending:
            row_id, _ = self.pending[key]
            data = self.content(key)
            self.put_at.pop(key, None)
            await self.world.put(key, data)
            self.pending[key] = (row_id, data)

    async def finish_upload(self, key: str) -> None:
        row_id, data = self.pending.get(key, (0, None))
        # By its key too: a restored database assigns ids that it has assigned before.
        sql = """
            UPDATE {schema}.uploads SET state = 'ready' WHERE id = $1 AND key = $2 AND state = 'pending' RETURNING id
        """
        # This fails if a run holds the row too long, and the row stays pending.
        if data is not None and await self.world.sql(sql, row_id, key):
            self.live[key] = data
        self.pending.pop(key, None)

    async def upload(self, key: str) -> None:
        await self.begin_upload(key)
        await self.put_upload(key)

    async def put_first(self, key: str) -> None:
        """Put an object whose row comes later, as many applications do."""
        if self.is_quiet(key):
            self.put_at[key] = (self.world.now, self.content(key))
            await self.world.put(key, self.put_at[key][1])

    async def adopt(self, key: str) -> None:
        """Write the row of an object that was put before it, well within the grace."""
        put_at, data = self.put_at.pop(key, (self.world.now, b""))
        if data and self.is_quiet(key) and self.world.now - put_at < self.world.config.grace / 2:
            await self.world.row(key)
            self.live[key] = data

    async def put_and_adopt(self, key: str) -> None:
        await self.put_first(key)
        await self.adopt(key)

    async def put_orphan(self, key: str) -> None:
        if self.is_quiet(key):
            self.put_at.pop(key, None)
            await self.world.put(key, self.content(key))

    async def put_orphan_again(self, key: str) -> None:
        """Put equal bytes again, as a client that retries."""
        if self.is_quiet(key):
            with contextlib.suppress(ObjectNotFound):
                await self.world.put(key, await self.world.store.get(key))

    async def refer(self, key: str) -> None:
        if self.is_quiet(key):
            is_kept = await self.is_kept(key)
            self.referring[key] = await self.world.row(key)
            # If the bytes are about to be destroyed, the row comes too late, and the application sees that.
            if is_kept and await self.is_kept(key) and not self.is_purging:
                self.awaited[key] = False

    async def look(self, key: str) -> None:
        """Rely on an object if it exists; delete its row if it does not."""
        row_id = self.referring.pop(key, None)
        self.awaited.pop(key, None)
        if row_id is None:
            return
        try:
            self.live[key] = await self.world.store.get(key)
        except ObjectNotFound:
            await self.world.sql("DELETE FROM {schema}.uploads WHERE id = $1 AND key = $2", row_id, key)

    async def refer_and_look(self, key: str) -> None:
        await self.refer(key)
        await self.look(key)

    async def refer_twice(self, key: str) -> None:
        if key in self.live:
            await self.world.row(key)

    async def overwrite(self, key: str) -> None:
        if key in self.live:
            self.live[key] = self.content(key)
            self.put_at.pop(key, None)
            await self.world.put(key, self.live[key])

    async def delete_row(self, key: str) -> None:
        if key in self.live:
            del self.live[key]
            await self.world.sql("DELETE FROM {schema}.uploads WHERE key = $1", key)

    async def soft_delete(self, key: str) -> None:
        if key in self.live:
            sql = "UPDATE {schema}.uploads SET deleted_at = $2 WHERE key = $1"
            await self.world.sql(sql, key, self.world.now)
            self.kept_until[key] = (self.world.now + self.world.config.retention, self.live.pop(key))

    async def undelete(self, key: str) -> None:
        if key in self.kept_until:
            _, data = self.kept_until[key]
            sql = "UPDATE {schema}.uploads SET deleted_at = NULL WHERE key = $1 RETURNING id"
            if await self.world.sql(sql, key):
                self.live[key] = data
            self.kept_until.pop(key, None)

    async def rename(self, key: str) -> None:
        """Rename a live object in a store without rename: copy it, update the row, delete the old one."""
        target = f"{key}-renamed"
        if key in self.live and self.is_quiet(target):
            await self.world.put(target, self.live[key])
            await self.world.sql("UPDATE {schema}.uploads SET key = $2 WHERE key = $1", key, target)
            self.live[target] = self.live.pop(key)
            self.put_at.pop(key, None)
            await self.world.store.delete(key)

    async def where(self, key: str, data: bytes) -> str:
        """Return where the bytes of a key are: place, quarantine or nowhere."""
        with contextlib.suppress(ObjectNotFound):
            if await self.world.store.get(key) == data:
                return "place"
        for kept in await self.world.keys(".millhand/quarantine/"):
            if key_of_copy(kept) == key and await self.world.store.get(kept) == data:
                return "quarantine"
        return "nowhere"

    async def is_kept(self, key: str) -> bool:
        """Return whether an object that had the key is in quarantine."""
        kept = await self.world.keys(".millhand/quarantine/")
        return any(key_of_copy(one) == key for one in kept)

    async def is_there(self, key: str) -> bool:
        try:
            await self.world.store.head(key)
        except ObjectNotFound:
            return False
        return True

    async def losses(self, *, after_run: bool) -> dict[str, str]:
        """
        Return what the application relies on and cannot find.

        After a complete run it must be in its place. An object that it has just put must exist at any time.
        """
        relied_on = dict(self.live)
        relied_on |= {key: data for key, (until, data) in self.kept_until.items() if self.world.now < until}
        accepted = {"place"} if after_run else {"place", "quarantine"}
        places = await asyncio.gather(*(self.where(key, data) for key, data in relied_on.items()))
        where = dict(zip(relied_on, places, strict=True))
        lost = {key: found for key, found in where.items() if found not in accepted}
        for key, (put_at, data) in self.put_at.items():
            is_recent = self.world.now - put_at < self.world.config.grace / 2
            if is_recent and (found := await self.where(key, data)) != "place":
                lost[key] = f"{found}, although just put"
        for key, is_due_back in self.awaited.items():
            if not await self.is_there(key) and ((after_run and is_due_back) or not await self.is_kept(key)):
                lost[key] = "destroyed, or not restored, although a row names it"
        return lost


ACTIONS = (
    "adopt",
    "begin_upload",
    "delete_row",
    "finish_upload",
    "look",
    "overwrite",
    "put_and_adopt",
    "put_first",
    "put_orphan",
    "put_orphan_again",
    "put_upload",
    "refer",
    "refer_and_look",
    "refer_twice",
    "rename",
    "soft_delete",
    "undelete",
    "upload",
)
OPERATIONS = (
    "begin",
    "commit",
    "committed",
    "copied",
    "copy",
    "delete",
    "delete_many",
    "fetch",
    "head",
    "list",
    "move",
    "moved",
    "run",
)
MINUTES = timedelta(minutes=2)
