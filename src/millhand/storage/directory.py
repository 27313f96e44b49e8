"""
A local directory as an object store: the embedded default.

A key is a path below the root. What a file cannot be called is escaped, component by component: an empty one, `.`,
`..`, one with a NUL, and one that begins with the escape itself become `%~` and the percent-encoded component. All
other names are written as they are, so a directory that an application fills by itself is read as it stands.

Keys are listed in the order of whole keys, not of path components: `a.b` comes before `a/b`. Links are neither
followed nor listed. Writes go to `.millhand/tmp/` first and are renamed, so a reader sees all of an object or none.
The etag is made of inode, size and modification time: whatever replaces a file changes it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from millhand.storage.directory_walk import Walk, etag_of, info_of, instant_of, name_of, no_root
from millhand.storage.protocol import (
    OUR_PREFIX,
    PAGE_SIZE,
    Capabilities,
    InvalidKey,
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    ObjectPage,
    ObjectVersion,
    StoreError,
    Upload,
    check_key,
)

MAX_NAME_BYTES = 255
ONLY_VERSION = "null"  # what S3 calls it where there is but one
DENIED = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))
NO_LINKS = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS))

T = TypeVar("T")


class DirectoryStore:
    """The objects below the directory `root`, which must exist before it is listed."""

    def __init__(self, root: str | Path) -> None:
        self._root = os.path.realpath(root)
        self._url = Path(self._root).as_uri()

    @property
    def url(self) -> str:
        return self._url

    async def probe(self) -> Capabilities:
        return await self._run("probe", None, self._probe)

    async def list_pages(
        self, *, prefix: str = "", start_after: str = "", up_to: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[ObjectPage, None]:
        pages = Walk(self._root, prefix, start_after).pages(page_size)
        loop = asyncio.get_running_loop()
        # One page ahead: the next one is read from the disk while the caller asks the database about this one.
        coming = loop.run_in_executor(None, next, pages, None)
        try:
            while (page := await self._read("list", prefix, coming)) is not None:
                coming = loop.run_in_executor(None, next, pages, None)
                yield page
        finally:
            await asyncio.wait((coming,))
            if not coming.cancelled():
                coming.exception()

    async def head(self, key: str) -> ObjectInfo:
        return await self._run("head", key, self._head, key)

    async def get(self, key: str) -> bytes:
        return await self._run("get", key, self._get, key)

    async def get_above(self, key: str) -> Sequence[bytes]:
        return await self._run("get", key, self._get_above, key)

    async def save(self, key: str, path: Path) -> None:
        await self._run("get", key, self._save, key, path)

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        return await self._run("put", key, self._put, key, data, if_absent)

    async def delete(self, key: str, *, if_same: ObjectInfo | None = None) -> bool:
        return await self._run("delete", key, self._delete, key, if_same)

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        return await self._run("delete", None, self._delete_many, keys)

    async def move(
        self, source: str, target: str, *, if_same: ObjectInfo | None = None, if_absent: bool = False
    ) -> ObjectInfo:
        return await self._run("move", source, self._move, source, target, if_same, if_absent)

    async def list_uploads(
        self, *, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Sequence[Upload]]:
        """Yield nothing: a file is written in one piece."""
        pages: tuple[Sequence[Upload], ...] = ()
        for page in pages:
            yield page

    async def upload_touched_at(self, upload: Upload) -> datetime:
        raise ObjectNotFound("list parts", upload.key)

    async def abort_upload(self, upload: Upload) -> bool:
        return False

    async def list_versions(
        self, *, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Sequence[ObjectVersion]]:
        async for page in self.list_pages(prefix=prefix, page_size=page_size):
            yield [_only_version(page.describe(index)) for index in range(len(page.keys))]

    async def delete_version(self, key: str, version: str) -> None:
        if version == ONLY_VERSION:
            await self.delete(key)

    async def aclose(self) -> None:
        """Nothing is held open."""

    # What follows blocks and runs in threads.

    async def _run(self, operation: str, key: str | None, function: Callable[..., T], *args: object) -> T:
        return await self._read(
            operation, key, asyncio.get_running_loop().run_in_executor(None, function, *args)
        )

    async def _read(self, operation: str, key: str | None, answer: asyncio.Future[T]) -> T:
        try:
            return await answer
        except OSError as error:
            raise _translated(operation, key, error) from error

    def _probe(self) -> Capabilities:
        if not os.path.isdir(self._root):
            raise no_root(self._root)
        store_now, is_writable = datetime.now(UTC), True
        try:
            temporary = self._temporary()
            with open(temporary, "xb") as file:
                store_now = instant_of(os.fstat(file.fileno()).st_mtime_ns)
            os.unlink(temporary)
        except OSError as error:
            if error.errno not in DENIED:
                raise
            is_writable = False
        return Capabilities(
            has_conditional_delete=True,
            has_exact_start_after=True,
            has_versions=False,
            is_ordered=True,
            is_writable=is_writable,
            store_now=store_now,
        )

    def _head(self, key: str) -> ObjectInfo:
        return info_of(key, self._stat("head", key, self._path("head", key)))

    def _get(self, key: str) -> bytes:
        path = self._path("get", key)
        self._stat("get", key, path)
        with open(path, "rb") as file:
            return file.read()

    def _save(self, key: str, to: Path) -> None:
        path = self._path("get", key)
        self._stat("get", key, path)
        shutil.copyfile(path, to)

    def _get_above(self, key: str) -> list[bytes]:
        found = []
        for above in reversed(Path(self._root).parents):
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                found.append(Path(above, key).read_bytes())
        return found

    def _put(self, key: str, data: bytes, if_absent: bool) -> ObjectInfo:
        path = self._path("put", key)
        temporary = self._temporary()
        try:
            with open(temporary, "xb") as file:
                file.write(data)
            found = os.stat(temporary)
            self._place("put", key, temporary, path, if_absent)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        return info_of(key, found)

    def _delete(self, key: str, if_same: ObjectInfo | None) -> bool:
        path = self._path("delete", key)
        try:
            seen = self._stat("delete", key, path)
            _check_match("delete", key, seen, if_same)
            # Taken aside and looked at again: an overwrite between the look and the removal is put back.
            temporary = self._temporary()
            self._take("delete", key, path, temporary, seen, if_same)
        except (ObjectNotFound, FileNotFoundError):
            return False
        os.unlink(temporary)
        self._prune(path)
        return True

    def _delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        failed: dict[str, str] = {}
        for key in keys:
            try:
                self._delete(key, None)
            except StoreError as error:
                failed[key] = error.reason
            except OSError as error:
                failed[key] = _reason(error)
        return failed

    def _move(self, source: str, target: str, if_same: ObjectInfo | None, if_absent: bool) -> ObjectInfo:
        source_path, target_path = self._path("move", source), self._path("move", target)
        seen = self._stat("move", source, source_path)
        _check_match("move", source, seen, if_same)
        if if_absent:
            self._place("move", target, source_path, target_path, if_absent)
        else:
            self._make_room("move", target, target_path)
            self._take("move", source, source_path, target_path, seen, if_same)
        self._prune(source_path)
        return info_of(target, seen)

    def _take(
        self,
        operation: str,
        key: str,
        path: str,
        target: str,
        seen: os.stat_result,
        if_same: ObjectInfo | None,
    ) -> None:
        os.rename(path, target)
        found = os.lstat(target)
        if if_same is not None and etag_of(found) != etag_of(seen):
            try:
                _link(target, path)
            except FileExistsError:  # overwritten once more: what was taken is history
                os.unlink(target)
            raise ObjectChanged(operation, key)

    def _place(self, operation: str, key: str, source: str, path: str, if_absent: bool) -> None:
        """Bring a file to its path, whatever directories have to be made on the way."""
        self._make_room(operation, key, path)
        try:
            if if_absent:
                _link(source, path)
            else:
                os.replace(source, path)
        except FileExistsError:
            raise ObjectExists(operation, key) from None
        except IsADirectoryError:
            raise InvalidKey(operation, "the name of a directory that holds objects", key=key) from None
        except OSError as error:
            if os.path.isdir(path):
                raise InvalidKey(operation, "the name of a directory that holds objects", key=key) from error
            raise

    def _make_room(self, operation: str, key: str, path: str) -> None:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InvalidKey(operation, "a directory of its path is an object", key=key) from None
        if not _is_inside(path):
            raise InvalidKey(operation, "a path that leads through a link", key=key)

    def _stat(self, operation: str, key: str, path: str) -> os.stat_result:
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectNotFound(operation, key) from None
        if not stat.S_ISREG(found.st_mode) or not _is_inside(path):
            raise ObjectNotFound(operation, key)
        return found

    def _path(self, operation: str, key: str) -> str:
        check_key(operation, key)
        names = [name_of(component) for component in key.split("/")]
        if any(len(os.fsencode(name)) > MAX_NAME_BYTES for name in names):
            raise InvalidKey(
                operation, f"a name of more than {MAX_NAME_BYTES} bytes between slashes", key=key
            )
        return os.path.join(self._root, *names)

    def _temporary(self) -> str:
        directory = os.path.join(self._root, OUR_PREFIX, "tmp")
        os.makedirs(directory, exist_ok=True)
        return os.path.join(directory, uuid.uuid4().hex)

    def _prune(self, path: str) -> None:
        """Remove directories that became empty, of ours only: an application may be about to write into its own."""
        ours = os.path.join(self._root, OUR_PREFIX)
        directory = os.path.dirname(path)
        with suppress(OSError):
            # What stands directly in ours stays, because others may be about to write there.
            while directory.startswith(ours) and "/" in directory[len(ours) :]:
                os.rmdir(directory)
                directory = os.path.dirname(directory)


def _only_version(info: ObjectInfo) -> ObjectVersion:
    return ObjectVersion(
        key=info.key,
        version=ONLY_VERSION,
        etag=info.etag,
        is_delete_marker=False,
        is_latest=True,
        modified_at=info.modified_at,
        size=info.size,
    )


def _is_inside(path: str) -> bool:
    """Whether no directory on the way is a link; the root itself was resolved at the beginning."""
    directory = os.path.dirname(path)
    return os.path.realpath(directory) == directory


def _check_match(operation: str, key: str, found: os.stat_result, if_same: ObjectInfo | None) -> None:
    if if_same is not None and etag_of(found) != if_same.etag:
        raise ObjectChanged(operation, key)


def _link(source: str, target: str) -> None:
    """Rename without ever replacing; in between, the file has both names."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS or os.path.lexists(target):
            raise
        # A file system without hard links: hold the name with an empty file, then replace it.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(source, target)
        return
    os.unlink(source)


def _reason(error: OSError) -> str:
    return f"{type(error).__name__} {error.strerror or error!r}"


def _translated(operation: str, key: str | None, error: OSError) -> StoreError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) and key is not None:
        return ObjectNotFound(operation, key)
    if error.errno == errno.ENAMETOOLONG:
        return InvalidKey(operation, "a path longer than this file system takes", key=key)
    return StoreError(operation, _reason(error), key=key, is_denied=error.errno in DENIED)
