"""A directory as a store: file names, links, atomic writes, and files that an application put there."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from millhand.storage import InvalidKey, ObjectChanged, ObjectNotFound, ObjectStore, open_store
from millhand.storage.directory_store import BlockingDirectoryStore
from millhand.storage.threaded_store import ThreadedStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty directory."""
    directory = tmp_path / "bucket"
    directory.mkdir()
    return directory


@pytest.fixture
def store(root: Path) -> ThreadedStore:
    """The store in it."""
    return ThreadedStore(BlockingDirectoryStore(root))


async def listed(store: ObjectStore, **question: object) -> list[str]:
    return [key async for page in store.list_pages(**question) for key in page.keys]  # type: ignore[arg-type]


def files(root: Path) -> list[str]:
    """Return the paths of all files below the root."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def test_ordinary_keys_are_file_paths(store: ObjectStore, root: Path) -> None:
    """A key is the path of its file; only parts that cannot be file names are escaped."""
    for key in ("a/b c.png", "100%.txt", "a//b", "up/../x", "%~y", "end/"):
        await store.put(key, b"")

    assert files(root) == ["%~%25~y", "100%.txt", "a/%~/b", "a/b c.png", "end/%~", "up/%~../x"]


async def test_files_of_an_application_are_objects(store: ObjectStore, root: Path) -> None:
    """A directory that an application fills is a store of those files."""
    (root / "media" / "2026").mkdir(parents=True)
    (root / "media" / "2026" / "é.png").write_bytes(b"png")
    (root / "empty").mkdir()

    assert await listed(store) == ["media/2026/é.png"]
    assert await store.get("media/2026/é.png") == b"png"


async def test_no_call_waits_for_a_pipe(store: ObjectStore, root: Path) -> None:
    """A named pipe in the directory is no object, and one in a parent directory is not read."""
    for directory in (root, root.parent):
        os.mkfifo(directory / "pipe")

    assert await listed(store) == []
    assert await store.get_from_parents("pipe") == []
    with pytest.raises(ObjectNotFound):
        await store.get("pipe")


async def test_no_call_follows_a_link(store: ObjectStore, root: Path, tmp_path: Path) -> None:
    """No call follows a link, neither out of the root nor within it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "linked").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")

    for key in ("linked/secret", "file"):
        with pytest.raises(ObjectNotFound):
            await store.get(key)
        with pytest.raises(ObjectNotFound):
            await store.head(key)
        assert await store.delete(key) is False
    with pytest.raises(InvalidKey) as invalid:
        await store.put("linked/new", b"")
    assert await listed(store) == await listed(store, prefix="linked/") == []
    assert str(invalid.value) == "put of 'linked/new' must succeed, got a path that leads through a link"
    assert files(outside) == ["secret"]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("x" * 256, "a name of more than 255 bytes between slashes"),
        ("é" * 128, "a name of more than 255 bytes between slashes"),
        ("object/below", "a directory of its path is an object"),
        ("directory", "the name of a directory that holds objects"),
    ],
    ids=["long", "long in bytes", "below an object", "over objects"],
)
async def test_a_key_that_cannot_be_a_file_raises_invalid_key(
    store: ObjectStore, root: Path, key: str, reason: str
) -> None:
    """The error names the key and the reason, and no temporary file is left."""
    await store.put("object", b"")
    await store.put("directory/object", b"")

    with pytest.raises(InvalidKey) as invalid:
        await store.put(key, b"")

    assert str(invalid.value) == f"put of {key!r} must succeed, got {reason}"
    assert await listed(store) == ["directory/object", "object"]
    assert [name for name in files(root) if name.startswith(".millhand")] == []


async def test_a_put_is_seen_whole_or_not_at_all(store: ObjectStore) -> None:
    """A reader during an overwrite gets one of the contents, never a part."""
    contents = {bytes([number]) * 200_000 for number in range(4)}
    await store.put("key", next(iter(contents)))

    async def write() -> None:
        for data in contents:
            await store.put("key", data)

    async def read() -> set[bytes]:
        return {await store.get("key") for _ in range(30)}

    *_, first, second = await asyncio.gather(write(), write(), read(), read())

    assert first | second <= contents


async def test_an_overwrite_during_a_move_or_delete_is_kept(root: Path) -> None:
    """A file that replaces the object between the read and the rename stays at its key."""
    blocking = BlockingDirectoryStore(root)
    store = ThreadedStore(blocking)
    seen = await store.put("key", b"old")
    stat = blocking._stat

    def stat_then_overwrite(operation: str, key: str, path: str) -> os.stat_result:
        found = stat(operation, key, path)
        (root / "new").write_bytes(b"new")
        (root / "new").replace(path)
        return found

    blocking._stat = stat_then_overwrite  # type: ignore[method-assign]
    with pytest.raises(ObjectChanged):
        await store.move("key", ".millhand/quarantine/1/key", if_same=seen)
    with pytest.raises(ObjectChanged):
        await store.delete("key", if_same=BlockingDirectoryStore(root).head("key"))
    blocking._stat = stat  # type: ignore[method-assign]

    assert await store.get("key") == b"new"
    assert await listed(store) == ["key"]
    assert await listed(store, prefix=".millhand/") == []


@pytest.mark.parametrize("is_durable", [True, False])
async def test_a_durable_store_syncs_the_file_and_its_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_durable: bool
) -> None:
    """The disk has the bytes before the file gets its name, and then each name of its path; other stores do not wait."""
    synced: list[tuple[bool, bool]] = []
    sync = os.fsync

    def record(number: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(number).st_mode)
        synced.append((is_directory, (tmp_path / "a" / "b").exists()))
        sync(number)

    monkeypatch.setattr(os, "fsync", record)
    store = open_store(str(tmp_path), is_durable=is_durable)
    await store.put("a/b", b"data")

    assert synced == ([(False, False), (True, True), (True, True)] if is_durable else [])
