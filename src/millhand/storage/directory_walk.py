"""The files below a directory, in the order of their keys, and what files are called that cannot be called as keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

from millhand.storage.protocol import OUR_PREFIX, ObjectInfo, ObjectPage, StoreError
from millhand.storage.spool import sort_on_disk

ESCAPE = "%~"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Walk:
    """The files below a directory in the order of their keys; one sorted directory a level is held, no more."""

    def __init__(self, root: str, prefix: str, start_after: str) -> None:
        self._root = root
        self._prefix = prefix
        self._start_after = start_after
        self._num_skipped = 0

    def pages(self, page_size: int) -> Iterator[ObjectPage]:
        """Yield full pages and the rest."""
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
        directory = os.path.join(
            self._root, *[name_of(component) for component in key_directory.split("/")[:-1]]
        )
        if not os.path.isdir(self._root):
            raise no_root(self._root)
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
                deeper, key_deeper = os.path.join(directory, name_of(below[:-1])), key_directory + below
                levels.append((deeper, key_deeper, self._names(deeper, key_deeper)))

    def _names(self, directory: str, key_directory: str) -> Iterator[str]:
        """Yield the names of a directory that matter, in key order; those of directories end with a slash."""
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
        skip_ours = not key_directory and not self._prefix.startswith(OUR_PREFIX)
        try:
            entries = os.scandir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                name = entry.name
                if not name.isascii() or name.startswith(ESCAPE):
                    component = component_of(name)
                    if component is None:
                        self._num_skipped += 1
                        continue
                    name = component
                if entry.is_dir(follow_symlinks=False):
                    if not (skip_ours and name == OUR_PREFIX[:-1]):
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
                # Hardly any name needs an escape; the question is asked here, where a call would cost a tenth.
                found = os.lstat(
                    base + (name if name and name[0] not in ".%" and "\0" not in name else name_of(name))
                )
            except (FileNotFoundError, NotADirectoryError):
                continue
            keys.append(key_directory + name)
            stats.append(found)
        return keys, stats


def name_of(component: str) -> str:
    """Return what a component of a key is called on the disk."""
    if component in ("", ".", "..") or component.startswith(ESCAPE) or "\0" in component:
        return ESCAPE + quote(component, safe="")
    return component


def component_of(name: str) -> str | None:
    """Return what a name on the disk stands for; None if it is nobody's: not UTF-8, or an escape nobody writes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return None
    if not name.startswith(ESCAPE):
        return name
    component = unquote(name[len(ESCAPE) :], errors="surrogateescape")
    return component if "/" not in component and name_of(component) == name else None


def info_of(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(
        key=key, size=found.st_size, etag=etag_of(found), modified_at=instant_of(found.st_mtime_ns)
    )


def etag_of(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"


def instant_of(nanoseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=nanoseconds // 1_000)


def no_root(root: str) -> StoreError:
    return StoreError("list", f"no directory {root!r}; create or mount it, or mend the storage url")
