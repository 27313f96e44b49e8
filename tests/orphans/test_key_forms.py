"""Keys as users have them: in URLs, JSON, arrays, several tables, behind a prefix; each declared and read by range."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from world import DAY, World, generous

from millhand.errors import ConfigError
from millhand.orphans import OrphansConfig, ReferenceSource, list_findings
from millhand.orphans.scan.partitions import _key_bounds
from millhand.orphans.sources.references import References, open_references
from millhand.orphans.sources.statements import stretch

TABLES = """
CREATE TABLE IF NOT EXISTS {schema}.posts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    image text,
    link varchar(200),
    title name,
    gallery text[],
    body jsonb,
    old json,
    deleted_at timestamptz
)
"""
CDN = ("https://cdn.example.com/", "//img.example.com/media/")


@pytest.fixture
async def posts(world: World) -> World:
    """The world with a table of posts, empty."""
    await world.sql(TABLES)
    await world.sql("TRUNCATE {schema}.posts")
    return world


def source(world: World, **changes: Any) -> ReferenceSource:
    """The posts as a source."""
    return ReferenceSource(**{"name": "posts", "table": f"{world.schema}.posts", "min_rows": 0} | changes)


async def opened(world: World, **changes: Any) -> References:
    """Open the posts as the only source."""
    return await open_references(world.executor, OrphansConfig(sources=(source(world, **changes),)))


async def keys_of(world: World, **changes: Any) -> list[str]:
    """Return all keys that the posts name, read by range, after asking for each of them by name."""
    references = await opened(world, **changes)
    keys = (await references.read_range("", None)).ready_keys
    assert sorted(await references.rows_by_key(keys)) == sorted(set(keys))
    return keys


@pytest.mark.parametrize(
    ("url", "key"),
    [
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
    ],
)
async def test_a_url_is_read_as_the_key_in_it(posts: World, url: str | None, key: str | None) -> None:
    """Base, query string and fragment go, escapes are decoded as UTF-8, and other servers name nothing here."""
    await posts.sql("INSERT INTO {schema}.posts (image) VALUES ($1)", url)

    assert await keys_of(posts, key="image", url=CDN) == ([] if key is None else [key])


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://forgotten.example.com/kept.png?v=2", "kept.png"),
        ("https://forgotten.example.com/a/kept.png?v=2", "kept.png"),
        ("http://cdn.example.com/media/a/Kept%20.png", "a/kept .png"),
        ("https://cdn.example.com/kept #1.png", "kept #1.png"),
        ("https://cdn.example.com/kept?.png", "kept?.png"),
        ("https://forgotten.example.com/a/kept #1.png", "kept #1.png"),
        ("/kept #1.png", "kept #1.png"),
    ],
)
async def test_a_url_that_writes_a_key_otherwise_keeps_its_object_as_a_near_miss(
    posts: World, url: str, key: str
) -> None:
    """A base that was forgotten, with a path or without, or a key that was not encoded, costs nobody an object."""
    await posts.put(key)
    await posts.put("gone.png")
    await posts.pair("live.png")
    await posts.sql("INSERT INTO {schema}.posts (image) VALUES ($1)", url)
    posts.config = generous([*posts.config.sources, source(posts, key="image", url=CDN)])

    report = await posts.runs(DAY, 8 * DAY)

    assert (report.state, report.deleted) == ("completed", 1)
    assert await posts.keys() == [key, "live.png"]
    found = await list_findings(posts.executor, kind="near_match")
    assert [finding.key for finding in found] == [key]


async def test_json_is_searched_beside_the_path_that_was_declared(posts: World) -> None:
    """A key that stands elsewhere in the same JSON is a reference that nobody declared: nothing goes, and it is named."""
    await posts.pair("live.png")
    await posts.put("cover.png")
    await posts.put("attached.png")
    document = '{"cover": "cover.png", "more": {"file": "attached.png"}}'
    await posts.sql("INSERT INTO {schema}.posts (body) VALUES ($1::text::jsonb)", document)
    posts.config = generous([*posts.config.sources, source(posts, key="body", json="$.cover")])

    report = await posts.runs(DAY, 8 * DAY)

    assert (report.state, report.deleted) == ("aborted", 0)
    assert f"got 'attached.png' in {posts.schema}.posts.body" in report.abort_reasons[0]
    assert await posts.keys() == ["attached.png", "cover.png", "live.png"]


async def test_only_columns_of_bare_keys_say_where_to_cut_a_bucket(posts: World) -> None:
    """URLs, arrays and names behind a prefix lie elsewhere in the order of keys than the objects that they name."""
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


async def test_an_array_names_each_of_its_keys(posts: World) -> None:
    """Every element of an array is a reference, be it a key or a URL."""
    await posts.sql(
        "INSERT INTO {schema}.posts (gallery) VALUES ($1), (NULL), ('{}')",
        ["b", "https://cdn.example.com/a%20a", None],
    )

    assert await keys_of(posts, key="gallery", array=True, url=CDN) == ["a a", "b"]


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("$.cover", ["c"]),
        ('$."odd name".key', ["o"]),
        ("$.files[*].key", ["f1", "f2"]),
        ("$.tags[*]", ["t1", "t2"]),
        ('$.files[*] ? (@.kind == "it\'s").key', ["f2"]),
        ("strict $.**.key", ["f1", "f2", "o"]),
        ("$.nowhere", []),
    ],
)
async def test_a_path_leads_to_keys_in_json(posts: World, path: str, keys: list[str]) -> None:
    """A path reads one value or all elements, in jsonb as in json; what has nothing there names nothing."""
    document = (
        '{"cover": "c", "odd name": {"key": "o"}, "tags": ["t1", "t2"], '
        '"files": [{"key": "f1"}, {"key": "f2", "kind": "it\'s"}, {"key": null}]}'
    )
    await posts.sql(
        "INSERT INTO {schema}.posts (body, old) VALUES ($1::text::jsonb, $1::text::json)", document
    )
    await posts.sql("INSERT INTO {schema}.posts (body, old) VALUES ('[]', '5'), (NULL, NULL)")

    assert await keys_of(posts, key="body", json=path) == keys
    assert await keys_of(posts, key="old", json=path) == keys


@pytest.mark.parametrize(
    ("document", "path", "kind"),
    [
        ('{"cover": ["a", "b"]}', "$.cover", "array"),
        ('{"cover": {"key": "a"}}', "$.cover", "object"),
        ('{"cover": [{"key": "a"}]}', "$.cover.key", "texts in an array"),
        ('{"files": [{"key": "a"}]}', "$.files[*]", "object"),
        ('{"files": [["a"]]}', "$.files[*]", "array"),
    ],
)
async def test_a_path_that_leads_to_no_text_is_refused(
    posts: World, document: str, path: str, kind: str
) -> None:
    """Keys that a path stops short of would be nobody's, so what it leads to is looked at before anything is judged."""
    await posts.sql(
        'INSERT INTO {schema}.posts (body) VALUES (NULL), (\'{"cover": "c"}\'), ($1::text::jsonb)', document
    )

    with pytest.raises(ConfigError) as refused:
        await opened(posts, key="body", json=path)

    assert str(refused.value) == (
        f"json of orphans source 'posts' must lead to texts, got {kind} at {path!r} of some row; "
        "write [*] after an array, and the name in an object"
    )


