"""Near matches: an object whose key differs from a referenced key only in how it is written is kept and reported."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from adversary import ChaosExecutor
from world import World

from millhand.core.errors import DriverError
from millhand.orphans import SourceFailed, explain, list_findings, reconcile
from millhand.orphans.scan.near_match import NearMatchFinder, _fold, _near_sql, tails, variants
from millhand.orphans.sources.references import open_references
from repeats import first_of

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


# The key of an object, and how a row writes it.
NEAR = {
    "case": ("photo/ÉTÉ.JPG", "photo/été.jpg"),
    "normalization": (
        unicodedata.normalize("NFD", "photo/été.jpg"),
        unicodedata.normalize("NFC", "photo/été.jpg"),
    ),
    "row encoded": ("photo/a b.jpg", "photo/a%20b.jpg"),
    "object encoded": ("photo/a%20b.jpg", "photo/a b.jpg"),
    "plus": ("photo/a+b.jpg", "photo/a b.jpg"),
    "space": ("photo/a b.jpg", "photo/a+b.jpg"),
    "slash": ("photo/a.jpg", "/photo/a.jpg"),
    "dot": ("photo/a.jpg", "./photo/a.jpg"),
    "url": ("photo/a.jpg", "https://cdn.example.com/photo/a.jpg?w=20"),
    "utf-8": ("photo/é.jpg", "photo/%C3%A9.jpg"),
    "some characters encoded": ("photo/a (1)=b@c.jpg", "photo/a%20(1)=b%40c.jpg"),
    "form encoded": ("photo/a (é).jpg", "photo/a+%28%C3%A9%29.jpg"),
    "row encoded twice": ("photo/a b.jpg", "photo/a%2520b.jpg"),
    "object encoded twice": ("photo/a%2520b.jpg", "photo/a b.jpg"),
    "normalized and encoded": (
        unicodedata.normalize("NFD", "photo/été.jpg"),
        "HTTPS://cdn.example.com/photo/%C3%89t%c3%a9.jpg",
    ),
    "no escape": ("photo/100%.jpg", "/photo/100%.jpg"),
    "not utf-8": ("photo/%FF.jpg", "/photo/%FF.jpg"),
    "backslash": ("photo/a.jpg", "photo\\a.jpg"),
    "escaped slash": ("photo/a.jpg", "photo\\/a.jpg"),
    "slash doubled in the row": ("photo/a.jpg", "photo//a.jpg"),
    "slash doubled in the object": ("photo//a.jpg", "photo/a.jpg"),
    "dot within": ("photo/a.jpg", "photo/./a.jpg"),
    "blanks": ("photo/a.jpg", " photo/a.jpg\r\n"),
    "quotes": ("photo/a.jpg", '"photo/a.jpg"'),
    "query": ("photo/a.jpg", "photo/a.jpg?v=2"),
    "path of a site": ("photo/a.jpg", "/media/photo/a.jpg"),
    "server without a scheme": ("photo/a.jpg", "cdn.example.com/photo/a.jpg"),
    "arn": ("photo/a.jpg", "arn:aws:s3:::bucket/photo/a.jpg"),
    "drive": ("photo/a.jpg", "C:\\media\\photo\\a.jpg"),
    "slashes encoded": ("photo/a.jpg", "https://host.example/v0/b/bucket/o/photo%2Fa.jpg?alt=media"),
    "many folders": ("photo/a.jpg", "https://cdn.example.com/" + "a/" * 20_000 + "photo/a.jpg"),
}


async def test_rule_24_and_iceberg_2890_near_matches_are_kept_and_reported(world: World) -> None:
    """Objects whose keys rows write differently are never removed, however often they are seen; findings name the rows."""
    # Each pair has a folder of its own, so that no key is near to another pair's.
    await world.pair("live")
    await world.put("orphan")
    named = {}
    for number, pair in enumerate(NEAR.values()):
        key, row = (text.replace("photo", f"photo{number}") for text in pair)
        named[key] = row
        await world.put(key)
        await world.row(row)

    first = await world.run(after=2 * HOUR)
    report = await world.runs(WEEK, WEEK)

    found = {finding.key: finding for finding in await list_findings(world.executor, kind="near_match")}
    assert (first.near_matches, first.orphan_objects) == (len(NEAR), 1)
    assert (report.near_matches, report.deleted, report.state) == (len(NEAR), 0, "completed")
    assert await world.keys() == sorted(["live", *named])
    assert {finding.rule for finding in found.values()} == {24}
    assert {key: finding.note for key, finding in found.items()} == {
        key: f"source 'uploads' names {row!r}" for key, row in named.items()
    }
    key = next(iter(named))
    explanation = await explain(world.executor, world.store, world.config, key, now=world.now)
    assert found[key].note in "\n".join(explanation.lines())


async def test_iceberg_4346_a_row_with_the_prefix_twice_or_without_it_is_a_near_match(world: World) -> None:
    """With a prefix, rows that leave it out or repeat it are near matches."""
    await world.pair("media/live")
    await world.put("media/a.jpg")
    await world.put("media/b.jpg")
    await world.row("a.jpg")
    await world.row("media/media/b.jpg")

    report = await world.runs(2 * HOUR, WEEK, prefix="media/")

    assert (report.near_matches, report.deleted) == (2, 0)
    assert await world.keys() == ["media/a.jpg", "media/b.jpg", "media/live"]


@pytest.mark.parametrize(
    ("key", "named"),
    first_of(
        ("media/avatars/Ö 0.png", "/%C3%B6%200.png"),
        ("avatars/0.png", "0.png"),
        ("media/avatars/0.png", "avatars/0.png"),
    ),
)
async def test_a_row_without_folders_that_names_no_object_is_a_near_match(
    world: World, key: str, named: str
) -> None:
    """A source whose `prepend` is missing loses none of its objects; the finding names the row."""
    for n in range(30):
        await world.pair(f"live-{n}")
    await world.put(key)
    await world.row(named)

    report = await world.runs(2 * HOUR, WEEK, WEEK)

    found = {finding.kind: finding for finding in await list_findings(world.executor)}
    assert (report.near_matches, report.deleted, report.missing) == (1, 0, 1)
    assert key in await world.keys()
    assert found["near_match"].note == f"source 'uploads' names {named!r}, of which there is no object"


async def test_a_row_that_names_an_existing_object_is_no_near_match_of_another(world: World) -> None:
    """Of two objects with one name in different folders, the one that a row names is live, and the other is an orphan."""
    await world.pair("0.png")
    await world.put("old/0.png")

    report = await world.runs(2 * HOUR, WEEK)

    assert (report.near_matches, report.deleted) == (0, 1)
    assert await world.keys() == ["0.png"]


async def test_a_near_match_without_its_row_is_a_new_orphan(world: World) -> None:
    """When the row is gone, the object's age as an orphan starts."""
    await world.pair("live")
    await world.put("A.jpg")
    await world.row("a.jpg")
    await world.runs(2 * HOUR, WEEK)
    await world.sql("DELETE FROM {schema}.uploads WHERE key = 'a.jpg'")

    at_once, now = await world.run(after=HOUR), world.now
    [found] = await list_findings(world.executor)
    early = await world.run(after=WEEK - 2 * HOUR)
    report = await world.run(after=2 * HOUR)

    assert (at_once.near_matches, at_once.orphan_objects, at_once.deleted) == (0, 1, 0)
    assert (found.kind, found.first_seen_at, found.note) == ("orphan", now, "")
    assert (early.deleted, report.deleted) == (0, 1)


