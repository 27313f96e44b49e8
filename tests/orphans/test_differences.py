"""The differences of an inventory: a run by them finds what a run by listing finds, on random buckets with unusual keys."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from adversary import ChaosStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inventory_reports import FOLDER, Reports, objects_of
from test_nothing_live_is_deleted import emptied
from world import DAY, World

from millhand.orphans import Finding, Mode, RunReport, list_findings, list_runs, reconcile
from millhand.orphans.inventory.inventory_report import InventoryUnusable
from millhand.orphans.ledger import run_get_scanned
from millhand.orphans.scan.partition_scan import PartitionScan
from millhand.storage import InvalidKey, ObjectInfo
from repeats import first_of

sys.path.append(str(Path(__file__).parents[1] / "storage"))  # for the unusual keys
from stores import UNUSUAL_KEYS

pytestmark = pytest.mark.slow  # each run starts three processes

ROWS = {
    "ready": {},
    "sized": {"size": 3},
    "wrong size": {"size": 4},
    "pending": {"state": "pending"},
    "deleted": {"deleted": True},
    "avatar": {},
}
PREFIXES = ("", "media/", "tmp/", ".millhand/", "x/.millhand/", "x/millhand-blobs/")
KEYS = st.tuples(st.sampled_from(PREFIXES), st.sampled_from(UNUSUAL_KEYS)).map("".join)
Place = tuple[bool, tuple[str, ...]]  # whether there is an object, and the rows
BUCKETS = st.dictionaries(
    KEYS,
    st.tuples(st.booleans(), st.lists(st.sampled_from(list(ROWS)), max_size=3).map(tuple)),
    min_size=1,
    max_size=40,
)
SCOPES = st.fixed_dictionaries(
    {
        "prefix": st.sampled_from(["", "media/"]),
        "exclude": st.sampled_from([(), ("tmp/", "a/")]),
        "key_patterns": st.sampled_from([(), (r"[\s\S]*a[\s\S]*",)]),
        "derived": st.sampled_from([(), ("{key}/b",), ("x/{key}/*",)]),
    }
)


@dataclasses.dataclass(frozen=True)
class Ground:
    """Where examples run: the event loop belongs to the test, and hypothesis runs in a thread beside it."""

    directory: Path
    loop: asyncio.AbstractEventLoop
    world: World

    def check(self, *example: Any) -> None:
        asyncio.run_coroutine_threadsafe(compare_ways(self, *example), self.loop).result()


async def fill(world: World, places: Mapping[str, Place]) -> None:
    """Put the objects that the store accepts, of three bytes, and insert all rows. No row names a key of Millhand's."""
    for key, (has_object, rows) in places.items():
        if has_object:
            with contextlib.suppress(InvalidKey):
                await world.put(key, b"abc")
        is_ours = ".millhand/" in key or "/millhand-blobs/" in key
        for name in () if is_ours else rows:
            if name == "avatar":
                await world.sql("INSERT INTO {schema}.avatars (key) VALUES ($1)", key)
                continue
            columns: dict[str, Any] = dict(ROWS[name])
            if columns.pop("deleted", False):
                columns["deleted_at"] = world.now
            await world.row(key, **columns)


def plain(finding: Finding, report: RunReport) -> Finding:
    """Return a finding without what differs between two runs."""
    del report
    return replace(finding, id=0, run_id=0)


async def result(world: World, report: RunReport) -> tuple[str, dict[str, Any], list[Finding]]:
    """Return the end of a run, its counts, and its findings; then forget the run."""
    [run] = await list_runs(world.executor, bucket=world.store.url, limit=1)
    findings = await list_findings(world.executor, bucket=world.store.url, limit=10_000)
    await world.sql("TRUNCATE {schema}.millhand_orphan_run, {schema}.millhand_orphan_finding")
    in_order = sorted(
        (plain(one, report) for one in findings), key=lambda one: (one.key, one.source, one.row_id)
    )
    counts = dataclasses.asdict(run.totals)
    if world.config.key_patterns:  # the statement does not know the patterns
        for name in ("live", "ready_rows", "unclassified"):
            del counts[name]
    return report.state, counts, in_order