async def test_what_is_put_in_front_belongs_to_the_key(posts: World) -> None:
    """With `prepend`, rows name objects below it, and an empty value names nothing."""
    for name in ("a", "b", "z", ""):
        await posts.sql("INSERT INTO {schema}.posts (image) VALUES ($1)", name)
    references = await opened(posts, key="image", prepend="media/")

    reads = [
        (await references.read_range(low, high)).ready_keys
        for low, high in (("", None), ("media/a", "media/b"), ("a", "media/"), ("media0", None), ("", "m"))
    ]

    assert reads == [["media/a", "media/b", "media/z"], ["media/b"], [], [], []]
    assert sorted(await references.rows_by_key(["a", "media/", "media/a"])) == ["media/a"]
    assert sorted(await references.sample_keys("posts", prefix="media/b", limit=5)) == ["media/b"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        ("", None, ("", None)),
        ("a", "z", ("", None)),
        ("m/a", "m/b", ("a", "b")),
        ("m/", "m0", ("", None)),
        ("a", "m/", ("", "")),
        ("m0", None, ("", "")),
        ("a", "b", ("", "")),
    ],
)
def test_a_stretch_of_keys_is_one_of_values(
    low: str, high: str | None, expected: tuple[str, str | None]
) -> None:
    """What lies before or after everything that begins with the prefix is empty or open, never wrong."""
    assert stretch("m/", low, high) == expected


async def test_several_tables_in_union_are_one_source(posts: World) -> None:
    """A SELECT over several tables names the keys of all of them."""
    await posts.row("b")
    await posts.sql("INSERT INTO {schema}.posts (image) VALUES ('a'), ('c')")
    union = f"SELECT key FROM {posts.schema}.uploads UNION ALL SELECT image FROM {posts.schema}.posts"

    assert await keys_of(posts, table=None, select=union) == ["a", "b", "c"]


