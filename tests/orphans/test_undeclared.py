"""Kinds of reference that nobody declared: they are looked for before anything is removed."""

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
from world import DAY, World

from millhand.driver.protocol import Executor
from millhand.errors import DriverError
from millhand.orphans import reconcile
from millhand.orphans.removal.undeclared import unescaped, written

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
KEY = "uploads/2026/report (final).pdf"
ODD = "uploads/2026/résumé & report (final).pdf"
TYPES = (
    "DROP DOMAIN IF EXISTS {schema}.document, {schema}.names CASCADE",
    "DROP TYPE IF EXISTS {schema}.attachment CASCADE",
    "CREATE DOMAIN {schema}.document AS jsonb",
    "CREATE DOMAIN {schema}.names AS text[]",
    "CREATE TYPE {schema}.attachment AS (number int, name text)",
)


async def due(world: World, *keys: str) -> None:
    """Objects that are due in the next run, beside a live one."""
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
async def test_mastodon_30281_and_discourse_12326_a_kind_of_reference_that_nobody_declared_stops_all(
    world: World, column: str, value: str
) -> None:
    """A key that stands anywhere in the database refuses the run, with table and column, and nothing is removed."""
    await due(world)
    await world.sql(f"CREATE TABLE {{schema}}.posts (id int, body {column})")
    await world.sql(f"INSERT INTO {{schema}}.posts VALUES (1, NULL), (2, {value})")

    report = await world.run()

    assert (report.state, report.deleted, report.not_removed) == ("aborted", 0, 1)
    assert report.abort_reasons == (
        (
            f"every reference must be declared, got {KEY!r} in {world.schema}.posts.body, which no source covers; declare "
            "it in [[orphans.sources]], or, if it has no claim to the object, list 'posts.body' in orphans.not_references"
        ),
    )
    assert await world.keys() == ["live", KEY]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("json", json.dumps({"file": ODD})),
        ("text", json.dumps({"file": ODD}, ensure_ascii=False).replace("/", "\\/")),
        ("text", f'<img src="/{quote(ODD)}">'),
        ("text", f'<img src="/{quote(ODD, safe="/(&)")}?v=2">'),
        ("text", f'<img src="https://host.example/o/{quote(ODD, safe="")}?alt=media">'),
        ("text", f'<img src="/{html.escape(ODD)}">'),
        ("text", f"file={quote_plus(ODD, safe='/')}"),
        ("text", unicodedata.normalize("NFD", ODD)),
        ("{schema}.document", json.dumps({"file": ODD})),
        ("{schema}.names", f'{{"{ODD}"}}'),
        (
            "{schema}.document[]",
            "{" + json.dumps(json.dumps({"file": ODD}, ensure_ascii=False), ensure_ascii=False) + "}",
        ),
        ("{schema}.attachment", f'(1,"{ODD}")'),
        ("{schema}.attachment[]", f'{{"(1,\\"{ODD}\\")"}}'),
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
async def test_a_reference_that_is_written_as_its_place_demands_stops_all(
    world: World, column: str, value: str
) -> None:
    """Escapes of JSON, URLs and HTML hide no key from the search, and neither does the type of a column."""
    await due(world, ODD)
    for one in TYPES:
        await world.sql(one)
    await world.sql(f"CREATE TABLE {{schema}}.posts (id int, body {column})")
    await world.sql(f"INSERT INTO {{schema}}.posts SELECT 1, $1::text::{column}", value)

    report = await world.run()

    assert (report.state, report.deleted) == ("aborted", 0)
    assert report.abort_reasons[0].startswith(
        f"every reference must be declared, got {ODD!r} in {world.schema}.posts.body, "
    )
    assert await world.keys() == ["live", ODD]


async def test_a_table_of_an_application_that_is_about_rivers_is_searched(world: World) -> None:
    """What is left out are River's own tables, and none that only begins like them."""
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
def test_what_is_looked_for_first_stands_in_every_way_to_write_a_key(key: str, part: str) -> None:
    """No text that holds a key, however that is written, is left out for lack of the part that all ways share."""
    assert unescaped(key) == part
    assert all(part in name for name in written(key))


