"""Keys in the forms that users store: plain, URLs, JSON, arrays, and SELECTs over several tables."""

from __future__ import annotations

from typing import Any

import pytest
from posts import CDN, fill, keys_of, source
from world import DAY, World, generous

from millhand.orphans import OrphansConfig, ReferenceSource, list_findings
from millhand.orphans.scan.partitions import _key_bounds
from millhand.orphans.sources.references import open_references

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

KEYS_OF_URLS = (
    ("https://cdn.example.com/a/b.png", "a/b.png"),
    ("https://cdn.example.com/a/b.png?w=100&h=%20#top", "a/b.png"),
    ("https://cdn.example.com/Gr%C3%BC%C3%9fe%20%E2%82%AC%20%F0%9F%98%80.png", "Grüße € 😀.png"),
    ("https://cdn.example.com/grün%2Fa+b\\0041.png", "grün/a+b\\0041.png"),
    ("https://cdn.example.com/100%.png", "100%.png"),
    ("https://cdn.example.com/%DF%20.png", "%DF%20.png"),
    ("https://cdn.example.com/%ED%A0%80.png", "%ED%A0%80.png"),
    ("https://cdn.example.com/%F4%8F%BF%BF%C0%80.png", "%F4%8F%BF%BF%C0%80.png"),
    ("https://cdn.example.com/%F4%8F%BF%BF%E0%A0%80.png", "\U0010ffff\u0800.png"),
    ("https://cdn.example.com/%00%20.png", "%00 .png"),
    ("http://img.example.com/media/x", "x"),
    ("//img.example.com/media/x", "x"),
    ("/uploads/x", "uploads/x"),
    ("uploads/x", "uploads/x"),
    ("https://elsewhere.example.com/x", None),
    ("//elsewhere.example.com/x", None),
    ("https://cdn.example.com/", None),
    ("", None),
    (None, None),
)


async def test_a_url_is_read_as_the_key_in_it(posts: World) -> None:
    """The key is the URL without base, query string and fragment, percent-decoded; a URL of another server has none."""
    for url, key in KEYS_OF_URLS:
        await posts.sql("DELETE FROM {schema}.posts")
        await posts.sql("INSERT INTO {schema}.posts (image) VALUES ($1)", url)

        assert await keys_of(posts, key="image", url=CDN) == ([] if key is None else [key]), url


async def test_a_url_in_another_form_keeps_its_object_as_a_near_match(posts: World) -> None:
    """URLs with an undeclared base, or with an unencoded key, keep their objects."""
    kept = {
        "https://forgotten.example.com/1.png?v=2": "1.png",
        "https://forgotten.example.com/a/2.png?v=2": "2.png",
        "http://cdn.example.com/media/a/%203.png": "a/ 3.png",
        "https://cdn.example.com/4 #1.png": "4 #1.png",
        "https://cdn.example.com/5?.png": "5?.png",
        "https://forgotten.example.com/a/6 #1.png": "6 #1.png",
        "/7 #1.png": "7 #1.png",
    }
    await posts.put("gone.png")
    await posts.pair("live.png")
    for url, key in kept.items():
        await posts.put(key)
        await posts.sql("INSERT INTO {schema}.posts (image) VALUES ($1)", url)
    posts.config = generous([*posts.config.sources, source(posts, key="image", url=CDN)])

    report = await posts.runs(DAY, 8 * DAY)

    assert (report.state, report.deleted) == ("completed", 1)
    assert await posts.keys() == sorted([*kept.values(), "live.png"])
    found = await list_findings(posts.executor, kind="near_match")
    assert sorted(finding.key for finding in found) == sorted(kept.values())


async def test_an_array_names_each_of_its_keys(posts: World) -> None:
    """Every element of an array is a reference, as a key or as a URL."""
    await posts.sql(
        "INSERT INTO {schema}.posts (gallery) VALUES ($1), (NULL), ('{}')",
        ["b", "https://cdn.example.com/a%20a", None],
    )

    assert await keys_of(posts, key="gallery", array=True, url=CDN) == ["a a", "b"]


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("$.cover", ["c"]),
        ('$."two words".key', ["o"]),
        ("$.files[*].key", ["f1", "f2"]),
        ("$.tags[*]", ["t1", "t2"]),
        ('$.files[*] ? (@.kind == "it\'s").key', ["f2"]),
        ("strict $.**.key", ["f1", "f2", "o"]),
        ("$.nowhere", []),
    ],
)
async def test_a_path_leads_to_keys_in_json(posts: World, path: str, keys: list[str]) -> None:
    """A path reads one value or all elements, in jsonb and in json; a row without a value there names no object."""
    document = (
        '{"cover": "c", "two words": {"key": "o"}, "tags": ["t1", "t2"], '
        '"files": [{"key": "f1"}, {"key": "f2", "kind": "it\'s"}, {"key": null}]}'
    )
    await posts.sql(
        "INSERT INTO {schema}.posts (body, old) VALUES ($1::text::jsonb, $1::text::json)", document
    )
    await posts.sql("INSERT INTO {schema}.posts (body, old) VALUES ('[]', '5'), (NULL, NULL)")

    assert await keys_of(posts, key="body", json=path) == keys
    assert await keys_of(posts, key="old", json=path) == keys


async def test_a_select_reads_the_keys_of_several_tables(posts: World) -> None:
    """A UNION ALL over two tables names the keys of both."""
    await posts.row("b")
    await posts.sql("INSERT INTO {schema}.posts (image) VALUES ('a'), ('c')")
    union = f"SELECT key FROM {posts.schema}.uploads UNION ALL SELECT image FROM {posts.schema}.posts"

    assert await keys_of(posts, table=None, select=union) == ["a", "b", "c"]


async def test_a_select_reads_keys_from_urls_json_and_arrays(world: World) -> None:
    """A SELECT can extract keys from a URL, a JSON field and a JSON array."""
    await world.sql(
        "INSERT INTO {schema}.uploads (key, note) VALUES "
        '(\'https://cdn.example.com/a\', \'{"keys": ["b", "c"], "cover": "d"}\')'
    )
    uploads = f"{world.schema}.uploads"
    selects = {
        "url": f"SELECT regexp_replace(key, '^https://[^/]+/', '') AS key FROM {uploads}",
        "array": f"SELECT jsonb_array_elements_text(note -> 'keys') AS key FROM {uploads}",
        "json": f"SELECT note ->> 'cover' AS key FROM {uploads}",
    }
    sources = tuple(ReferenceSource(name=name, select=select) for name, select in selects.items())
    references = await open_references(world.executor, OrphansConfig(sources=sources))

    read = await references.read_range("", None)

    assert read.ready_keys == ["a", "b", "c", "d"]
    assert sorted(await references.rows_by_key(["a", "b", "c", "d", "e"])) == ["a", "b", "c", "d"]


async def test_only_columns_of_plain_keys_give_partition_bounds(posts: World) -> None:
    """Values of URLs, arrays and sources with `prepend` have another order than the keys, so they give no bounds."""
    await fill(posts, 1_000)
    await posts.sql("ANALYZE {schema}.posts")
    others: list[dict[str, Any]] = [
        {"name": "url", "key": "image", "url": CDN},
        {"name": "prefix", "key": "image", "prepend": "media/"},
        {"name": "array", "key": "gallery", "array": True},
    ]
    bare = source(posts, key="image")
    config = OrphansConfig(sources=(bare, *(source(posts, **changes) for changes in others)))

    assert len(await _key_bounds(posts.executor, config)) == 1