async def compare_ways(
    ground: Ground, places: Mapping[str, Place], format: str, scope: Mapping[str, Any]
) -> None:
    """Run by listing, and by a report with doubled rows; both must find and count the same."""
    world = await emptied(ground.world, ground.directory)
    world.config = replace(world.config, mode=Mode.REPORT, **scope)
    await fill(world, places)
    reports = Reports(ground.directory / uuid.uuid4().hex)
    (reports.directory / FOLDER).mkdir(parents=True)
    objects = await objects_of(world.store)
    later = world.now + 3 * DAY
    reports.write(objects, format=format, now=later)

    listed = await result(world, await reconcile(world.executor, world.store, world.config, now=later))
    config = replace(world.config, inventory=reports.url)
    compared = await result(world, await reconcile(world.executor, world.store, config, now=later))

    assert compared == listed


@pytest.mark.parametrize("format", first_of("Parquet", "CSV"))
async def test_an_inventory_finds_what_a_listing_finds(world: World, tmp_path: Path, format: str) -> None:
    """On random buckets and sources, a run by a report has the findings and the counts of a run by listing."""
    ground = Ground(tmp_path, asyncio.get_running_loop(), world)

    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(places=BUCKETS, scope=SCOPES)
    def check(places: dict[str, Place], scope: dict[str, Any]) -> None:
        ground.check(places, format, scope)

    await asyncio.to_thread(check)


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    """A folder without any report yet."""
    (tmp_path / FOLDER).mkdir(parents=True)
    return Reports(tmp_path)


async def run(world: World, reports: Reports, objects: Sequence[ObjectInfo], **changes: Any) -> RunReport:
    """Run by a report of these objects, three days from now."""
    later = world.now + 3 * DAY
    reports.write(objects, format="Parquet", now=later)
    config = replace(world.config, inventory=reports.url, **changes)
    return await reconcile(world.executor, world.store, config, now=later)


async def test_a_report_that_lacks_objects_with_rows_aborts(world: World, reports: Reports) -> None:
    """A canary that exists and has a row comes out of the comparison, so nothing of the run counts."""
    await world.pair(*[f"{number:02}" for number in range(20)])
    await world.put("orphan")

    report = await run(world, reports, [])

    assert report.state == "aborted"
    assert [reason.partition(", got")[0] for reason in report.abort_reasons] == [
        "an object that exists and has a row must be live"
    ]
    assert (await list_findings(world.executor), report.objects) == ([], 0)


async def test_objects_that_a_report_lacks_are_looked_up(world: World, reports: Reports) -> None:
    """An object that came after the report is live, and one that no row names is found by the next report."""
    await world.pair("a", "b", "new")
    await world.put("orphan")
    await world.put("new orphan")
    old = [one for one in await objects_of(world.store) if not one.key.startswith("new")]
    # Not old enough to be in the report.
    config = replace(world.config, inventory=reports.url)
    reports.write(old, format="Parquet", now=world.now)

    report = await reconcile(world.executor, world.store, config, now=world.now + DAY)

    assert (report.state, report.missing, report.orphan_objects) == ("completed", 0, 1)
    assert [one.key for one in await list_findings(world.executor)] == ["orphan"]


