"""The data pipeline: a schedule and a backfill, against a partner's server that fails at first and has a broken file."""

from __future__ import annotations

import re
from collections import Counter
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from application import EXAMPLES, commands, run, started
from http_server import Answer, Asked, http_server

from millhand import Client, JobFilters, JobRow
from served import until

pytestmark = pytest.mark.slow

PIPELINE = "data_pipeline"
BROKEN_DAY = date(2026, 11, 2)


class Partner:
    """The partner's server. It answers the first request for each file of Hamburg with 503."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def __call__(self, asked: Asked) -> Answer:
        self.asked[asked.path] += 1
        if asked.path.startswith("/hamburg/") and self.asked[asked.path] == 1:
            return Answer(503)
        amount = "many" if asked.path == f"/hamburg/{BROKEN_DAY}.csv" else "20"
        return Answer(200, f"product,amount\napples,10\npears,{amount}\n")


async def test_pipeline_reports_each_day_once_all_shops_are_imported(empty_url: str) -> None:
    """The schedule and a backfill report their days after a retry; a broken file cancels its job, and needs no report."""
    partner = Partner()
    with http_server(partner) as address:
        variables = {"DATABASE_URL": empty_url, "SALES_API": address, "PIPELINE_CRON": "@every 1s"}
        setup, work, backfill = commands(PIPELINE)
        await run(PIPELINE, setup, **variables)
        async with started(PIPELINE, work, **variables) as worker, Client(empty_url) as client:
            printed = [await run(PIPELINE, backfill, **variables) for _ in range(2)]

            async def jobs() -> list[JobRow]:
                return (await client.jobs.list(JobFilters(kinds=["import_shop", "report_day"]))).jobs

            seen = await until(
                jobs, lambda rows: len(rows) == 8 and all(row.state.is_finalized for row in rows)
            )
            code = await worker.stop()

    yesterday = datetime.now(ZoneInfo("Europe/Berlin")).date() - timedelta(days=1)
    assert printed == ["planned 2 of 2 days", "planned 0 of 2 days"]
    assert await reports(empty_url) == {date(2026, 11, 1): 60, yesterday: 60}
    assert [
        (job.attempt, job.args["day"], job.errors[-1].error) for job in seen if job.state == "cancelled"
    ] == [
        (
            2,
            str(BROKEN_DAY),
            "JobCancelError: line 3 must have a product and a whole amount, got {'product': 'pears', 'amount': 'many'}",
        )
    ]
    assert Counter(partner.asked.values()) == {1: 3, 2: 3}  # each file of Berlin once, each of Hamburg twice
    assert code == 0, worker.text


async def test_sample_sales_are_reported(empty_url: str) -> None:
    """With the server that the README starts in place of the partner, the worker reports both days of its backfill."""
    readme = (EXAMPLES / PIPELINE / "README.md").read_text()
    [serve] = re.findall(r"`(python -m http\.server .*) 8081`", readme)
    setup, work, backfill = commands(PIPELINE)
    async with started(PIPELINE, serve, "0", "--bind", "127.0.0.1") as partner:
        variables = {"DATABASE_URL": empty_url, "SALES_API": await partner.address()}
        for command in (setup, backfill):
            await run(PIPELINE, command, **variables)
        async with started(PIPELINE, work, **variables):
            seen = await until(lambda: reports(empty_url), lambda found: len(found) == 2)

    assert seen == {date(2026, 11, 1): 310, date(2026, 11, 2): 240}


async def reports(url: str) -> dict[date, int]:
    """Return the totals by day."""
    connection = await asyncpg.connect(url)
    try:
        return dict(await connection.fetch("SELECT day, total FROM reports"))
    finally:
        await connection.close()
