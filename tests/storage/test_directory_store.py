"""A directory as a store: key order, escapes, links, and files that others put there."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millhand.storage import (
    InvalidKey,
    ObjectChanged,
    ObjectNotFound,
    ObjectStore,
    StoreError,
    directory_walk,
    open_store,
)
from millhand.storage.directory import DirectoryStore
from millhand.storage.spool import SortedSpool, sort_on_disk

COMPONENTS = st.sampled_from(
    ["", ".", "..", "a", "a.", "a-", "a0", "A", "%~", "%~a", "%", "é", "\0", " ", "\n", "~"]
)
KEYS = st.lists(COMPONENTS, min_size=1, max_size=4).map("/".join).filter(bool)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty directory."""
    directory = tmp_path / "bucket"
    directory.mkdir()
    return directory


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    """The store of it."""
    return DirectoryStore(root)


async def listed(store: ObjectStore, **question: object) -> list[str]:
    return [key async for page in store.list_pages(**question) for key in page.keys]  # type: ignore[arg-type]


def files(root: Path) -> list[str]:
    """Return the paths of all files below the root, as they are on the disk."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@given(
    keys=st.lists(KEYS, max_size=12, unique=True), start_after=KEYS | st.just(""), page_size=st.integers(1, 5)
)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
async def test_keys_are_listed_in_byte_order_whatever_they_are(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], start_after: str, page_size: int
) -> None:
    """Any keys that fit side by side are listed once, in the order of whole keys, from any start and in any pages."""
    root = tmp_path_factory.mktemp("bucket")
    store = DirectoryStore(root)
    held = []
    for key in keys:
        try:
            await store.put(key, key.encode())
        except InvalidKey:  # one is the other's directory
            continue
        held.append(key)

    assert await listed(store, page_size=page_size) == sorted(held)
    assert await listed(store, start_after=start_after, page_size=page_size) == [
        key for key in sorted(held) if key > start_after
    ]
    assert [await store.get(key) for key in held] == [key.encode() for key in held]


async def test_ordinary_names_are_written_as_they_are(store: DirectoryStore, root: Path) -> None:
    """A key is the path of its file, so people and programs find it; only what cannot be a name is escaped."""
    for key in ("a/b c.png", "100%.txt", "a//b", "up/../x", "%~y", "end/"):
        await store.put(key, b"")

    assert files(root) == [
        "%~%25~y",
        "100%.txt",
        "a/%~/b",
        "a/b c.png",
        "end/%~",
        "up/%~../x",
    ]


async def test_files_of_others_are_read_as_they_stand(store: DirectoryStore, root: Path) -> None:
    """A directory that an application fills by itself is a store of those files."""
    (root / "media" / "2026").mkdir(parents=True)
    (root / "media" / "2026" / "é.png").write_bytes(b"png")
    (root / "empty").mkdir()

    assert await listed(store) == ["media/2026/é.png"]
    assert await store.get("media/2026/é.png") == b"png"


async def test_what_is_no_object_is_counted_and_left(store: DirectoryStore, root: Path) -> None:
    """Links, pipes, names that are not UTF-8 and escapes that nobody wrote are skipped, and their number is told."""
    (root / "object").write_bytes(b"")
    (root / "link").symlink_to(root / "object")
    (root / "%~plain").write_bytes(b"")
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"\xff")).write_bytes(b"")

    pages = [page async for page in store.list_pages()]

    assert [(list(page.keys), page.num_skipped) for page in pages] == [(["object"], 4)]


async def test_links_lead_nowhere(store: DirectoryStore, root: Path, tmp_path: Path) -> None:
    """No call follows a link, neither out of the root nor within it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "door").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")

    for key in ("door/secret", "file"):
        with pytest.raises(ObjectNotFound):
            await store.get(key)
        with pytest.raises(ObjectNotFound):
            await store.head(key)
        assert await store.delete(key) is False
    with pytest.raises(InvalidKey) as refused:
        await store.put("door/new", b"")
    assert await listed(store) == await listed(store, prefix="door/") == []
    assert str(refused.value) == "put of 'door/new' must succeed, got a path that leads through a link"
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
async def test_what_a_file_system_cannot_hold_is_refused_by_name(
    store: DirectoryStore, root: Path, key: str, reason: str
) -> None:
    """A key that has no file is refused with its reason, and nothing is left behind."""
    await store.put("object", b"")
    await store.put("directory/object", b"")

    with pytest.raises(InvalidKey) as refused:
        await store.put(key, b"")

    assert str(refused.value) == f"put of {key!r} must succeed, got {reason}"
    assert await listed(store) == ["directory/object", "object"]
    assert [name for name in files(root) if name.startswith(".millhand")] == []