@pytest.mark.parametrize("page_size", first_of(1, 1_000))
async def test_earlier_findings_are_looked_up_although_a_report_does_not_show_them(
    world: World, reports: Reports, page_size: int
) -> None:
    """Objects that were deleted or put after the report keep their findings; a finding that is no longer true goes."""
    await world.pair("a", "back", "deleted")
    stale = await objects_of(world.store)
    for key in ("back", "deleted"):
        await world.store.delete(key)
    await world.put("later orphan")
    await reconcile(world.executor, world.store, world.config, now=world.now + 2 * DAY)
    before = sorted(await list_findings(world.executor), key=lambda one: one.key)
    await world.put("back", b"back")

    report = await run(world, reports, stale, page_size=page_size)

    found = {one.key: one for one in await list_findings(world.executor)}
    assert [one.key for one in before] == ["back", "deleted", "later orphan"]
    assert {key: (one.kind, one.first_seen_at, one.num_runs) for key, one in found.items()} == {
        one.key: (one.kind, one.first_seen_at, 2) for one in before[1:]
    }
    assert (report.state, report.missing, report.orphan_objects, report.objects) == ("completed", 1, 1, 3)


async def test_a_report_with_doubled_rows_changes_no_finding(world: World, reports: Reports) -> None:
    """Objects that a report has twice, and rows that name one object several times, are each found once."""
    await world.pair("a", "b")
    await world.row("a")
    await world.row("missing")
    await world.row("missing")
    await world.put("orphan")

    report = await run(world, reports, [*await objects_of(world.store)] * 2)

    found = [(one.kind, one.key) for one in await list_findings(world.executor)]
    assert sorted(found) == [("missing", "missing"), ("orphan", "orphan")]
    assert (report.state, report.orphan_objects, report.missing) == ("completed", 1, 1)


async def test_a_killed_run_looks_up_only_the_rest(world: World, reports: Reports) -> None:
    """A run that ends without a word at its fifth page of keys is continued there; the comparison is made again."""
    await world.pair("a")
    for number in range(100):
        await world.put(f"orphan/{number:02}")
    later = world.now + 3 * DAY
    reports.write(await objects_of(world.store), format="Parquet", now=later)
    config = replace(world.config, inventory=reports.url, page_size=10, mode=Mode.REPORT)
    looked_up: list[str] = []
    kills = [asyncio.CancelledError()]

    class Counted(ChaosStore):
        async def head(self, key: str) -> ObjectInfo:
            looked_up.append(key)
            if key == "orphan/45" and kills:
                raise kills.pop()
            return await super().head(key)

    async def go_on(operation: str) -> None:
        del operation

    store = Counted(world.store, go_on)
    with pytest.raises(asyncio.CancelledError):
        await reconcile(world.executor, store, config, now=later)
    looked_up.clear()
    report = await reconcile(world.executor, store, config, now=later + timedelta(minutes=2))

    assert (report.is_resumed, report.state, report.objects, report.orphan_objects) == (
        True,
        "completed",
        101,
        100,
    )
    assert min(key for key in looked_up if key.startswith("orphan/")) == "orphan/40"
    assert len(await list_findings(world.executor, limit=1000)) == 100


