"""The listing of a directory: order, escapes, and entries that are no objects."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millhand.storage import InvalidKey, ObjectStore, StoreError, directory_walk, open_store
from millhand.storage.spool import sort_on_disk

PARTS = st.sampled_from(
    ["", ".", "..", "a", "a.", "a-", "a0", "A", "%~", "%~a", "%", "é", "\0", " ", "\n", "~"]
)
KEYS = st.lists(PARTS, min_size=1, max_size=4).map("/".join).filter(bool)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty directory."""
    directory = tmp_path / "bucket"
    directory.mkdir()
    return directory


@pytest.fixture
def store(root: Path) -> ObjectStore:
    """The store in it."""
    return open_store(str(root))


async def listed(store: ObjectStore, **question: object) -> list[str]:
    return [key async for page in store.list_pages(**question) for key in page.keys]  # type: ignore[arg-type]


@pytest.mark.slow
@given(
    keys=st.lists(KEYS, max_size=12, unique=True), start_after=KEYS | st.just(""), page_size=st.integers(1, 5)
)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
async def test_any_keys_are_listed_in_byte_order(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], start_after: str, page_size: int
) -> None:
    """Any keys that fit side by side are listed once in the order of whole keys, from any start, in pages of any size."""
    root = tmp_path_factory.mktemp("bucket")
    store = open_store(str(root))
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


async def test_files_that_are_no_objects_are_counted(store: ObjectStore, root: Path) -> None:
    """A page counts the links, pipes, names that are not UTF-8 and invalid escapes that it skips."""
    (root / "object").write_bytes(b"")
    (root / "link").symlink_to(root / "object")
    (root / "%~plain").write_bytes(b"")
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"\xff")).write_bytes(b"")

    pages = [page async for page in store.list_pages()]

    assert [(list(page.keys), page.num_skipped) for page in pages] == [(["object"], 4)]


async def test_listing_a_missing_root_is_an_error(tmp_path: Path) -> None:
    """A directory that is missing, or not mounted, never looks like an empty store."""
    store = open_store(str(tmp_path / "nowhere"))

    with pytest.raises(StoreError) as listing:
        await listed(store)
    with pytest.raises(StoreError):
        await store.probe()

    assert str(listing.value) == (
        f"list must succeed, got no directory {str(tmp_path / 'nowhere')!r}; "
        "create or mount it, or correct the storage url"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_listing_an_unreadable_directory_is_an_error(store: ObjectStore, root: Path) -> None:
    """A directory without permission fails the listing instead of shortening it."""
    await store.put("closed/object", b"")
    (root / "closed").chmod(0)

    try:
        with pytest.raises(StoreError) as denied:
            await listed(store)
    finally:
        (root / "closed").chmod(0o700)
    assert denied.value.is_denied is True


async def test_a_large_directory_is_sorted_on_disk(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory with more names than one sorted run is listed in full and in order."""
    monkeypatch.setattr(directory_walk, "sort_on_disk", lambda names: sort_on_disk(names, run_length=10))
    keys = [f"{number * 7919 % 1000:04}\n" for number in range(95)] + ["d/a", "d.a"]
    for key in keys:
        await store.put(key, b"")

    assert await listed(store, page_size=9) == sorted(keys)