async def test_a_near_match_is_reported_in_every_run(world: World) -> None:
    """Every run reports it, and its age as an orphan does not start while the row exists."""
    await world.pair("live")
    await world.put("A.jpg")
    await world.row("a.jpg")

    reports = [await world.run(after=span) for span in (2 * HOUR, HOUR, WEEK, HOUR, 4 * WEEK)]

    assert [(one.near_matches, one.orphan_objects, one.deleted) for one in reports] == [(1, 0, 0)] * 5


async def test_a_near_match_in_quarantine_is_restored(world: World) -> None:
    """A row that comes while the object is in quarantine, and writes its key differently, restores it in time."""
    await world.pair("live")
    await world.put("A.jpg")
    await world.runs(2 * HOUR, WEEK, HOUR)
    assert await world.keys() == ["live"]
    await world.row("a.jpg")

    await world.run(after=4 * WEEK)

    assert await world.keys() == ["A.jpg", "live"]


@pytest.mark.parametrize(
    "columns",
    first_of({"deleted_at": LONG_AGO}, {"state": "pending", "created_at": LONG_AGO}),
    ids=["soft-deleted", "pending"],
)
async def test_rule_5_an_object_that_is_a_near_match_of_another_row_stays(
    world: World, columns: dict[str, Any]
) -> None:
    """Neither the row nor the object is removed while the other row exists; a finding names that row."""
    await world.pair("live")
    for key in ("photo/a.jpg", "photo/b.jpg"):
        await world.put(key)
        await world.row(key, **columns)
    await world.row("/media/photo/A.jpg")

    reports = [await world.run(after=span, retention=WEEK) for span in (2 * HOUR, WEEK, WEEK)]

    assert [(one.shared, one.abandoned_rows, one.deleted_rows, one.deleted) for one in reports] == [
        (0, 0, 0, 0),
        (1, 1, 1, 1),
        (1, 0, 0, 0),
    ]
    assert await world.keys() == ["live", "photo/a.jpg"]
    assert await world.row_keys() == ["/media/photo/A.jpg", "live", "photo/a.jpg"]
    [found] = await list_findings(world.executor, kind="shared")
    assert (found.key, found.rule) == ("photo/a.jpg", 5)
    assert found.note == "source 'uploads' names '/media/photo/A.jpg'"
    config = replace(world.config, retention=WEEK)
    explanation = await explain(world.executor, world.store, config, "photo/a.jpg", now=world.now)
    assert explanation.rule == 5
    assert explanation.notes == (found.note,)

    await world.sql("DELETE FROM {schema}.uploads WHERE key = '/media/photo/A.jpg'")
    report = await world.run(after=HOUR, retention=WEEK)

    assert (report.shared, report.deleted_rows, report.deleted) == (0, 1, 1)
    assert await world.keys() == ["live"]


