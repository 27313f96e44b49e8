"""The search for undeclared references before a run removes objects."""

from __future__ import annotations

import contextlib
import html
import json
import unicodedata
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from adversary import ChaosExecutor
from posts import source
from world import DAY, World, generous

from millhand.driver.protocol import Executor
from millhand.errors import DriverError
from millhand.orphans import reconcile
from millhand.orphans.removal.undeclared import unescaped_part, written_forms

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
KEY = "uploads/2026/report (final).pdf"
UNUSUAL = "uploads/2026/résumé & report (final).pdf"
TYPES = (
    "DROP DOMAIN IF EXISTS {schema}.document, {schema}.names CASCADE",
    "DROP TYPE IF EXISTS {schema}.attachment CASCADE",
    "CREATE DOMAIN {schema}.document AS jsonb",
    "CREATE DOMAIN {schema}.names AS text[]",
    "CREATE TYPE {schema}.attachment AS (number int, name text)",
)


async def due(world: World, *keys: str) -> None:
    """Put objects that are due in the next run, beside a live one."""
    await world.pair("live")
    for key in keys or (KEY,):
        await world.put(key)
    await world.run(after=2 * HOUR)
    world.now += WEEK


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("text", f"'{KEY}'"),
        ("varchar(200)", f"'https://cdn.example.com/{KEY}?v=2'"),
        ("jsonb", f"""'{{"files": [{{"path": "{KEY}"}}]}}'"""),
        ("json", f"""'{{"files": ["{KEY}"]}}'"""),
        ("text[]", f"ARRAY['x', '{KEY}']"),
        ("text", f"'<img src=\"/{KEY}\"> and so on'"),
        ("text", f"'the file is {KEY}.'"),
    ],
    ids=["text", "url", "jsonb", "json", "array", "html", "sentence"],
)
async def test_mastodon_30281_and_discourse_12326_an_undeclared_reference_stops_the_removal(
    world: World, column: str, value: str
) -> None:
    """If a key occurs anywhere in the database, the run names table and column, and removes nothing."""
    await due(world)
    await world.sql(f"CREATE TABLE {{schema}}.posts (id int, body {column})")
    await world.sql(f"INSERT INTO {{schema}}.posts VALUES (1, NULL), (2, {value})")

    report = await world.run()

    assert (report.state, report.deleted, report.not_removed) == ("aborted", 0, 1)
    assert report.abort_reasons == (
        (
            f"every reference must be declared, got {KEY!r} in {world.schema}.posts.body, which no source covers; declare "
            "it in [[orphans.sources]], or list 'posts.body' in orphans.not_references if it does not need the object"
        ),
    )
    assert await world.keys() == ["live", KEY]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("json", json.dumps({"file": UNUSUAL})),
        ("text", json.dumps({"file": UNUSUAL}, ensure_ascii=False).replace("/", "\\/")),
        ("text", f'<img src="/{quote(UNUSUAL)}">'),
        ("text", f'<img src="/{quote(UNUSUAL, safe="/(&)")}?v=2">'),
        ("text", f'<img src="https://host.example/o/{quote(UNUSUAL, safe="")}?alt=media">'),
        ("text", f'<img src="/{html.escape(UNUSUAL)}">'),
        ("text", f"file={quote_plus(UNUSUAL, safe='/')}"),
        ("text", unicodedata.normalize("NFD", UNUSUAL)),
        ("{schema}.document", json.dumps({"file": UNUSUAL})),
        ("{schema}.names", f'{{"{UNUSUAL}"}}'),
        (
            "{schema}.document[]",
            "{" + json.dumps(json.dumps({"file": UNUSUAL}, ensure_ascii=False), ensure_ascii=False) + "}",
        ),
        ("{schema}.attachment", f'(1,"{UNUSUAL}")'),
        ("{schema}.attachment[]", f'{{"(1,\\"{UNUSUAL}\\")"}}'),
    ],
    ids=[
        "json of Python",
        "json of PHP",
        "url",
        "url of a browser",
        "url with slashes encoded",
        "html",
        "form",
        "normalisation",
        "domain of json",
        "domain of an array",
        "array of a domain",
        "row type",
        "array of a row type",
    ],
)
async def test_an_escaped_reference_stops_the_removal(world: World, column: str, value: str) -> None:
    """The search finds keys in escapes of JSON, URLs and HTML, and in every type of column."""
    await due(world, UNUSUAL)
    for one in TYPES:
        await world.sql(one)
    await world.sql(f"CREATE TABLE {{schema}}.posts (id int, body {column})")
    await world.sql(f"INSERT INTO {{schema}}.posts SELECT 1, $1::text::{column}", value)

    report = await world.run()

    assert (report.state, report.deleted) == ("aborted", 0)
    assert report.abort_reasons[0].startswith(
        f"every reference must be declared, got {UNUSUAL!r} in {world.schema}.posts.body, "
    )
    assert await world.keys() == ["live", UNUSUAL]


