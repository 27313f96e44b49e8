"""The contract of `ObjectStore`: objects and listings. Every store passes this suite unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from stores import UNUSUAL_KEYS, Place, deny_deletes

from millhand.storage import (
    Capabilities,
    InvalidKey,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    ObjectStore,
    StoreError,
    open_store,
)

MANY = 1_007


def in_order(keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=str.encode)


async def put_all(store: ObjectStore, keys: Sequence[str]) -> None:
    await asyncio.gather(*(store.put(key, key.encode("utf-8", "replace")) for key in keys))


async def put_what_fits(place: Place, keys: Sequence[str]) -> list[str]:
    """Put the keys and return those that the store accepted. For the others it must raise an error that names the key."""
    taken = []
    for key in keys:
        if key in place.facts.altered_keys:
            continue
        try:
            await place.store.put(key, key.encode())
        except StoreError as error:
            assert error.key == key
        else:
            taken.append(key)
    return taken


async def listed(store: ObjectStore, **question: object) -> list[str]:
    return [key async for page in store.list_pages(**question) for key in page.keys]  # type: ignore[arg-type]


async def test_store_returns_the_bytes_that_were_put(place: Place) -> None:
    """`get` returns the bytes that were put, and `head` describes them."""
    data = bytes(range(256)) * 40

    put = await place.store.put("some/key.bin", data)

    assert await place.store.get("some/key.bin") == data
    assert await place.store.head("some/key.bin") == put
    assert (put.key, put.size, put.is_locked) == ("some/key.bin", len(data), False)
    assert abs(put.modified_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_store_downloads_an_object_into_a_file(place: Place, tmp_path: Path) -> None:
    """`download` writes an object of several megabytes, and raises ObjectNotFound for a missing one."""
    data = bytes(range(256)) * 10_000
    await place.store.put("some/key.bin", data)

    await place.store.download("some/key.bin", tmp_path / "saved")

    assert (tmp_path / "saved").read_bytes() == data
    with pytest.raises(ObjectNotFound):
        await place.store.download("nowhere", tmp_path / "nothing")


async def test_store_describes_an_object_the_same_in_a_page_and_alone(place: Place) -> None:
    """A listing and `head` return the same etag, size and time, so the two can be compared."""
    await place.store.put("some/key.bin", b"bytes")

    pages = [page async for page in place.store.list_pages()]

    assert [page.describe(0) for page in pages] == [await place.store.head("some/key.bin")]
    assert [list(page.sizes) for page in pages] == [[5]]


@pytest.mark.parametrize("key", UNUSUAL_KEYS, ids=ascii)
async def test_store_keeps_an_unusual_key_or_rejects_it(place: Place, key: str) -> None:
    """In every call an unusual key names its own object, or the store raises an error that names the key."""
    if key in place.facts.altered_keys:
        pytest.skip("this server stores the key under another name")
    try:
        await place.store.put(key, b"mine")
    except StoreError as error:
        assert error.key == key
        assert await listed(place.store) == []
        return

    assert await listed(place.store) == [key]
    assert await place.store.get(key) == b"mine"
    assert (await place.store.head(key)).key == key
    assert (await place.store.move(key, "elsewhere")).size == 4
    assert await listed(place.store) == ["elsewhere"]
    await place.store.move("elsewhere", key)
    assert await place.store.delete(key) is True
    assert await listed(place.store) == []


async def test_store_lists_all_unusual_keys_in_the_order_it_claims(place: Place) -> None:
    """Unusual keys side by side are listed once each, in UTF-8 byte order if the store is ordered."""
    taken = await put_what_fits(place, [key for key in UNUSUAL_KEYS if key not in ("plain", "..", ".")])

    found = await listed(place.store)

    assert len(taken) >= 30
    assert in_order(found) == in_order(taken)
    if place.facts.is_ordered:
        assert found == in_order(taken)


async def test_store_lists_the_same_keys_whatever_the_page_size(place: Place) -> None:
    """Pages of 7 and of 1,000 make the same listing, and no page is too long or empty."""
    keys = [f"d{number % 7}/{number:04}" for number in range(150)]
    await put_all(place.store, keys)

    small = [page async for page in place.store.list_pages(page_size=7)]

    assert all(1 <= len(page.keys) == len(page.sizes) <= 7 for page in small)
    assert in_order(key for page in small for key in page.keys) == in_order(keys)
    assert await listed(place.store) == [key for page in small for key in page.keys]


async def test_store_lists_no_page_when_it_is_empty(place: Place) -> None:
    """The listing of an empty store has no pages."""
    assert [page async for page in place.store.list_pages()] == []


async def test_store_lists_the_keys_that_start_with_a_prefix(place: Place) -> None:
    """A prefix is text, not a directory: it may end within a name, and it matches no sibling."""
    await put_all(place.store, ["images/a", "images/b/c", "images2/a", "image", "other/images/a"])

    assert await listed(place.store, prefix="images/") == ["images/a", "images/b/c"]
    assert in_order(await listed(place.store, prefix="image")) == [
        "image",
        "images/a",
        "images/b/c",
        "images2/a",
    ]
    assert await listed(place.store, prefix="images/b") == ["images/b/c"]
    assert await listed(place.store, prefix="nothing/") == []


async def test_store_starts_after_any_key_if_it_claims_to(place: Place) -> None:
    """A listing after a key, existing or not, holds exactly the keys that follow it, with and without a prefix."""
    if not place.facts.has_exact_start_after:
        pytest.skip("this server does not claim to")
    keys = ["a", "b.c", "b/c", "b/d/e", "b/f", "b0", "c/g", "é/h"]
    await put_all(place.store, keys)

    for start_after in [*keys, "", "b", "b/", "b/d/", "b/d/zz", "b/zz", "zzz", "\U0010ffff"]:
        expected = [key for key in in_order(keys) if key > start_after]
        assert await listed(place.store, start_after=start_after, page_size=2) == expected
        below_b = [key for key in expected if key.startswith("b/")]
        assert await listed(place.store, prefix="b/", start_after=start_after) == below_b


async def test_store_lists_reserved_keys_only_when_asked(place: Place) -> None:
    """Objects under `.millhand/` are listed only if the prefix names them."""
    await put_all(place.store, ["a", ".millhand/quarantine/1/b", ".millhandle", "c/.millhand/d"])

    assert in_order(await listed(place.store)) == [".millhandle", "a", "c/.millhand/d"]
    assert await listed(place.store, prefix=".millhand/quarantine/") == [".millhand/quarantine/1/b"]


async def test_store_raises_not_found_for_a_key_without_object(place: Place) -> None:
    """Every call raises ObjectNotFound for a missing key, also below an object and at the name of a directory."""
    await put_all(place.store, ["a/b"])

    for key in ("missing", "a", "a/b/c", "a/bb"):
        with pytest.raises(ObjectNotFound) as head:
            await place.store.head(key)
        with pytest.raises(ObjectNotFound):
            await place.store.get(key)
        with pytest.raises(ObjectNotFound):
            await place.store.move(key, "elsewhere")
        assert await place.store.delete(key) is False
        assert str(head.value) == f"head of {key!r} must succeed, got no such object"


@pytest.mark.parametrize("key", ["", "x" * 1_025, "lone\ud800surrogate"], ids=ascii)
async def test_store_rejects_an_invalid_key(place: Place, key: str) -> None:
    """An empty key, one beyond 1,024 bytes and one that is not UTF-8 raise InvalidKey."""
    with pytest.raises(InvalidKey):
        await place.store.put(key, b"")


async def test_store_reads_an_object_from_its_parents(place: Place) -> None:
    """A store below another reads one key from each of its parent prefixes, from the top down."""
    base, mark, options = place.store.url.partition("?")
    await put_all(place.store, ["name", "part/name", "part/of/it/name", "part/other/name"])
    within = open_store(f"{base.rstrip('/')}/part/of/it{mark}{options}")

    found = await within.get_from_parents("name")

    assert found == [b"name", b"part/name"]
    assert await within.get_from_parents("missing") == []
    await within.aclose()


async def test_store_replaces_an_object_whole(place: Place) -> None:
    """A second put replaces bytes, size and etag."""
    first = await place.store.put("key", b"first")

    second = await place.store.put("key", b"second!")

    assert await place.store.get("key") == b"second!"
    assert (second.size, second.etag != first.etag) == (7, True)


async def test_store_puts_only_to_a_free_key_when_asked(place: Place) -> None:
    """With `if_absent`, `put` raises ObjectExists and keeps the existing object."""
    await place.store.put("key", b"first", if_absent=True)

    with pytest.raises(ObjectExists):
        await place.store.put("key", b"second", if_absent=True)

    assert await place.store.get("key") == b"first"


async def test_store_deletes_only_an_unchanged_object(place: Place) -> None:
    """A conditional delete keeps an object that changed, deletes one that did not, and returns which."""
    seen = await place.store.put("key", b"first")
    await place.store.put("key", b"second")

    with pytest.raises(ObjectChanged):
        await place.store.delete("key", if_same=seen)
    assert await place.store.get("key") == b"second"

    current = await place.store.head("key")
    assert await place.store.delete("key", if_same=current) is True
    assert await place.store.delete("key", if_same=current) is False


@pytest.mark.slow
async def test_store_deletes_more_keys_than_one_request_takes(place: Place) -> None:
    """`delete_many` takes more keys than one request, missing and unusual ones among them."""
    keys = [f"many/{number:05}" for number in range(MANY)]
    await put_all(place.store, keys)
    unusual = await put_what_fits(place, ["line\nbreak", "\x01control", "a&<b", "ünï"])
    await place.store.put("stays", b"")

    failed = await place.store.delete_many([*keys, *unusual, "missing"])

    assert failed == {}
    assert await listed(place.store) == ["stays"]


@pytest.mark.slow
async def test_store_names_the_one_key_of_a_thousand_that_a_server_denies(place: Place) -> None:
    """`delete_many` returns the reason for the one key that the server denies, and deletes all others."""
    if not place.facts.has_policies:
        pytest.skip("this store has no policy that binds its owner")
    keys = [f"many/{number:05}" for number in range(MANY)]
    await put_all(place.store, keys)
    deny_deletes(place.store, keys[500])

    failed = await place.store.delete_many([*keys, "x" * 1_025])

    assert failed.pop("x" * 1_025).endswith(" bytes; a key has 1 to 1,024 bytes of UTF-8")  # type: ignore[attr-defined]
    assert failed == {keys[500]: "AccessDenied: AccessDenied"}
    assert await listed(place.store) == [keys[500]]


async def test_store_deletes_the_valid_keys_and_names_the_invalid_ones(place: Place) -> None:
    """`delete_many` returns the reason for each invalid key and deletes the others."""
    await put_all(place.store, ["a", "b", "stays"])

    failed = dict(await place.store.delete_many(["a", "x" * 1_025, "b", "lone\ud800surrogate"]))

    too_long, surrogate = failed.pop("x" * 1_025), failed.pop("lone\ud800surrogate")
    assert too_long.endswith(" bytes; a key has 1 to 1,024 bytes of UTF-8")
    assert surrogate == "a lone surrogate; keys are UTF-8 text"
    assert failed == {}
    assert await listed(place.store) == ["stays"]


async def test_store_moves_an_object_with_its_bytes(place: Place) -> None:
    """A move changes the key and nothing else; the old key is gone."""
    await place.store.put("a/old", b"bytes")

    moved = await place.store.move("a/old", "b/new", if_same=await place.store.head("a/old"))

    assert await listed(place.store) == ["b/new"]
    assert await place.store.get("b/new") == b"bytes"
    assert moved == await place.store.head("b/new")


async def test_store_moves_only_an_unchanged_object(place: Place) -> None:
    """A conditional move leaves an object that changed at its key, and makes no copy."""
    seen = await place.store.put("old", b"first")
    await place.store.put("old", b"second")

    with pytest.raises(ObjectChanged):
        await place.store.move("old", "new", if_same=seen)

    assert await listed(place.store) == ["old"]
    assert await place.store.get("old") == b"second"


async def test_store_moves_only_to_a_free_key_when_asked(place: Place) -> None:
    """With `if_absent`, `move` keeps both objects; without it, the target is replaced."""
    await place.store.put("old", b"old")
    await place.store.put("new", b"new")

    with pytest.raises(ObjectExists):
        await place.store.move("old", "new", if_absent=True)
    assert [await place.store.get(key) for key in ("old", "new")] == [b"old", b"new"]

    await place.store.move("old", "new")
    assert await listed(place.store) == ["new"]
    assert await place.store.get("new") == b"old"


async def test_probe_returns_what_the_store_does_and_leaves_no_object(place: Place) -> None:
    """The probe returns the known capabilities of the server, and deletes its own objects."""
    found = await place.store.probe()

    assert found == Capabilities(
        has_conditional_delete=place.facts.has_conditional_delete,
        has_exact_start_after=place.facts.has_exact_start_after,
        has_versions=False,
        is_ordered=place.facts.is_ordered,
        is_writable=True,
        store_now=found.store_now,
    )
    assert abs(found.store_now - datetime.now(UTC)) < timedelta(minutes=1)
    assert await listed(place.store, prefix=".millhand/") == []
