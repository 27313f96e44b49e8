"""The search for undeclared references before a run removes objects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from posts import CDN, source
from world import DAY, World, generous

from millhand.core.errors import ConfigError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.orphans import Mode
from millhand.orphans.ledger import finding_list
from repeats import first_of

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
KEY = "uploads/2026/report (final).pdf"
POSTS = "CREATE TABLE {schema}.posts (id int, body text)"
PARTS = """
CREATE TABLE {schema}.parts (key text) PARTITION BY LIST (key);
CREATE TABLE {schema}.part PARTITION OF {schema}.parts DEFAULT;
"""
# A type, and an expression of it that holds the text $1.
TYPES = {
    "text": "{}",
    "varchar(200)": "{}",
    "char(200)": "{}",
    "name": "{}",
    "json": "json_build_object('file', {})",
    "jsonb": "jsonb_build_object('file', {})",
    "text[]": "ARRAY['x', {}]",
    "varchar(200)[]": "ARRAY[ARRAY['x', {}]]",
    "jsonb[]": "ARRAY[jsonb_build_object('file', {})]",
    "bytea": "convert_to('<' || {} || '>', 'UTF8')",
    "pg_catalog.bytea": "decode(regexp_replace(encode(convert_to({}, 'UTF8'), 'hex'), '(..)', '\\100', 'g'), 'hex')",
    "bytea[]": "ARRAY[convert_to({}, 'UTF8')]",
    "tsvector": "to_tsvector('simple', {})",
    "jsonpath": "('$.\"' || {} || '\"')::jsonpath",
    "hstore": "hstore('file', {})",
    "citext": "{}",
    "{schema}.document": "jsonb_build_object('file', {})",
    "{schema}.names": "ARRAY['x', {}]",
    "{schema}.document[]": "ARRAY[jsonb_build_object('file', {})::{schema}.document]",
    "{schema}.attachment": "ROW(1, {})::{schema}.attachment",
    "{schema}.attachment[]": "ARRAY[ROW(1, {})::{schema}.attachment]",
    "{schema}.blob": "ROW(convert_to({}, 'UTF8'))::{schema}.blob",
    "{schema}.label": "{}::{schema}.label",
    "{schema}.label[]": "ARRAY[{}::{schema}.label]",
    "{schema}.text_range": "{schema}.text_range({}, 'zz')",
}
MAKE_TYPES = """
CREATE EXTENSION IF NOT EXISTS hstore;
CREATE EXTENSION IF NOT EXISTS citext;
DROP TABLE IF EXISTS {schema}.kinds;
DROP DOMAIN IF EXISTS {schema}.document, {schema}.names;
DROP TYPE IF EXISTS {schema}.attachment, {schema}.blob, {schema}.label, {schema}.text_range;
CREATE DOMAIN {schema}.document AS jsonb;
CREATE DOMAIN {schema}.names AS text[];
CREATE TYPE {schema}.attachment AS (number int, name text);
CREATE TYPE {schema}.blob AS (data bytea);
CREATE TYPE {schema}.label AS ENUM ({labels});
CREATE TYPE {schema}.text_range AS RANGE (subtype = text);
"""


async def due(world: World, *keys: str) -> None:
    """Put objects that are due in the next run, beside a live one."""
    await world.pair("live")
    for key in keys or (KEY,):
        await world.put(key)
    await world.run(after=2 * HOUR)
    world.now += WEEK


async def notes(world: World) -> dict[str, str]:
    """Return the notes of all findings by key."""
    found = await world.executor.run(finding_list(bucket=world.store.url, kind=None, after=0, limit=100))
    return {finding.key: finding.note for finding in found}


@pytest.mark.slow
async def test_mastodon_30281_and_discourse_12326_an_undeclared_reference_stops_the_removal(
    world: World,
) -> None:
    """If columns that no setting covers name keys, the run names each of them and removes nothing at all."""
    await due(world, KEY, "b.pdf", "c.pdf", "true-orphan.pdf")
    await world.sql("CREATE TABLE {schema}.posts (id int, body text, thumb text)")
    await world.sql(
        "INSERT INTO {schema}.posts VALUES (1, NULL, 'x'), (2, $1, 'c.pdf'), (3, 'b.pdf', '')", KEY
    )

    report = await world.run()

    place = f"{world.schema}.posts"
    assert (report.state, report.deleted, report.kept, report.not_removed) == ("aborted", 0, 3, 1)
    assert report.abort_reasons == (
        (
            f"every reference must be declared, got 'b.pdf' and 1 more in {place}.body, which no source covers; declare it "
            f"in [[orphans.sources]], or list '{place}.body' in orphans.mentions if what it names is kept, or in "
            "orphans.not_references if it needs no object"
        ),
        (
            f"every reference must be declared, got 'c.pdf' in {place}.thumb, which no source covers; declare it in "
            f"[[orphans.sources]], or list '{place}.thumb' in orphans.mentions if what it names is kept, or in "
            "orphans.not_references if it needs no object"
        ),
    )
    assert (await notes(world))[KEY] == f"its key is in {place}.body"
    assert len(await world.keys()) == 5


@pytest.mark.slow
async def test_a_column_in_mentions_keeps_what_it_names(world: World) -> None:
    """A run keeps an object that a column of `mentions` names, removes the others, and asks again after a grace."""
    await due(world, KEY, "true-orphan.pdf")
    await world.sql(POSTS)
    await world.sql("INSERT INTO {schema}.posts VALUES (1, $1)", f"see {KEY}")
    settings = {"mentions": (f"{world.schema}.posts.body",)}

    report = await world.run(**settings)

    assert (report.state, report.deleted, report.kept, report.searched) == ("completed", 1, 1, 2)
    assert await world.keys() == ["live", KEY]
    assert await notes(world) == {KEY: f"its key is in {world.schema}.posts.body"}
    assert (await world.run(after=DAY, **settings)).searched == 0
    await world.sql("DELETE FROM {schema}.posts")
    assert (await world.run(after=WEEK, **settings)).deleted == 1


@pytest.mark.slow
async def test_every_type_that_can_hold_a_key_is_searched(world: World) -> None:
    """A key is found in a column of each type, also below domains, in arrays, in row types and in bytes."""
    keys = [f"up/{number:02}-kind.pdf" for number in range(len(TYPES))]
    uuid = "0190163d-8694-739b-aea5-966c26f8ad91"
    [uploads, avatars] = world.config.sources
    world.config = replace(world.config, sources=(uploads, replace(avatars, prepend="media/")))
    await due(world, *keys, f"media/{uuid}")
    labels = ", ".join(f"'{key}'" for key in keys)
    await world.executor.execute_script(MAKE_TYPES.format(schema=world.schema, labels=labels))
    columns = ", ".join(f"c{number} {type_}" for number, type_ in enumerate(TYPES))
    await world.sql(f"CREATE TABLE {{schema}}.kinds ({columns}, id uuid)")
    values = ", ".join(one.replace("{}", f"'{key}'") for one, key in zip(TYPES.values(), keys, strict=True))
    await world.sql(f"INSERT INTO {{schema}}.kinds VALUES ({values}, '{uuid}')")

    report = await world.run(mentions=(f"{world.schema}.kinds",))

    found = await notes(world)
    missed = [type_ for type_, key in zip(TYPES, keys, strict=True) if not found.get(key)]
    assert missed == []
    assert (report.state, report.kept, report.deleted) == ("completed", len(TYPES) + 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("CREATE TABLE {other}.uploads (key text)", "INSERT INTO {other}.uploads VALUES ($1)"),
        ("CREATE TABLE {schema}.river_photos (key text)", "INSERT INTO {schema}.river_photos VALUES ($1)"),
        (
            "CREATE TABLE {schema}.millhand_photos (k text)",
            "INSERT INTO {schema}.millhand_photos VALUES ($1)",
        ),
        ("CREATE TABLE {other}.river_job (key text)", "INSERT INTO {other}.river_job VALUES ($1)"),
        ("CREATE TABLE {other}.millhand_client (k text)", "INSERT INTO {other}.millhand_client VALUES ($1)"),
        (
            "CREATE TABLE {schema}.child (more text) INHERITS ({schema}.uploads)",
            "INSERT INTO {schema}.child (id, more) VALUES (9, $1)",
        ),
        (PARTS, "INSERT INTO {schema}.parts VALUES ($1)"),
        ("ALTER TABLE {schema}.uploads ADD COLUMN thumb text", "UPDATE {schema}.uploads SET thumb = $1"),
    ],
    ids=[
        "other schema",
        "name like River's",
        "name like ours",
        "River's name in another schema",
        "our name in another schema",
        "child",
        "partition",
        "other column",
    ],
)
async def test_a_table_is_spared_only_if_it_is_the_declared_one(world: World, table: str, row: str) -> None:
    """The search reads a table of the same name in another schema, children, and tables with names like ours."""
    await due(world)
    other = f"{world.schema}_b"
    await world.sql(f"CREATE SCHEMA {other}")
    try:
        await world.executor.execute_script(table.format(schema=world.schema, other=other))
        await world.sql(row.replace("{other}", other), KEY)
        report = await world.run()
    finally:
        await world.sql(f"DROP SCHEMA {other} CASCADE")
        made = ("child", "parts", "river_photos", "millhand_photos")
        await world.sql(f"DROP TABLE IF EXISTS {', '.join(f'{{schema}}.{name}' for name in made)}")

    assert (report.state, report.kept, report.deleted) == ("aborted", 1, 0)
    assert await world.keys() == ["live", KEY]


@pytest.mark.slow
async def test_an_object_that_goes_with_its_row_is_searched_first(world: World) -> None:
    """A pending or soft-deleted row stays with its object if another place names it. Its own cells do not count."""
    old = world.now - 40 * DAY
    for key in ("shown.png", "billed.pdf", "own.png"):
        await world.put(key)
    await world.row("shown.png", state="pending", created_at=old)
    await world.row("billed.pdf", deleted_at=old)
    await world.row("own.png", deleted_at=old, note='{"thumbnail": "own.png_thumb"}')
    await world.pair("live")
    await world.sql(POSTS)
    await world.sql("INSERT INTO {schema}.posts VALUES (1, '<img src=shown.png>'), (2, 'billed.pdf')")

    report = await world.runs(2 * HOUR, 31 * DAY, mentions=(f"{world.schema}.posts",))

    assert (report.state, report.deleted, report.deleted_rows, report.kept) == ("completed", 1, 1, 2)
    assert await world.keys() == ["billed.pdf", "live", "shown.png"]
    assert (await notes(world))["billed.pdf"] == f"its key is in {world.schema}.posts.body"
    assert (await world.run(after=DAY)).searched == 0


@pytest.mark.slow
async def test_a_declared_column_is_searched_for_values_that_are_no_keys(world: World) -> None:
    """A list, HTML or a query in a declared column keeps what it names. The key of another object does not."""
    orphans = ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "free.jpg")
    await due(world, *orphans)
    for value in ("a.jpg,b.jpg", '<img src="/c.jpg">', "resize?src=d.jpg&w=2", "https://cdn.example.com/x"):
        await world.row(value)
    await world.pair("deep/free.jpg")

    report = await world.run(min_overlap=0.0)

    assert (report.state, report.deleted, report.kept) == ("completed", 1, 4)
    assert await world.keys() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "deep/free.jpg", "live"]


@pytest.mark.slow
async def test_arrays_and_json_are_searched_outside_what_the_source_reads(posts: World) -> None:
    """A key elsewhere in declared JSON is undeclared. A value that is no key, or the query of a URL, keeps what it names."""
    await posts.pair("live.png")
    kept = ("annulled.png", "attached.png", "listed.png", "query.png")
    for key in ("cover.png", *kept, "deep/cover.png", "free.png", "deep/free.png"):
        await posts.put(key)
    document = '{"cover": "deep/cover.png", "more": {"file": "attached.png"}}'
    await posts.sql(
        "INSERT INTO {schema}.posts (body, gallery) VALUES ($1::text::jsonb, $2::text[])",
        document,
        ["listed.png;x.png", "deep/free.png"],
    )
    # Without a cover: the text null is no value that the source reads.
    await posts.sql("INSERT INTO {schema}.posts (body) VALUES ($1::text::jsonb)", '{"file": "annulled.png"}')
    link = "https://cdn.example.com/deep/free.png?else=query.png"
    await posts.sql("INSERT INTO {schema}.posts (link) VALUES ($1)", link)
    sources = [
        *posts.config.sources,
        source(posts, key="body", json="$.cover"),
        source(posts, name="galleries", key="gallery", array=True),
        source(posts, name="links", key="link", url=CDN),
    ]
    posts.config = generous(sources)

    report = await posts.runs(DAY, 8 * DAY)

    assert (report.state, report.deleted, report.kept) == ("aborted", 0, 4)
    assert f"got 'annulled.png' and 1 more in {posts.schema}.posts.body" in report.abort_reasons[0]
    assert {key: note for key, note in (await notes(posts)).items() if note} == {
        "annulled.png": f"its key is in {posts.schema}.posts.body",
        "attached.png": f"its key is in {posts.schema}.posts.body",
        "listed.png": f"its key is in {posts.schema}.posts.gallery",
        "query.png": f"its key is in {posts.schema}.posts.link",
    }


@pytest.mark.slow
async def test_every_run_searches_before_it_removes(world: World) -> None:
    """A reference that was written an hour after the last search is found, and one in quarantine before it is destroyed."""
    await due(world, "first.pdf")
    await world.put("second.pdf")
    await world.run(max_objects=10)
    await world.run(after=2 * HOUR)
    await world.sql(POSTS)
    settings = {"mentions": (f"{world.schema}.posts",)}
    await world.run(after=WEEK - 3 * HOUR, **settings)
    await world.sql("INSERT INTO {schema}.posts VALUES (1, 'first.pdf'), (2, 'second.pdf')")

    report = await world.run(after=5 * HOUR, **settings)

    assert (report.state, report.kept, report.purged, report.restored, report.alerts) == (
        "completed",
        1,
        0,
        1,
        1,
    )
    assert await world.keys() == ["first.pdf", "live", "second.pdf"]


@pytest.mark.slow
async def test_a_move_that_was_interrupted_is_searched_before_it_is_finished(world: World) -> None:
    """If the database names the key of an object whose row a killed run deleted, the next run leaves the object."""
    await world.pair("live")
    await world.run(after=2 * HOUR)
    await world.put("kept.pdf")
    info = await world.store.head("kept.pdf")
    await world.sql(
        "INSERT INTO {schema}.millhand_orphan_action (run_id, bucket, created_at, updated_at, key, rule, state, size, etag, "
        "modified_at, quarantine_key, source, row_id, row_json) "
        "VALUES (1, $1, $2, $2, 'kept.pdf', 7, 'intended', $3, $4, $5, '.millhand/quarantine/1/k', 'uploads', '9', '{}')",
        world.store.url,
        world.now,
        info.size,
        info.etag,
        info.modified_at,
    )
    await world.sql(POSTS)
    await world.sql("INSERT INTO {schema}.posts VALUES (1, 'kept.pdf')")

    await world.run(after=HOUR)

    assert await world.keys() == ["kept.pdf", "live"]


@pytest.mark.slow
async def test_a_derived_object_is_kept_where_its_parent_is_named(world: World) -> None:
    """The search looks for the keys that an object may be derived from, but not for their folders."""
    await due(world, "variants/up/a.jpg/200.webp", "variants/up/b.jpg/200.webp")
    await world.sql(POSTS)
    await world.sql("INSERT INTO {schema}.posts VALUES (1, 'up/a.jpg'), (2, '/up/x.jpg')")

    report = await world.runs(
        2 * HOUR, WEEK, mentions=(f"{world.schema}.posts",), derived=("variants/{key}/*",)
    )

    assert (report.kept, report.deleted) == (1, 1)
    assert await world.keys() == ["live", "variants/up/a.jpg/200.webp"]


@pytest.mark.slow
@pytest.mark.parametrize("excluded", first_of("posts.body", "posts", "*"))
async def test_a_table_in_not_references_is_not_searched(world: World, excluded: str) -> None:
    """An audit log that mentions every key can be excluded by schema, table or column, by names that mean it."""
    await due(world)
    await world.sql(POSTS)
    await world.sql("INSERT INTO {schema}.posts VALUES (1, $1)", f"deleted {KEY}")

    bare = await world.run(not_references=("posts", "posts.body"))
    report = await world.run(not_references=(f"{world.schema}.{excluded}",))

    assert (bare.state, report.state, report.deleted) == ("aborted", "completed", 1)


@pytest.mark.slow
async def test_short_keys_keep_nothing_else(world: World) -> None:
    """Keys of one character, and keys inside longer names, are removed although texts hold these characters."""
    await due(world, "uploads/1", "a")
    await world.sql(POSTS)
    await world.sql(
        "INSERT INTO {schema}.posts VALUES (1, 'uploads/10'), (2, 'uploads/1.png'), (3, 'my-uploads/1'), (4, 'a word')"
    )

    report = await world.run()

    assert (report.state, report.deleted) == ("completed", 2)


@pytest.mark.slow
async def test_control_characters_hide_no_reference(world: World) -> None:
    """A key that no text can name is kept. A text with the mark between cells keeps what it names, in its own column."""
    await due(world, "a\x01b.pdf", "\u200b", "c\x02d.pdf", "named.pdf", "free.pdf")
    await world.sql("CREATE TABLE {schema}.posts (title text, body text)")
    await world.sql(
        "INSERT INTO {schema}.posts VALUES ($1, $2), ($3, $4)",
        "x\x01y\x02",
        "named.pdf",
        "\x02",
        "c\x02d.pdf",
    )

    report = await world.run(mentions=(f"{world.schema}.posts.body",))

    assert (report.state, report.deleted, report.kept) == ("completed", 1, 4)
    assert (await notes(world))["named.pdf"] == f"its key is in {world.schema}.posts.body"
    assert await world.keys() == ["a\x01b.pdf", "c\x02d.pdf", "live", "named.pdf", "\u200b"]


@asynccontextmanager
async def reader(world: World, url: str) -> AsyncIterator[World]:
    """Yield the world as a role that may read and write its tables, but neither `secret` nor the column `posts.body`."""
    role, schema = f"{world.schema}_reader", world.schema
    await world.executor.execute_script(
        f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA {schema} TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role};"
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role};"
        f"CREATE TABLE {schema}.posts (id int, body text, title text); GRANT SELECT (id, title) ON {schema}.posts TO {role};"
        f"CREATE TABLE {schema}.private (body text); GRANT SELECT ON {schema}.private TO {role};"
        f"ALTER TABLE {schema}.private ENABLE ROW LEVEL SECURITY;"
        f"CREATE SCHEMA {schema}_s; CREATE TABLE {schema}_s.secret (body text);"
        f"{PARTS.format(schema=schema)} GRANT SELECT ON {schema}.parts TO {role};"
    )
    driver = AsyncpgDriver(f"{url}{'&' if '?' in url else '?'}role={role}", schema=schema)
    await driver.open()
    try:
        yield replace(world, executor=driver.pool)
    finally:
        await driver.close()
        await world.executor.execute_script(
            f"DROP SCHEMA {schema}_s CASCADE; DROP TABLE {schema}.posts, {schema}.private, {schema}.parts;"
            f"DROP OWNED BY {role}; DROP ROLE {role}"
        )


@pytest.mark.slow
async def test_a_run_names_what_its_role_may_not_read(world: World, postgres_url: str) -> None:
    """A removing run stops unless `unsearched` lists each table and column that it may not read; a report names them too."""
    await due(world)
    schema = world.schema
    async with reader(world, postgres_url) as limited:
        unread = (f"{schema}.posts.body", f"{schema}.private", f"{schema}_s.secret")
        report = await limited.run(mode=Mode.REPORT)
        refused = await limited.run()
        partly = await limited.run(unsearched=(f"{schema}.posts", f"{schema}_s.*"))
        listed = await limited.run(unsearched=unread)

    assert [set(one.unsearched) >= set(unread) for one in (report, refused, partly, listed)] == [True] * 4
    assert (report.state, refused.state, partly.state, listed.state) == (
        "completed",
        "aborted",
        "aborted",
        "completed",
    )
    assert f"{schema}.parts" not in "".join(refused.abort_reasons)
    assert partly.abort_reasons == (
        (
            f"{schema}.private must be searched for undeclared references, got row-level security; make it readable, or "
            f"list '{schema}.private' in orphans.unsearched"
        ),
    )
    assert (listed.deleted, listed.fields()["unsearched"]) == (1, ", ".join(listed.unsearched))


@pytest.mark.slow
async def test_a_foreign_table_that_cannot_be_read_stops_the_removal(world: World) -> None:
    """A foreign table is searched too. If it cannot be read, or its server is away, the run stops unless it is listed."""
    await due(world)
    await world.executor.execute_script(
        "CREATE EXTENSION IF NOT EXISTS postgres_fdw;"
        "CREATE SERVER millhand_test_away FOREIGN DATA WRAPPER postgres_fdw "
        "OPTIONS (host '127.0.0.1', port '1', dbname 'away');"
        "CREATE USER MAPPING FOR CURRENT_USER SERVER millhand_test_away OPTIONS (user 'ann');"
        f"CREATE FOREIGN TABLE {world.schema}.posts (body text) SERVER millhand_test_away;"
        "CREATE FOREIGN DATA WRAPPER millhand_test_far;"
        "CREATE SERVER millhand_test_server FOREIGN DATA WRAPPER millhand_test_far;"
        f"CREATE FOREIGN TABLE {world.schema}.tags (body text) SERVER millhand_test_server;"
    )
    try:
        refused = await world.run()
        listed = await world.run(unsearched=(f"{world.schema}.posts", f"{world.schema}.tags"))
    finally:
        await world.sql("DROP EXTENSION postgres_fdw CASCADE")
        await world.sql("DROP FOREIGN DATA WRAPPER millhand_test_far CASCADE")

    starts = [
        f"{world.schema}.{name} must be searched for undeclared references, got "
        for name in ("posts", "tags")
    ]
    assert [
        reason[: len(start)] for reason, start in zip(refused.abort_reasons, starts, strict=True)
    ] == starts
    assert (refused.deleted, listed.deleted, listed.unsearched) == (
        0,
        1,
        (f"{world.schema}.posts", f"{world.schema}.tags"),
    )


@pytest.mark.slow
async def test_a_search_that_takes_too_long_removes_nothing(world: World) -> None:
    """A search that does not end in time removes nothing, and a long one is not repeated before it is 5% of the time."""
    await due(world)
    late = await world.run(search_timeout=timedelta(microseconds=1))
    await world.sql(
        "UPDATE {schema}.millhand_orphan_binding SET searched_at = $1, search_seconds = 300", world.now
    )
    postponed = await world.run(after=HOUR)
    again = await world.run(after=HOUR)

    assert (late.state, late.deleted, late.searched) == ("aborted", 0, 0)
    assert late.abort_reasons[0].startswith("the search for undeclared references must end within 0 s, got ")
    assert (postponed.state, postponed.deleted, postponed.searched) == ("completed", 0, 0)
    assert (again.deleted, again.searched) == (1, 1)


@pytest.mark.slow
async def test_a_search_with_one_connection_names_the_setting(world: World, postgres_url: str) -> None:
    """The search holds one connection and needs another for the heartbeat, so a pool of one is an error, not a stall."""
    await due(world)
    driver = AsyncpgDriver(postgres_url, world.schema, pool_size=1)
    await driver.open()
    limited = replace(world, executor=driver.pool)

    with pytest.raises(ConfigError) as error:
        await limited.run()

    await driver.close()
    assert str(error.value) == (
        "orphan cleanup must have two connections at once, one for the search and one for the heartbeat of its run, "
        "got none for orphan_run_beat within 10 s; raise database.pool_size to 2, or the size of your own pool"
    )
    assert (await world.run(after=HOUR)).deleted == 1