async def test_a_table_with_a_name_like_ours_is_searched(world: World) -> None:
    """The search leaves out River's own tables, not others whose name begins with river."""
    await due(world)
    await world.sql("CREATE TABLE {schema}.river_photos (key text)")
    await world.sql(f"INSERT INTO {{schema}}.river_photos VALUES ('{KEY}')")

    report = await world.run()

    assert report.state == "aborted"
    assert f"{world.schema}.river_photos.key" in report.abort_reasons[0]


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("uploads/größe (1).jpg", "uploads/gr"),
        (unicodedata.normalize("NFD", "uploads/café.jpg"), ".jpg"),
        ("a%2Fbc/d&e\\/fghi", "/fghi"),
        ("ключ", ""),
    ],
)
def test_the_unescaped_part_is_in_every_written_form(key: str, part: str) -> None:
    """The part of a key that the search compares first occurs in every written form of the key."""
    assert unescaped_part(key) == part
    assert all(part in name for name in written_forms(key))


async def test_a_foreign_table_that_cannot_be_read_stops_the_removal(world: World) -> None:
    """A foreign table is searched too, and an error never counts as no reference."""
    await due(world)
    await world.sql("CREATE FOREIGN DATA WRAPPER millhand_test_far")
    try:
        await world.sql("CREATE SERVER millhand_test_server FOREIGN DATA WRAPPER millhand_test_far")
        await world.sql("CREATE FOREIGN TABLE {schema}.posts (body text) SERVER millhand_test_server")
        report = await world.run()
    finally:
        await world.sql("DROP FOREIGN DATA WRAPPER millhand_test_far CASCADE")

    assert (report.state, report.deleted) == ("aborted", 0)
    assert f"table {world.schema}.posts must be searched for undeclared references" in report.abort_reasons[0]


async def test_a_foreign_table_with_an_unreachable_server_stops_the_removal(world: World) -> None:
    """If the server behind a foreign table is unreachable, the run names the table and does not end with an outage."""
    await due(world)
    await world.sql("CREATE EXTENSION IF NOT EXISTS postgres_fdw")
    try:
        await world.sql(
            "CREATE SERVER millhand_test_away FOREIGN DATA WRAPPER postgres_fdw"
            " OPTIONS (host '127.0.0.1', port '1', dbname 'away')"
        )
        await world.sql("CREATE USER MAPPING FOR CURRENT_USER SERVER millhand_test_away OPTIONS (user 'ann')")
        await world.sql("CREATE FOREIGN TABLE {schema}.posts (body text) SERVER millhand_test_away")
        report = await world.run()
    finally:
        await world.sql("DROP EXTENSION postgres_fdw CASCADE")

    assert (report.state, report.deleted) == ("aborted", 0)
    assert f"table {world.schema}.posts must be searched for undeclared references" in report.abort_reasons[0]


@pytest.mark.parametrize("excluded", ["posts", "posts.body"])
async def test_a_table_in_not_references_is_not_searched(world: World, excluded: str) -> None:
    """An audit log that mentions every key can be excluded, by table or by column."""
    await due(world)
    await world.sql("CREATE TABLE {schema}.posts (id int, body text)")
    await world.sql(f"INSERT INTO {{schema}}.posts VALUES (1, 'deleted {KEY}')")

    report = await world.run(not_references=(excluded,))

    assert (report.state, report.deleted) == ("completed", 1)