async def test_a_put_is_seen_whole_or_not_at_all(store: DirectoryStore) -> None:
    """Whoever reads while an object is replaced sees one of its contents, never a part."""
    contents = {bytes([number]) * 200_000 for number in range(4)}
    await store.put("key", next(iter(contents)))

    async def write() -> None:
        for data in contents:
            await store.put("key", data)

    async def read() -> set[bytes]:
        return {await store.get("key") for _ in range(30)}

    *_, first, second = await asyncio.gather(write(), write(), read(), read())

    assert first | second <= contents


async def test_an_overwrite_during_a_removal_is_put_back(store: DirectoryStore, root: Path) -> None:
    """A file that takes the object's place between the look and the rename is not the one that goes."""
    seen = await store.put("key", b"old")
    look = store._stat

    def look_and_lose(operation: str, key: str, path: str) -> os.stat_result:
        found = look(operation, key, path)
        (root / "new").write_bytes(b"new")
        (root / "new").replace(path)
        return found

    store._stat = look_and_lose  # type: ignore[method-assign]
    with pytest.raises(ObjectChanged):
        await store.move("key", ".millhand/quarantine/1/key", if_same=seen)
    with pytest.raises(ObjectChanged):
        await store.delete("key", if_same=await DirectoryStore(root).head("key"))
    store._stat = look  # type: ignore[method-assign]

    assert await store.get("key") == b"new"
    assert await listed(store) == ["key"]
    assert await listed(store, prefix=".millhand/") == []


async def test_a_root_that_is_not_there_is_an_error_and_not_empty(tmp_path: Path) -> None:
    """A directory that is missing, or was not mounted, must never look like a bucket without objects."""
    store = open_store(str(tmp_path / "nowhere"))

    with pytest.raises(StoreError) as listing:
        await listed(store)
    with pytest.raises(StoreError):
        await store.probe()

    assert str(listing.value) == (
        f"list must succeed, got no directory {str(tmp_path / 'nowhere')!r}; "
        "create or mount it, or mend the storage url"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_directory_that_may_not_be_read_is_an_error_and_not_empty(
    store: DirectoryStore, root: Path
) -> None:
    """A listing that lacks a directory for want of permission is no listing."""
    await store.put("closed/object", b"")
    (root / "closed").chmod(0)

    try:
        with pytest.raises(StoreError) as denied:
            await listed(store)
    finally:
        (root / "closed").chmod(0o700)
    assert denied.value.is_denied is True


async def test_a_large_directory_is_listed_in_order_from_disk(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory of more names than one run of the sorter holds comes out complete and in order."""
    monkeypatch.setattr(directory_walk, "sort_on_disk", lambda names: sort_on_disk(names, run_length=10))
    keys = [f"{number * 7919 % 1000:04}\n" for number in range(95)] + ["d/a", "d.a"]
    for key in keys:
        await store.put(key, b"")

    assert await listed(store, page_size=9) == sorted(keys)


@given(values=st.lists(st.text(), max_size=60), run_length=st.integers(1, 20))
def test_a_spool_gives_back_in_order_what_it_took(values: list[str], run_length: int) -> None:
    """Whatever the texts and however little fits into memory, nothing is lost, doubled or out of order."""
    spool = SortedSpool[str](run_length=run_length)
    for at in range(0, len(values), 7):
        spool.add(values[at : at + 7])

    assert list(spool.read()) == sorted(values)
    assert list(sort_on_disk(values, run_length=run_length)) == sorted(values)
    spool.close()
    spool.close()
