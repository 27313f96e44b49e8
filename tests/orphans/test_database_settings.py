"""Settings of a database or column that change what SQL means: time zones, string literals, collations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from posts import CDN, keys_of, opened, source
from world import World

from millhand.core.errors import ConfigError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.orphans import restore
from millhand.orphans.scan.near_match import NearMatchFinder
from millhand.orphans.sources.references import open_references

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
WHEN = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
async def odd(posts: World, schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[World]:
    """The application, read by a role whose time zone and string literals are not the usual ones."""
    options = "-c TimeZone=America/New_York -c standard_conforming_strings=off -c backslash_quote=on"
    separator = "&" if "?" in postgres_url else "?"
    url = f"{postgres_url}{separator}options={options.replace(' ', '%20').replace('=', '%3D')}"
    driver = AsyncpgDriver(url, schema_driver.schema)
    await driver.open()
    yield replace(posts, executor=driver.pool)
    await driver.close()


@pytest.mark.slow
async def test_times_without_a_zone_need_a_declared_zone(odd: World) -> None:
    """Their zone is unknown, so a source without `time_zone` is an error; with it the session's zone does not matter."""
    await odd.sql("ALTER TABLE {schema}.posts ADD COLUMN made timestamp, ADD COLUMN day date")
    await odd.sql(
        "INSERT INTO {schema}.posts (image, made, day) VALUES ('a', '2026-01-01 12:00', '2026-01-01')"
    )
    message = (
        "{} of orphans source 'posts' must be a column of times with a time zone, got '{}' of type {}, whose zone only the "
        'application knows; declare time_zone = "UTC", or the zone that it writes'
    )
    rows = {"key": "image", "pending": "made IS NOT NULL"}
    select = {"table": None, "select": f"SELECT * FROM {odd.schema}.posts", "key": "image"}

    errors = []
    for columns in (
        rows | {"created_at": "made"},
        rows | {"created_at": "deleted_at", "deleted_at": "day"},
        select | {"created_at": "made"},
    ):
        with pytest.raises(ConfigError) as error:
            await opened(odd, **columns)
        errors.append(str(error.value))
    read = []
    for columns in (
        rows | {"created_at": "made", "time_zone": "UTC"},
        rows | {"created_at": "made", "time_zone": "Europe/Berlin"},
        rows | {"created_at": "day", "time_zone": "UTC"},
    ):
        found = await (await opened(odd, **columns)).rows_by_key(["a"])
        read.append(found["a"][0].created_at)
    await odd.sql("ALTER TABLE {schema}.posts DROP COLUMN made, DROP COLUMN day")

    assert errors == [
        message.format("created_at", "made", "timestamp without time zone"),
        message.format("deleted_at", "day", "date"),
        message.format("created_at", "made", "timestamp without time zone"),
    ]
    assert read == [WHEN, WHEN - HOUR, WHEN - 12 * HOUR]


async def test_a_time_that_python_does_not_have_ends_no_run(posts: World) -> None:
    """A row with a mistyped year, or an infinite time, is read with the last or first time there is; no time stays none."""
    times = {"a": "20226-01-01", "b": "infinity", "c": "-infinity", "d": "0044-03-15 BC", "e": None}
    for key, time in times.items():
        await posts.sql(
            "INSERT INTO {schema}.posts (image, deleted_at) VALUES ($1, $2::text::timestamptz)", key, time
        )
    references = await opened(
        posts, key="image", deleted_at="deleted_at", soft_deleted="deleted_at IS NOT NULL"
    )

    found = await references.rows_by_key(list(times))

    first, last = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
    assert [found[key][0].deleted_at for key in times] == [last, last, first, first, None]


async def test_a_time_without_a_zone_that_postgresql_cannot_convert_ends_no_run(posts: World) -> None:
    """A date after the last timestamp, or a timestamp that its zone moves out of range, is the last or first time."""
    await posts.sql("ALTER TABLE {schema}.posts ADD COLUMN made timestamp, ADD COLUMN day date")
    days = {
        "a": "5874897-12-31",
        "b": "infinity",
        "c": "-infinity",
        "d": "4713-01-01 BC",
        "e": None,
        "f": "2026-01-02",
    }
    made = days | {"a": "294276-12-31 23:59", "d": "4714-11-24 BC"}
    for key, day in days.items():
        sql = "INSERT INTO {schema}.posts (image, day, made) VALUES ($1, $2::text::date, $3::text::timestamp)"
        await posts.sql(sql, key, day, made[key])

    read = []
    for column, zone in (("day", "UTC"), ("made", "Asia/Tokyo"), ("made", "America/New_York")):
        times = {"created_at": column, "time_zone": zone, "pending": "true"}
        found = await (await opened(posts, key="image", **times)).rows_by_key(list(days))
        read.append([found[key][0].created_at for key in days])
    await posts.sql("ALTER TABLE {schema}.posts DROP COLUMN made, DROP COLUMN day")

    first, last = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
    midnight = datetime(2026, 1, 2, tzinfo=UTC)
    assert read == [
        [last, last, first, first, None, midnight],
        [last, last, first, first, None, midnight - 9 * HOUR],
        [last, last, first, first, None, midnight + 5 * HOUR],
    ]