async def test_a_foreign_table_that_gives_no_answer_refuses_the_run(world: World) -> None:
    """Rows that live on another server are searched as all others, and no answer is not taken for a no."""
    await due(world)
    await world.sql("CREATE FOREIGN DATA WRAPPER millhand_test_far")
    try:
        await world.sql("CREATE SERVER millhand_test_server FOREIGN DATA WRAPPER millhand_test_far")
        await world.sql("CREATE FOREIGN TABLE {schema}.posts (body text) SERVER millhand_test_server")
        report = await world.run()
    finally:
        await world.sql("DROP FOREIGN DATA WRAPPER millhand_test_far CASCADE")

    assert (report.state, report.deleted) == ("aborted", 0)
    assert f"table {world.schema}.posts must be searched for references" in report.abort_reasons[0]


async def test_a_foreign_table_whose_server_is_away_refuses_the_run(world: World) -> None:
    """A server that ours does not reach is not ours: the run says which table, and does not take it for an outage."""
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
    assert f"table {world.schema}.posts must be searched for references" in report.abort_reasons[0]


@pytest.mark.parametrize("spared", ["posts", "posts.body"])
async def test_what_only_tells_of_keys_can_be_listed(world: World, spared: str) -> None:
    """An audit log that mentions every key ever uploaded has no claim to the objects."""
    await due(world)
    await world.sql("CREATE TABLE {schema}.posts (id int, body text)")
    await world.sql(f"INSERT INTO {{schema}}.posts VALUES (1, 'deleted {KEY}')")

    report = await world.run(not_references=(spared,))

    assert (report.state, report.deleted) == ("completed", 1)


async def test_a_key_that_is_part_of_another_is_no_hit(world: World) -> None:
    """Longer keys, other files beside it and short keys inside words are not taken for the key itself."""
    await due(world, "uploads/1", "a")
    await world.sql("CREATE TABLE {schema}.posts (body text)")
    await world.sql(
        "INSERT INTO {schema}.posts VALUES ('uploads/10'), ('uploads/1.png'), ('my-uploads/1'), ('a word')"
    )

    report = await world.run()

    assert (report.state, report.deleted) == ("completed", 2)


async def test_a_key_with_signs_of_patterns_is_looked_for_as_it_is(world: World) -> None:
    """Per cent, underscore, backslash and brackets in a key stand for themselves, and for nothing else."""
    odd = "odd/100%_[a]\\(b)+.png"
    await due(world, odd)
    await world.sql("CREATE TABLE {schema}.posts (body text)")
    await world.sql("INSERT INTO {schema}.posts (body) VALUES ($1)", "odd/100xxx[a]\\(b)+.png")
    near = await world.run(max_share=0.0)
    await world.sql("INSERT INTO {schema}.posts (body) VALUES ($1)", f"see {odd}")

    report = await world.run()

    assert "max_share" in near.abort_reasons[0]
    assert report.abort_reasons[0].startswith(f"every reference must be declared, got {odd!r} in ")


async def test_other_columns_of_a_source_are_searched_its_key_is_not(world: World) -> None:
    """A second column of the declared table may name an object too, and is undeclared as any other."""
    await due(world)
    await world.sql("ALTER TABLE {schema}.uploads ADD COLUMN thumbnail text")
    await world.sql("UPDATE {schema}.uploads SET thumbnail = $1", KEY)

    report = await world.run()

    assert report.state == "aborted"
    assert f"{world.schema}.uploads.thumbnail" in report.abort_reasons[0]


async def test_the_search_is_made_once_a_day_and_anew_for_new_sources(world: World) -> None:
    """Searching a whole database is dear: a day's runs share one, and a change of the sources forgets it."""
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
    """A database with a table whose rows a policy would hide from us."""

    async def fetch(self, sql: str, params: Sequence[Any] = (), **options: Any) -> list[dict[str, Any]]:
        if "LIKE ANY" in sql and '"posts"' in sql:
            raise DriverError("SELECT", "query would be affected by row-level security policy")
        return await super().fetch(sql, params, **options)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        async with super().begin() as tx:
            yield Hiding(tx, _nothing)


async def _nothing(operation: str) -> None:
    """Come between nothing."""


async def test_a_table_that_cannot_be_searched_refuses_the_run(world: World) -> None:
    """A policy that hides rows from us, or an error, is not taken for a table without references."""
    await due(world)
    await world.sql("CREATE TABLE {schema}.posts (body text)")

    report = await reconcile(Hiding(world.executor, _nothing), world.store, world.config, now=world.now)

    assert report.abort_reasons == (
        (
            f"table {world.schema}.posts must be searched for references that nobody declared, got SELECT must succeed, got "
            "query would be affected by row-level security policy; mend it, or list 'posts' in orphans.not_references"
        ),
    )
    assert await world.keys() == ["live", KEY]