@contextlib.contextmanager
def judged(patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record the keys that runs look at."""
    keys: list[str] = []
    judge = PartitionScan._judge

    async def record(self: PartitionScan, batch: Any, *others: Any) -> None:
        keys.extend(one.key for one in batch)
        await judge(self, batch, *others)

    patch.setattr(PartitionScan, "_judge", record)
    yield keys


async def test_a_run_looks_at_differences_only(
    world: World, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key whose object and row agree is not looked at, and neither is Millhand's own."""
    await world.pair(*[f"{number:02}" for number in range(50)])
    await world.put("orphan")
    await world.row("missing")
    await world.row("pending", state="pending")

    with judged(monkeypatch) as keys:
        report = await run(world, reports, await objects_of(world.store))

    assert keys == ["missing", "orphan", "pending"]
    assert (report.objects, report.rows) == (51, 52)


AGAIN = "; run the statement of `millhand orphans inventory --sql` again"
OLD = "must be of a report that is not older than 10 days, got '2018-01-01T00:00:00Z'"
ONE_WHOLE = "must have one row of the kind all_objects, with num and size, got "
ONE_SIDE = "must have a difference for the key that the statement put into the {} only, got 'none'"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"both": True},
            "must not have a difference for a key that the statement put on both sides, got '<both>'" + AGAIN,
        ),
        ({"without": "object"}, ONE_SIDE.format("report") + AGAIN),
        ({"without": "row"}, ONE_SIDE.format("rows") + AGAIN),
        (
            {"kind": "unknown"},
            "must have differences of the kinds no_row, state, size, etag, no_object, got 'unknown'" + AGAIN,
        ),
        ({"stamp": "2018-01-01T00:00:00Z"}, OLD + "; run the statement for a newer report"),
        ({"scope": "other"}, "must be of the bucket and the sources '<scope>', got '<object>'" + AGAIN),
        ({"wholes": []}, ONE_WHOLE + "'none'" + AGAIN),
        ({"wholes": ["4,14", "4,14"]}, ONE_WHOLE + "[[4, 14], [4, 14]]" + AGAIN),
        ({"wholes": [","]}, ONE_WHOLE + "[[None, None]]" + AGAIN),
        (
            {"empty": True},
            "must be the differences of one report, with the two keys that the statement makes up, got 'none'"
            + AGAIN,
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_differences_of_an_engine_that_errs_are_not_used(
    world: World, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Differences without their canaries, of another report or of other sources end the run with a rule and a remedy."""
    await world.pair("a")
    await world.put("orphan")
    scope = f"{world.config.fingerprint}-{world.store.url}"
    stamp = changes.get("stamp", f"{world.now:%Y-%m-%dT%H:%M:%SZ}")
    start = f".millhand/inventory/{stamp}/{changes.get('scope', scope)}/"
    sides = [("object", "no_row"), ("row", "no_object")] + ([("both", "size")] if "both" in changes else [])
    lines = [f'{kind},,"{start}{side}",1,0' for side, kind in sides if side != changes.get("without")]
    lines.append(f"{changes.get('kind', 'no_row')},,orphan,1,6")
    lines += [f"all_objects,,,{counts}" for counts in changes.get("wholes", ["2,7"])]
    path = tmp_path / "differences.csv"
    path.write_text("\n".join(["kind,source,key,num,size", *([] if "empty" in changes else lines)]) + "\n")

    with pytest.raises(InventoryUnusable) as raised:
        await reconcile(world.executor, world.store, world.config, now=world.now, differences=path)

    filled = (
        message.replace("<both>", f"{start}both")
        .replace("<scope>", scope)
        .replace("<object>", f"{start}object")
    )
    assert str(raised.value) == f"inventory {path} {filled}"


@pytest.mark.parametrize("name", first_of("differences.csv", "differences.parquet", "directory"))
async def test_a_run_goes_on_from_differences_of_another_engine(
    world: World, tmp_path: Path, name: str
) -> None:
    """Keys that another engine names are looked up: orphans are found, and keys that agree now are live."""
    await world.pair("a", "b")
    await world.put('orphan,"1"\n')
    rows = [
        *made_up(world, world.now),
        ("no_row", "", 'orphan,"1"\n', 1, 11),
        ("no_row", "", "a", 1, 1),
        ("no_row", "", "gone", 1, 1),
        ("all_objects", "", "", 4, 14),
        ("all_rows", "uploads", "", 2, 0),
        ("ready_rows", "uploads", "", 2, 0),
    ]
    path = tmp_path / name
    write_differences(path, rows)

    report = await reconcile(world.executor, world.store, world.config, now=world.now + DAY, differences=path)

    assert [one.key for one in await list_findings(world.executor)] == ['orphan,"1"\n']
    assert (report.state, report.objects, report.rows) == ("completed", 3, 2)


def made_up(world: World, created_at: datetime) -> list[tuple[Any, ...]]:
    """Return the differences of the two made-up keys, for a report of this time."""
    scope = f"{world.config.fingerprint}-{world.store.url}"
    start = f".millhand/inventory/{created_at:%Y-%m-%dT%H:%M:%SZ}/{scope}/"
    return [("no_row", "", f"{start}object", 1, 0), ("no_object", "", f"{start}row", 1, 0)]


async def test_differences_of_empty_tables_change_nothing(world: World, tmp_path: Path) -> None:
    """An engine that read two empty tables has the made-up keys too: the run aborts, and earlier findings stay."""
    await world.pair("a", "b")
    await world.row("missing")
    before = await reconcile(world.executor, world.store, world.config, now=world.now)
    findings = await list_findings(world.executor)
    write_differences(tmp_path / "found.csv", [*made_up(world, world.now), ("all_objects", "", "", 0, 0)])

    report = await reconcile(
        world.executor, world.store, world.config, now=world.now + DAY, differences=tmp_path / "found.csv"
    )

    last = "; if this is correct, run once by a listing, without orphans.inventory"
    assert (report.state, report.abort_reasons) == (
        "aborted",
        (
            (
                "source 'uploads' must have at least 1 rows, got 0 (3 in an earlier run); "
                "if this is correct, set min_rows of the source"
            ),
            f"an inventory must have objects if the last run had some, got none (2 in the last run){last}",
            f"an inventory must have rows if the last run had some, got none (3 in the last run){last}",
        ),
    )
    assert [one.key for one in findings] == ["missing"]
    assert await list_findings(world.executor) == findings
    scanned = await world.executor.run(run_get_scanned(world.store.url, world.config.fingerprint))
    assert (scanned and scanned.id) == before.run_id


@pytest.mark.parametrize("kind", first_of("no_object", "no_row"))
async def test_differences_without_an_old_object_abort(world: World, tmp_path: Path, kind: str) -> None:
    """An object that exists, has a row and is older than the report by two days must not have one side only."""
    await world.pair("a", "b", "c")
    later = world.now + 3 * DAY
    rows = [
        *made_up(world, later),
        (kind, "", "b", 1, 1),
        ("all_objects", "", "", 3, 3),
        ("all_rows", "uploads", "", 3, 0),
    ]
    write_differences(tmp_path / "found.csv", rows)

    report = await reconcile(
        world.executor, world.store, world.config, now=later, differences=tmp_path / "found.csv"
    )

    assert (report.state, report.abort_reasons) == (
        "aborted",
        (
            (
                "an object that exists and has a row must be live, got another result for 'b'; nothing that this run saw "
                "counts; check that the listing and the sources write keys alike"
            ),
        ),
    )


def write_differences(path: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write differences as engines do: a CSV file, a Parquet file, or a directory with parts and a mark of success."""
    if not path.suffix:
        path.mkdir()
        (path / "_SUCCESS").touch()
        write_differences(path / "part-0.parquet", rows[:3])
        write_differences(path / "part-1.parquet", rows[3:])
        return
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE found (kind VARCHAR, source VARCHAR, key VARCHAR, num BIGINT, size BIGINT)"
        )
        connection.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?)", rows)
        options = "FORMAT parquet" if path.suffix == ".parquet" else "FORMAT csv, HEADER, FORCE_QUOTE *"
        connection.execute(f"COPY found TO '{path}' ({options})")


async def test_a_missing_file_of_differences_ends_the_run(world: World, tmp_path: Path) -> None:
    """A file that does not exist is not a bucket without differences."""
    await world.pair("a")

    with pytest.raises(InventoryUnusable) as raised:
        await reconcile(
            world.executor, world.store, world.config, now=world.now, differences=tmp_path / "none.csv"
        )

    assert str(raised.value) == (
        f"inventory {tmp_path / 'none.csv'} must be a file of differences, or a directory of such files, got 'none'; "
        "run the statement of `millhand orphans inventory --sql` again"
    )
