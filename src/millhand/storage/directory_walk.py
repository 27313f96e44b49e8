"""List files in the order of their keys, and escape parts of keys (between slashes) that cannot be file names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

from millhand.storage.protocol import RESERVED_PREFIX, ObjectInfo, ObjectPage, StoreError
from millhand.storage.spool import sort_on_disk

ESCAPE = "%~"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DirectoryWalk:
    """The files below a directory in the order of their keys. Memory holds one sorted directory for each level."""

    def __init__(self, root: str, prefix: str, start_after: str) -> None:
        self._root = root
        self._prefix = prefix
        self._start_after = start_after
        self._num_skipped = 0

    def pages(self, page_size: int) -> Iterator[ObjectPage]:
        keys: list[str] = []
        stats: list[os.stat_result] = []
        for more_keys, more_stats in self._batches(page_size):
            keys += more_keys
            stats += more_stats
            if len(keys) >= page_size:
                yield self._page(keys[:page_size], stats[:page_size])
                del keys[:page_size], stats[:page_size]
        if keys or self._num_skipped:
            yield self._page(keys, stats)

    def _page(self, keys: list[str], stats: list[os.stat_result]) -> ObjectPage:
        num_skipped, self._num_skipped = self._num_skipped, 0
        return ObjectPage(
            describe=lambda index: info_of(keys[index], stats[index]),
            keys=keys,
            num_skipped=num_skipped,
            sizes=[found.st_size for found in stats],
        )

    def _batches(self, page_size: int) -> Iterator[tuple[list[str], list[os.stat_result]]]:
        key_directory = self._prefix[: self._prefix.rfind("/") + 1]
        directory = os.path.join(self._root, *[file_name(part) for part in key_directory.split("/")[:-1]])
        if not os.path.isdir(self._root):
            raise missing_root(self._root)
        if os.path.realpath(directory) != directory:
            return
        levels = [(directory, key_directory, self._names(directory, key_directory))]
        while levels:
            directory, key_directory, names = levels[-1]
            files: list[str] = []
            below = None
            for name in names:
                if name[-1:] == "/":
                    below = name
                    break
                files.append(name)
                if len(files) == page_size:
                    break
            else:
                levels.pop()
            if files:
                yield self._stats(directory, key_directory, files)
            if below is not None:
                deeper, key_deeper = os.path.join(directory, file_name(below[:-1])), key_directory + below
                levels.append((deeper, key_deeper, self._names(deeper, key_deeper)))

    def _names(self, directory: str, key_directory: str) -> Iterator[str]:
        """Yield the matching names of a directory in key order. The name of a directory ends with a slash."""
        prefix = self._prefix[len(key_directory) :] if self._prefix.startswith(key_directory) else ""
        after = self._start_after
        for name in sort_on_disk(self._scan(directory, key_directory)):
            if prefix and not name.startswith(prefix):
                continue
            key = key_directory + name
            if after and key <= after and not (name[-1:] == "/" and after.startswith(key)):
                continue
            yield name

    def _scan(self, directory: str, key_directory: str) -> Iterator[str]:
        skip_reserved = not key_directory and not self._prefix.startswith(RESERVED_PREFIX)
        try:
            entries = os.scandir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                name = entry.name
                if not name.isascii() or name.startswith(ESCAPE):
                    part = key_part(name)
                    if part is None:
                        self._num_skipped += 1
                        continue
                    name = part
                if entry.is_dir(follow_symlinks=False):
                    if not (skip_reserved and name == RESERVED_PREFIX[:-1]):
                        yield name + "/"
                elif entry.is_file(follow_symlinks=False):
                    yield name
                else:
                    self._num_skipped += 1

    def _stats(
        self, directory: str, key_directory: str, files: list[str]
    ) -> tuple[list[str], list[os.stat_result]]:
        keys: list[str] = []
        stats: list[os.stat_result] = []
        base = directory + "/"
        for name in files:
            try:
                # Few names need an escape. Checking here first is a tenth faster than calling file_name each time.
                found = os.lstat(
                    base + (name if name and name[0] not in ".%" and "\0" not in name else file_name(name))
                )
            except (FileNotFoundError, NotADirectoryError):
                continue
            keys.append(key_directory + name)
            stats.append(found)
        return keys, stats


def file_name(part: str) -> str:
    """Return the file name of one part of a key."""
    if part in ("", ".", "..") or part.startswith(ESCAPE) or "\0" in part:
        return ESCAPE + quote(part, safe="")
    return part


def key_part(name: str) -> str | None:
    """Return the part of a key that a file name stands for; None if it is not UTF-8 or an escape we never write."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return None
    if not name.startswith(ESCAPE):
        return name
    part = unquote(name[len(ESCAPE) :], errors="surrogateescape")
    return part if "/" not in part and file_name(part) == name else None


def info_of(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(
        key=key, size=found.st_size, etag=etag_of(found), modified_at=datetime_of(found.st_mtime_ns)
    )


def etag_of(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"


def datetime_of(nanoseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=nanoseconds // 1_000)


def missing_root(root: str) -> StoreError:
    return StoreError("list", f"no directory {root!r}; create or mount it, or correct the storage url")
