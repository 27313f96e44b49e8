"""Claims about exports of a list of jobs."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest
from visitors import ADMIN, bearer

from factory import GENEROUS_SECONDS, insert_job
from millhand.core.clock import SystemClock
from millhand.core.job import JobId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.job_search import JobLine
from millhand.shells.web.database import WebDatabase
from millhand.shells.web.hiding import Hiding
from millhand.shells.web.page import PageRequest
from millhand.web import job_search
from millhand.web.export import COLUMNS, FORMATS, NUM_AT_ONCE, Export, csv_lines, exported, ndjson_lines
from millhand.web.search_conditions import SCANNED_LENGTH

AT = datetime(2026, 11, 27, 12, tzinfo=UTC)


def line(**changes: Any) -> JobLine:
    plain = JobLine(
        id=JobId(7), kind="act", queue="mail", state=JobState.AVAILABLE, priority=1, attempt=0, max_attempts=25,
        args='{"to": "ada"}', args_bytes=20, tags=("eu", "vip"), error=None, created_at=AT, scheduled_at=AT,
        attempted_at=None, finalized_at=None, client=None,
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


def cells(*jobs: JobLine) -> list[dict[str, str]]:
    text = (FORMATS["csv"].head + csv_lines(jobs)).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_has_a_column_for_each_field() -> None:
    """The first line names the columns; instants are in ISO 8601, and tags are joined."""
    [row] = cells(line(error='a "quote", and\na line'))

    assert list(row) == list(COLUMNS)
    assert (row["id"], row["tags"], row["created_at"], row["finalized_at"]) == (
        "7", "eu vip", "2026-11-27T12:00:00+00:00", "",
    )  # fmt: skip
    assert (row["args"], row["error"]) == ('{"to": "ada"}', 'a "quote", and\na line')


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])  # noqa: RUF001 - wide ones
def test_no_cell_of_csv_is_a_formula(begin: str) -> None:
    """A text that a spreadsheet would calculate begins with an apostrophe, in each column; a number stays one."""
    evil = f"{begin}HYPERLINK(1)"

    [row] = cells(line(id=-7, kind=evil, queue=evil, args=evil, error=evil, client=evil, tags=(evil,)))

    texts = {name: row[name] for name in ("kind", "queue", "args", "error", "client", "tags")}
    assert texts == dict.fromkeys(texts, f"'{evil}")
    assert row["id"] == "-7"


def test_ndjson_has_args_as_json() -> None:
    """Each line is an object with all fields; args are JSON, and args that were cut are left out."""
    cut = '{"to": "' + "a" * SCANNED_LENGTH

    first, second = map(json.loads, ndjson_lines([exported(line()), exported(line(args=cut))]).splitlines())

    assert list(first) == list(COLUMNS)
    assert (first["args"], first["tags"], first["state"]) == ({"to": "ada"}, ["eu", "vip"], "available")
    assert (second["args"], second["args_bytes"]) == (None, 20)


@pytest.mark.slow
async def test_export_has_what_the_search_finds_within_the_limits_of_the_user(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The export has the jobs that the search selects and the user sees, as a file; an invalid search is a problem."""
    ids = [
        (await insert_job(schema_driver.pool, state, kind=kind, queue=kind, args='{"to": "ada"}')).id
        for kind, state in (
            ("other", JobState.DISCARDED),
            ("mail", JobState.DISCARDED),
            ("mail", JobState.RUNNING),
        )
    ]

    answer = await browser.get("/jobs.ndjson?q=state:discarded")
    limited = await browser.get("/api/v1/jobs.csv", headers=bearer("other"))
    invalid = await browser.get("/api/v1/jobs.csv?q=atempt:5")
    page = (await browser.get("/jobs?q=state:discarded", headers=bearer("viewer"))).text

    assert sorted(json.loads(one)["id"] for one in answer.text.splitlines()) == ids[:2]
    assert answer.headers["content-disposition"] == 'attachment; filename="jobs.ndjson"'
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == (
        "application/x-ndjson",
        "no-store",
    )
    assert [row["id"] for row in csv.DictReader(io.StringIO(limited.text))] == [str(ids[0])]
    assert (invalid.status_code, "atempt" in invalid.json()["detail"]) == (400, True)
    assert 'href="/jobs.csv?q=state%3Adiscarded"' in page


async def begun(
    driver: AsyncpgDriver, form: str = "ndjson", *, export: Export | None = None, **query: str
) -> AsyncIterator[str]:
    """Begin an export of pages of two jobs, up to four jobs, and return its parts."""
    database = WebDatabase(driver, SystemClock())
    request = PageRequest(database=database, user=ADMIN, hide=Hiding(), now=AT, query=query)
    export = export or Export(jobs_max=4, page_size=2)
    parts = await export.begin(request, FORMATS[form])
    return (part.decode() async for part in parts)


@pytest.mark.slow
async def test_export_goes_on_from_its_last_line(schema_driver: AsyncpgDriver) -> None:
    """Pages are read until the limit; the last line has the cursor, and exports from there have each other job once."""
    ids = {(await insert_job(schema_driver.pool)).id for _ in range(7)}

    first = "".join([part async for part in await begun(schema_driver)])
    *jobs, end = map(json.loads, first.splitlines())
    rest = "".join([part async for part in await begun(schema_driver, after=end["after"])])
    table = "".join([part async for part in await begun(schema_driver, "csv")])

    assert (len(jobs), end["stop"]) == (4, "jobs")
    jobs += map(json.loads, rest.splitlines())
    assert sorted(one["id"] for one in jobs) == sorted(ids)
    assert table.splitlines()[-1] == f"more,after={end['after']},stop=jobs"


@pytest.mark.slow
async def test_export_that_loses_its_database_says_where_it_ended(
    schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the database does not answer in the middle, what was sent stays valid, and the last line has the cursor."""
    ids = [(await insert_job(schema_driver.pool)).id for _ in range(3)]
    parts = await begun(schema_driver)
    sent = [await anext(parts), await anext(parts)]
    monkeypatch.setattr(job_search, "DEADLINE_SECONDS", 0.5)

    async with schema_driver.pool.begin() as tx:
        await tx.fetch(f"LOCK TABLE {schema_driver.schema}.river_job IN ACCESS EXCLUSIVE MODE")
        sent += [part async for part in parts]

    *jobs, end = map(json.loads, "".join(sent).splitlines())
    assert [one["id"] for one in jobs] == ids[:0:-1]
    assert end == {"after": f"i{ids[1]}", "stop": "error"}


async def test_reader_that_stalls_keeps_no_other_export_waiting(schema_driver: AsyncpgDriver) -> None:
    """While as many readers as read at once take nothing more, another export is sent to its end, and theirs later."""
    ids = [(await insert_job(schema_driver.pool)).id for _ in range(3)]
    export = Export(jobs_max=4, page_size=2)
    stalled = [await begun(schema_driver, export=export) for _ in range(NUM_AT_ONCE)]
    firsts = [await anext(parts) + await anext(parts) for parts in stalled]

    async with asyncio.timeout(GENEROUS_SECONDS):
        sent = ["".join([part async for part in await begun(schema_driver, export=export)])]
    sent += [
        first + "".join([part async for part in parts]) for first, parts in zip(firsts, stalled, strict=True)
    ]

    assert [[json.loads(one)["id"] for one in text.splitlines()] for text in sent] == [ids[::-1]] * 3