async def test_rows_that_are_soft_deleted_refer_until_their_retention_is_over(posts: World) -> None:
    """A `deleted_at` alone changes nothing; declared as soft-deleted, a row goes after its time, with its object."""
    for name in ("old.png", "young.png", "live.png"):
        await posts.put(name)
        await posts.sql("INSERT INTO {schema}.posts (image) VALUES ($1)", name)
    await posts.sql("UPDATE {schema}.posts SET deleted_at = $1 WHERE image = 'old.png'", posts.now - 31 * DAY)
    await posts.sql("UPDATE {schema}.posts SET deleted_at = $1 WHERE image = 'young.png'", posts.now - DAY)

    posts.config = generous([source(posts, key="image", deleted_at="deleted_at")])
    await posts.runs(DAY, 8 * DAY)
    before = await posts.keys()
    posts.config = generous(
        [source(posts, key="image", deleted_at="deleted_at", soft_deleted="deleted_at IS NOT NULL")]
    )
    await posts.runs(DAY, DAY)

    assert before == ["live.png", "old.png", "young.png"]
    assert await posts.keys() == ["live.png", "young.png"]


INDEXED: list[tuple[str, dict[str, Any]]] = [
    ('(image COLLATE "C")', {"key": "image"}),
    ('(image COLLATE "C")', {"key": "image", "prepend": "media/"}),
    ('(link COLLATE "C")', {"key": "link"}),
    ('((title::text) COLLATE "C")', {"key": "title"}),
    ("((body #>> ARRAY['cover']) COLLATE \"C\")", {"key": "body", "json": "$.cover"}),
]


@pytest.mark.parametrize(("index", "changes"), INDEXED, ids=lambda value: str(value)[:30])
async def test_a_page_is_one_range_of_an_index(posts: World, index: str, changes: dict[str, Any]) -> None:
    """With the index that we advise, a page costs one range of it, by key as by range, and nobody is warned."""
    await fill(posts)
    await posts.sql("CREATE INDEX millhand_test_index ON {schema}.posts " + index)
    await posts.sql("ANALYZE {schema}.posts")

    plans = await plans_of(await opened(posts, **changes))

    await posts.sql("DROP INDEX {schema}.millhand_test_index")
    assert all("millhand_test_index" in plan and "Seq Scan" not in plan for plan in plans), plans
    assert "Sort" not in plans[0], plans[0]


async def test_a_union_is_read_by_the_index_of_each_table(posts: World) -> None:
    """The range reaches into each table of a union: ranges of indexes, merged, and no table read whole."""
    await fill(posts)
    await posts.sql('CREATE INDEX millhand_test_index ON {schema}.posts (image COLLATE "C")')
    await posts.sql(
        "INSERT INTO {schema}.uploads (key) SELECT 'image ' || n FROM generate_series(1, 20000) AS n"
    )
    await posts.sql('CREATE INDEX millhand_test_index_2 ON {schema}.posts (link COLLATE "C")')
    await posts.sql("ANALYZE {schema}.posts")
    await posts.sql("ANALYZE {schema}.uploads")
    parts = [("key", "uploads"), ("image", "posts"), ("link", "posts")]
    union = " UNION ALL ".join(
        f'SELECT {column}::text COLLATE "C" AS key FROM {posts.schema}.{table}' for column, table in parts
    )
    plans_of_one_type = await plans_of(
        await opened(
            posts, table=None, select=union.rpartition(" UNION ALL ")[0].replace('::text COLLATE "C"', "")
        )
    )

    plans = await plans_of(await opened(posts, table=None, select=union))

    await posts.sql("DROP INDEX {schema}.millhand_test_index")
    await posts.sql("DROP INDEX {schema}.millhand_test_index_2")
    for plan in plans:
        assert "millhand_test_index " in plan, plan
        assert "millhand_test_index_2" in plan, plan
        assert "uploads_key_idx" in plan, plan
        assert "Seq Scan" not in plan, plan
    assert not any("Seq Scan" in plan for plan in plans_of_one_type), plans_of_one_type