async def test_a_row_without_an_object_goes_although_it_is_a_near_match(world: World) -> None:
    """Without an object, no object can be lost with the row, so the row goes."""
    await world.pair("live")
    await world.row("photo/a.jpg", deleted_at=LONG_AGO)
    await world.row("photo/A.jpg")

    report = await world.runs(2 * HOUR, WEEK, retention=WEEK)

    assert (report.shared, report.deleted_rows) == (0, 1)


class Failing(ChaosExecutor):
    """A database that fails the search for near matches."""

    async def fetch(self, sql: str, params: Sequence[Any] = (), **options: Any) -> list[dict[str, Any]]:
        if "asked.key" in sql:
            raise DriverError("SELECT", "a statement timeout")
        return await super().fetch(sql, params, **options)


async def test_the_search_for_near_matches_compares_no_row_with_all_candidates(world: World) -> None:
    """The plan joins rows and names by hash or merge, whatever the planner estimates for arrays."""
    await world.sql(
        "INSERT INTO {schema}.uploads (key) SELECT 'photo/' || md5(n::text) || '.jpg' FROM generate_series(1, 20000) AS n"
    )
    await world.sql("ANALYZE {schema}.uploads")
    references = await open_references(world.executor, world.config)
    finder = NearMatchFinder.of(world.executor, references, world.config, world.store)
    params = finder._params([f"photo/x{n}.jpg" for n in range(2_000)])
    fold = await _fold(world.executor)

    for name, from_sql, key in references.key_expressions:
        sql = f"EXPLAIN (FORMAT JSON) {_near_sql(fold, from_sql, f'{key}::text')}"
        [row] = await world.executor.fetch(sql, params)
        [plan] = json.loads(row["QUERY PLAN"])
        loops = [node for node in nodes_of(plan["Plan"]) if node["Node Type"] == "Nested Loop"]
        met = [{one.get("Relation Name", one.get("Alias")) for one in nodes_of(loop)} for loop in loops]
        assert loops, name
        assert not [names for names in met if "one" in names and names & {"uploads", "avatars"}], name


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a plan and all plans below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes_of(below)


async def test_a_failing_search_for_near_matches_ends_the_run(world: World) -> None:
    """If a source does not answer the search for near matches, the run fails and removes nothing."""
    await world.pair("live")
    await world.put("orphan")
    await world.run(after=2 * HOUR)
    world.now += WEEK

    with pytest.raises(
        SourceFailed, match=r"source 'uploads' must return all its rows, got .*statement timeout"
    ):
        await reconcile(Failing(world.executor, _nothing), world.store, world.config, now=world.now)

    assert await world.keys() == ["live", "orphan"]


async def _nothing(operation: str) -> None:
    """Do nothing."""


def test_variants_include_bucket_and_root() -> None:
    """A row may contain the bucket and the root of the store."""
    found = variants("a b.png", prefix="", url="s3://bucket/media/?endpoint_url=http://127.0.0.1:1")

    assert found[0] == "a b.png"
    assert {"media/a b.png", "bucket/media/a b.png"} <= set(found)


@pytest.mark.parametrize(
    ("key", "without"), [("a/b/c", ["b/c", "c"]), ("c", []), ("a//c/", ["c/"]), ("a/" * 500 + "c", None)]
)
def test_tails_leave_out_one_folder_after_the_other(key: str, without: list[str] | None) -> None:
    """A name of slashes only is left out, and of very many folders the last hundred count."""
    found = tails(key)

    assert found == without if without is not None else (len(found), found[-1]) == (100, "c")
