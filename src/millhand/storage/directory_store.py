"""
A local directory as an object store.

A key is a path below the root. An empty part of a key, `.`, `..`, one with a NUL, and one that begins with the escape
become `%~` and the percent-encoded part. All other names stay as they are, so a directory that an application fills is a
store.

Listings are in the order of whole keys, not of path parts: `a.b` comes before `a/b`. The store neither follows nor lists
links. It writes to `.millhand/tmp/` and renames, so a reader sees all of an object or none. The etag is made of inode,
size and modification time, so each replaced file has a new one. Only a durable store waits until the disk has an object.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from millhand.storage.directory_walk import (
    DirectoryWalk,
    datetime_of,
    etag_of,
    file_name,
    info_of,
    missing_root,
)
from millhand.storage.protocol import (
    RESERVED_PREFIX,
    Capabilities,
    ExpiryRule,
    InvalidKey,
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    ObjectPage,
    ObjectVersion,
    StoreError,
    Upload,
    Versioning,
    check_key,
)

MAX_NAME_BYTES = 255
ONLY_VERSION = "null"  # S3's name for the version of an object in a bucket without versions
DENIED = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))
NO_LINKS = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS))


class BlockingDirectoryStore:
    """The objects below the directory `root`, which must exist before it is listed. Thread-safe."""

    def __init__(self, root: str | Path, *, is_durable: bool = False) -> None:
        self._is_durable = is_durable
        self._root = os.path.realpath(root)
        self.url = Path(self._root).as_uri()

    def probe(self) -> Capabilities:
        if not os.path.isdir(self._root):
            raise missing_root(self._root)
        store_now, is_writable = datetime.now(UTC), True
        try:
            with translate_errors("probe", None):
                temporary = self._temporary_path()
                with open(temporary, "xb") as file:
                    store_now = datetime_of(os.fstat(file.fileno()).st_mtime_ns)
                os.unlink(temporary)
        except StoreError as error:
            if not error.is_denied:
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

    def versioning(self) -> Versioning:
        return Versioning.OFF

    def expiry_rules(self) -> tuple[ExpiryRule, ...]:
        return ()

    def pages(self, prefix: str, start_after: str, up_to: str | None, page_size: int) -> Iterator[ObjectPage]:
        with translate_errors("list", prefix or None):
            yield from DirectoryWalk(self._root, prefix, start_after).pages(page_size)

    def head(self, key: str) -> ObjectInfo:
        with translate_errors("head", key):
            return info_of(key, self._stat("head", key, self._path("head", key)))

    def get(self, key: str) -> bytes:
        with translate_errors("get", key):
            path = self._path("get", key)
            self._stat("get", key, path)
            with open(path, "rb") as file:
                return file.read()

    def download(self, key: str, path: Path) -> None:
        with translate_errors("get", key):
            source = self._path("get", key)
            self._stat("get", key, source)
            shutil.copyfile(source, path)

    def get_from_parents(self, key: str) -> list[bytes]:
        found = []
        with translate_errors("get", key):
            for parent in reversed(Path(self._root).parents):
                with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    if (path := Path(parent, key)).is_file():  # a pipe would be read for ever
                        found.append(path.read_bytes())
        return found

    def put(self, key: str, data: bytes, if_absent: bool) -> ObjectInfo:
        with translate_errors("put", key):
            path = self._path("put", key)
            temporary = self._temporary_path()
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                    if self._is_durable:
                        file.flush()
                        os.fsync(file.fileno())
                found = os.stat(temporary)
                self._rename_into_place("put", key, temporary, path, if_absent)
                if self._is_durable:
                    self._sync_directories(path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
            return info_of(key, found)

    def delete(self, key: str, if_same: ObjectInfo | None) -> bool:
        with translate_errors("delete", key):
            path = self._path("delete", key)
            try:
                seen = self._stat("delete", key, path)
                _check_same("delete", key, seen, if_same)
                # Renamed and read again, because an overwrite may come between the read and the deletion.
                temporary = self._temporary_path()
                _rename_if_same("delete", key, path, temporary, seen, if_same)
            except (ObjectNotFound, FileNotFoundError):
                return False
            os.unlink(temporary)
            self._remove_empty_parents(path)
            return True

    def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        failed: dict[str, str] = {}
        for key in keys:
            try:
                self.delete(key, None)
            except StoreError as error:
                failed[key] = error.reason
        return failed

    def move(self, source: str, target: str, if_same: ObjectInfo | None, if_absent: bool) -> ObjectInfo:
        with translate_errors("move", source):
            source_path, target_path = self._path("move", source), self._path("move", target)
            seen = self._stat("move", source, source_path)
            _check_same("move", source, seen, if_same)
            if if_absent:
                self._rename_into_place("move", target, source_path, target_path, if_absent)
            else:
                self._make_parents("move", target, target_path)
                _rename_if_same("move", source, source_path, target_path, seen, if_same)
            self._remove_empty_parents(source_path)
            return info_of(target, seen)

    def upload_pages(self, prefix: str, page_size: int) -> Iterator[Sequence[Upload]]:
        return iter(())

    def upload_touched_at(self, upload: Upload) -> datetime:
        raise ObjectNotFound("list parts", upload.key)

    def abort_upload(self, upload: Upload) -> bool:
        return False

    def version_pages(self, prefix: str, page_size: int) -> Iterator[Sequence[ObjectVersion]]:
        for page in self.pages(prefix, "", None, page_size):
            yield [
                ObjectVersion(
                    key=info.key,
                    version=ONLY_VERSION,
                    etag=info.etag,
                    is_delete_marker=False,
                    is_latest=True,
                    modified_at=info.modified_at,
                    size=info.size,
                )
                for info in map(page.describe, range(len(page.keys)))
            ]

    def delete_version(self, key: str, version: str) -> None:
        if version == ONLY_VERSION:
            self.delete(key, None)

    def copy_version(self, key: str, version: str) -> None:
        raise ObjectNotFound("copy a version", key)  # the only version is the object

    def close(self) -> None:
        """Do nothing: the store keeps no file open."""

    def _rename_into_place(self, operation: str, key: str, source: str, path: str, if_absent: bool) -> None:
        """Rename a file to the path of its key, and make the directories of that path."""
        self._make_parents(operation, key, path)
        try:
            if if_absent:
                _rename_if_absent(source, path)
            else:
                os.replace(source, path)
        except FileExistsError:
            raise ObjectExists(operation, key) from None
        except OSError as error:
            if isinstance(error, IsADirectoryError) or os.path.isdir(path):
                raise InvalidKey(operation, "the name of a directory that holds objects", key=key) from error
            raise

    def _make_parents(self, operation: str, key: str, path: str) -> None:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InvalidKey(operation, "a directory of its path is an object", key=key) from None
        if _has_link(path):
            raise InvalidKey(operation, "a path that leads through a link", key=key)

    def _stat(self, operation: str, key: str, path: str) -> os.stat_result:
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectNotFound(operation, key) from None
        if not stat.S_ISREG(found.st_mode) or _has_link(path):
            raise ObjectNotFound(operation, key)
        return found

    def _path(self, operation: str, key: str) -> str:
        check_key(operation, key)
        names = [file_name(part) for part in key.split("/")]
        if any(len(os.fsencode(name)) > MAX_NAME_BYTES for name in names):
            raise InvalidKey(
                operation, f"a name of more than {MAX_NAME_BYTES} bytes between slashes", key=key
            )
        return os.path.join(self._root, *names)

    def _temporary_path(self) -> str:
        directory = os.path.join(self._root, RESERVED_PREFIX, "tmp")
        os.makedirs(directory, exist_ok=True)
        return os.path.join(directory, uuid.uuid4().hex)

    def _sync_directories(self, path: str) -> None:
        """Wait until the disk has the name of a file, and those of the directories that lead to it."""
        directory = path
        while directory != self._root:
            directory = os.path.dirname(directory)
            number = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)

    def _remove_empty_parents(self, path: str) -> None:
        """Remove empty directories below `.millhand/` only: an application may be about to write into its own."""
        reserved = os.path.join(self._root, RESERVED_PREFIX)
        directory = os.path.dirname(path)
        with suppress(OSError):
            # Directories directly in `.millhand/` stay, because other processes may be about to write there.
            while directory.startswith(reserved) and "/" in directory[len(reserved) :]:
                os.rmdir(directory)
                directory = os.path.dirname(directory)


@contextmanager
def translate_errors(operation: str, key: str | None) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        if key is not None:
            raise ObjectNotFound(operation, key) from error
        raise _store_error(operation, key, error) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            reason = "a path longer than this file system takes"
            raise InvalidKey(operation, reason, key=key) from error
        raise _store_error(operation, key, error) from error


def _store_error(operation: str, key: str | None, error: OSError) -> StoreError:
    reason = f"{type(error).__name__} {error.strerror or error!r}"
    return StoreError(operation, reason, key=key, is_denied=error.errno in DENIED)


def _has_link(path: str) -> bool:
    """Return whether a directory of the path is a link. The root itself is resolved already."""
    directory = os.path.dirname(path)
    return os.path.realpath(directory) != directory


def _check_same(operation: str, key: str, found: os.stat_result, if_same: ObjectInfo | None) -> None:
    if if_same is not None and etag_of(found) != if_same.etag:
        raise ObjectChanged(operation, key)


def _rename_if_same(
    operation: str, key: str, path: str, target: str, seen: os.stat_result, if_same: ObjectInfo | None
) -> None:
    """Rename a file, and undo that if it was overwritten since it was `seen`."""
    os.rename(path, target)
    if if_same is not None and etag_of(os.lstat(target)) != etag_of(seen):
        try:
            _rename_if_absent(target, path)
        except FileExistsError:  # overwritten once more: the renamed file is no longer current
            os.unlink(target)
        raise ObjectChanged(operation, key)


def _rename_if_absent(source: str, target: str) -> None:
    """Rename without replacing a file. For a moment the file has both names."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS or os.path.lexists(target):
            raise
        # A file system without hard links: reserve the name with an empty file, then replace it.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(source, target)
        return
    os.unlink(source)