@pytest.mark.slow
async def test_the_advised_function_makes_urls_as_fast_as_keys(
    posts: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A large table of URLs is warned of with statements that, run as they are, make each page a range of an index."""
    await fill(posts, 150_000)
    await posts.sql("ANALYZE {schema}.posts")
    with caplog.at_level(logging.WARNING):
        slow = await opened(posts, key="image", url=CDN)
    advice = str(vars(caplog.records[0])["reason"])
    function, index, _ = advice.replace("CONCURRENTLY ON", "millhand_test_index ON").split("; ")

    await posts.sql(function)
    await posts.sql(index)
    await posts.sql("ANALYZE {schema}.posts")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        fast = await opened(posts, key="image", function="millhand_key_of_posts")
    plans = await plans_of(fast)
    reads = [
        (await references.read_range("image 1000", "image 1003")).ready_keys for references in (slow, fast)
    ]

    await posts.sql("DROP INDEX {schema}.millhand_test_index")
    await posts.sql("DROP FUNCTION millhand_key_of_posts")
    await posts.sql("TRUNCATE {schema}.posts")
    assert advice.endswith('; and declare function = "millhand_key_of_posts" in place of url')
    assert caplog.records == []
    assert all("millhand_test_index" in plan and "Seq Scan" not in plan for plan in plans), plans
    assert reads[0] == reads[1]
    assert len(reads[0]) > 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"table": "{schema}.post"},
            (
                "table of orphans source 'posts' must be a table that we can see, "
                "got '{schema}.post'; did you mean '{schema}.posts'?"
            ),
        ),
        (
            {"key": "images"},
            (
                "key of orphans source 'posts' must be a column of '{schema}.posts', got 'images'; "
                "did you mean 'image'?"
            ),
        ),
        (
            {"key": "image", "size": "bytes_of_it"},
            (
                "size of orphans source 'posts' must be a column of '{schema}.posts', got 'bytes_of_it'; "
                "it has: 'id', 'image', 'link', 'title', 'gallery', 'body', 'old', 'deleted_at'"
            ),
        ),
        (
            {"key": "id"},
            (
                "key of orphans source 'posts' must be a column of text, got 'id' of type uuid; "
                'use select, and "id"::text AS key'
            ),
        ),
        (
            {"key": "gallery"},
            (
                "key of orphans source 'posts' must be a column of text, got 'gallery' of type text[]; "
                "say array = true"
            ),
        ),
        (
            {"key": "body"},
            (
                "key of orphans source 'posts' must be a column of text, got 'body' of type jsonb; "
                'say where in it the keys are: json = "$.key"'
            ),
        ),
        (
            {"key": "image", "json": "$.a"},
            (
                "key of orphans source 'posts' must be a column of json or jsonb where json is given, "
                "got 'image' of type text"
            ),
        ),
        (
            {"key": "image", "array": True},
            (
                "key of orphans source 'posts' must be an array of text where array = true, "
                "got 'image' of type text"
            ),
        ),
        (
            {"key": "image", "deleted_at": "image"},
            (
                "deleted_at of orphans source 'posts' must be a column of dates or times, "
                "got 'image' of type text"
            ),
        ),
        (
            {"key": "image", "function": "nowhere"},
            (
                "function of orphans source 'posts' must be a function of one text that returns text, got 'nowhere'; "
                "make it, IMMUTABLE if it is to have an index"
            ),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
async def test_a_declaration_that_the_catalog_denies_is_refused(
    posts: World, changes: dict[str, Any], message: str
) -> None:
    """A table, column or type that is not as declared is named before anything is judged, with what is there."""
    told = {
        key: value.replace("{schema}", posts.schema) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    with pytest.raises(ConfigError) as refused:
        await opened(posts, **told)

    assert str(refused.value) == message.replace("{schema}", posts.schema)


async def fill(world: World, num_rows: int = 20_000) -> None:
    """Insert many posts, each with one key of each kind."""
    await world.sql(
        "INSERT INTO {schema}.posts (image, link, title, body) "
        "SELECT 'image ' || n, 'image ' || n, 'image ' || n, jsonb_build_object('cover', 'image ' || n) "
        "FROM generate_series(1, $1::integer) AS n",
        num_rows,
    )


async def plans_of(references: References) -> list[str]:
    """Return the plans of a page by range and by key."""
    statements = references._statements["posts"]
    prepend = statements.source.prepend
    plans = []
    for sql, params in (
        statements.range_sql(f"{prepend}image 1", f"{prepend}image 2", 1_000),
        statements.match_sql([f"{prepend}image 1", f"{prepend}image 2"]),
    ):
        rows = await references._executor.fetch(f"EXPLAIN {sql}", params)
        plans.append("\n".join(row["QUERY PLAN"] for row in rows))
    return plans