@pytest.mark.slow
async def test_a_size_that_is_no_number_of_bytes_ends_no_run(posts: World) -> None:
    """A row whose size is NaN, infinite, negative or huge is a size mismatch. The other rows are read as usual."""
    sizes = {"a": "NaN", "b": "1e30", "c": "-1e30", "d": "Infinity", "e": None, "f": "5", "g": "-7"}
    [live, *_] = sources = [
        source(posts, name="tables", table=f"{posts.schema}.sized", key="key", size="n"),
        source(
            posts,
            name="selects",
            table=None,
            select=f"SELECT key, x FROM {posts.schema}.sized",
            key="key",
            size="x",
        ),
        source(posts, name="reals", table=f"{posts.schema}.sized", key="key", size="r"),
    ]
    await posts.sql(
        "CREATE TABLE {schema}.sized (id bigint PRIMARY KEY, key text, n numeric, x float8, r real)"
    )
    for number, (key, size) in enumerate(sizes.items()):
        sql = (
            "INSERT INTO {schema}.sized VALUES ($1, $2, $3::text::numeric, $3::text::float8, $3::text::real)"
        )
        await posts.sql(sql, number, key, size)
        await posts.put(key, b"12345")

    read = []
    for one in sources:
        references = await open_references(posts.executor, replace(posts.config, sources=(one,)))
        found = await references.rows_by_key(list(sizes))
        read.append([found[key][0].size for key in sizes])
    report = await posts.run(after=2 * HOUR, sources=(live,))
    await posts.sql("DROP TABLE {schema}.sized")

    assert read == [[-1, -1, -1, -1, None, 5, -1]] * 3
    assert (report.state, report.size_mismatches) == ("completed", 5)


@pytest.mark.slow
async def test_backslashes_are_plain_in_string_literals_of_a_role_that_escapes_them(odd: World) -> None:
    """With `standard_conforming_strings = off` every form of source is read, and near matches are found."""
    url = "https://cdn.example.com/a%20b\\c?d"
    await odd.sql("INSERT INTO {schema}.posts (image, link, body) VALUES ($1, $2, $3::text::jsonb)",
                  "p\\a", url, '{"a \\"b": "x"}')  # fmt: skip

    keys = [
        await keys_of(odd, key="link", url=CDN),
        await keys_of(odd, key="image", prepend="m\\"),
        await keys_of(odd, key="body", json='$."a \\"b"'),
    ]
    references = await opened(odd, key="link", url=CDN)
    near = await NearMatchFinder.of(odd.executor, references, odd.config, odd.store).find(["A b/c", "other"])

    assert keys == [["a b\\c"], ["m\\p\\a"], ["x"]]
    assert list(near) == ["A b/c"]


@pytest.mark.slow
async def test_keys_of_a_nondeterministic_collation_are_read_as_bytes(posts: World) -> None:
    """A case-insensitive column of keys, URLs or arrays supports no pattern; a run reads it, and keys differ by case."""
    # The suite's server is built without ICU, so a superuser marks a collation. PostgreSQL then refuses the same patterns.
    await posts.sql("CREATE COLLATION {schema}.loose (provider = libc, locale = 'C.UTF-8')")
    await posts.sql("UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'loose'")
    await posts.sql(
        "CREATE TABLE {schema}.loosely (id bigint PRIMARY KEY, key text COLLATE {schema}.loose, "
        "keys text[] COLLATE {schema}.loose)"
    )
    await posts.sql(
        "INSERT INTO {schema}.loosely VALUES (1, 'https://cdn.example.com/A.png', '{a,B}'), (2, 'b.png', '{}')"
    )
    table = {"table": f"{posts.schema}.loosely"}
    select = {"table": None, "select": f"SELECT * FROM {posts.schema}.loosely"}

    keys = [
        await keys_of(posts, **place, **form)
        for place in (table, select)
        for form in ({"url": CDN}, {"key": "keys", "array": True}, {})
    ]
    references = await opened(posts, **table)
    other_case = await references.rows_by_key(["B.png"])
    sampled = await references.sample_keys("posts", prefix="b", limit=5)
    near = await NearMatchFinder.of(posts.executor, references, posts.config, posts.store).find(["B.PNG"])
    await posts.sql("DROP TABLE {schema}.loosely")
    await posts.sql("DROP COLLATION {schema}.loose")

    assert keys == [["A.png", "b.png"], ["B", "a"], ["b.png", "https://cdn.example.com/A.png"]] * 2
    assert (list(other_case), sampled, list(near)) == ([], ["b.png"], ["B.PNG"])


@pytest.mark.slow
async def test_runs_of_a_role_with_unusual_settings_remove_and_restore(odd: World) -> None:
    """The search, the move and the restore of rows read the same values as under the usual settings."""
    await odd.pair("live")
    for key in ("a\\b%20c.png", "row's.png"):
        await odd.put(key)
    await odd.row("row's.png", state="pending")
    before = await odd.sql("SELECT t::text FROM {schema}.uploads AS t ORDER BY id")

    report = await odd.runs(2 * HOUR, WEEK)
    restored = await restore(odd.executor, odd.store, prefix="", now=odd.now)

    assert (report.state, report.deleted, report.deleted_rows) == ("completed", 2, 1)
    assert (restored.restored, restored.rows, restored.failed) == (2, 1, ())
    assert await odd.sql("SELECT t::text FROM {schema}.uploads AS t ORDER BY id") == before
    assert await odd.keys() == ["a\\b%20c.png", "live", "row's.png"]