async def test_a_key_within_a_longer_name_is_no_hit(world: World) -> None:
    """Longer keys, files with another extension, and short keys within words are no hits."""
    await due(world, "uploads/1", "a")
    await world.sql("CREATE TABLE {schema}.posts (body text)")
    await world.sql(
        "INSERT INTO {schema}.posts VALUES ('uploads/10'), ('uploads/1.png'), ('my-uploads/1'), ('a word')"
    )

    report = await world.run()

    assert (report.state, report.deleted) == ("completed", 2)


async def test_a_key_with_pattern_characters_is_searched_literally(world: World) -> None:
    """Per cent, underscore, backslash and brackets in a key match only themselves."""
    key = "keys/100%_[a]\\(b)+.png"
    await due(world, key)
    await world.sql("CREATE TABLE {schema}.posts (body text)")
    await world.sql("INSERT INTO {schema}.posts (body) VALUES ($1)", "keys/100xxx[a]\\(b)+.png")
    near = await world.run(max_share=0.0)
    await world.sql("INSERT INTO {schema}.posts (body) VALUES ($1)", f"see {key}")

    report = await world.run()

    assert "max_share" in near.abort_reasons[0]
    assert report.abort_reasons[0].startswith(f"every reference must be declared, got {key!r} in ")


async def test_the_other_columns_of_a_source_are_searched(world: World) -> None:
    """A second column of a declared table is searched like any other."""
    await due(world)
    await world.sql("ALTER TABLE {schema}.uploads ADD COLUMN thumbnail text")
    await world.sql("UPDATE {schema}.uploads SET thumbnail = $1", KEY)

    report = await world.run()

    assert report.state == "aborted"
    assert f"{world.schema}.uploads.thumbnail" in report.abort_reasons[0]


async def test_the_search_runs_once_a_day(world: World) -> None:
    """The runs of one day share one search."""
    await due(world, "first.pdf", "second.pdf")
    await world.run(max_objects=10)
    await world.sql("CREATE TABLE {schema}.posts (body text)")
    await world.sql("INSERT INTO {schema}.posts VALUES ('third.pdf')")
    await world.put("third.pdf")
    await world.run(after=2 * HOUR)

    searched = await world.run(after=WEEK)

    assert (searched.state, searched.deleted) == ("aborted", 0)
    at = await world.sql("SELECT searched_at FROM {schema}.millhand_orphan_binding")
    assert at[0]["searched_at"] == world.now - WEEK - 2 * HOUR
    await world.sql("DROP TABLE {schema}.posts")
    assert (await world.run(after=DAY)).deleted == 1


class Hiding(ChaosExecutor):
    """A database with a table whose rows a policy hides from us."""

    async def fetch(self, sql: str, params: Sequence[Any] = (), **options: Any) -> list[dict[str, Any]]:
        if "LIKE ANY" in sql and '"posts"' in sql:
            raise DriverError("SELECT", "query would be affected by row-level security policy")
        return await super().fetch(sql, params, **options)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        async with super().begin() as tx:
            yield Hiding(tx, _nothing)


async def _nothing(operation: str) -> None:
    """Do nothing."""


async def test_a_table_that_cannot_be_searched_stops_the_removal(world: World) -> None:
    """A policy that hides rows, or an error, never counts as a table without references."""
    await due(world)
    await world.sql("CREATE TABLE {schema}.posts (body text)")

    report = await reconcile(Hiding(world.executor, _nothing), world.store, world.config, now=world.now)

    assert report.abort_reasons == (
        (
            f"table {world.schema}.posts must be searched for undeclared references, got SELECT must succeed, got "
            "query would be affected by row-level security policy; make it readable, or list 'posts' in "
            "orphans.not_references"
        ),
    )
    assert await world.keys() == ["live", KEY]


async def test_json_is_searched_outside_the_declared_path(posts: World) -> None:
    """A key elsewhere in the JSON of a declared column is an undeclared reference."""
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
