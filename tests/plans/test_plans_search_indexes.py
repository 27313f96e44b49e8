"""Plans of what searches by args and metadata, at a hundred thousand rows and without River's search indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest
from plan_recorder import PlanRecorder
from test_plans_search import is_bounded

from dropped_indexes import DROP
from factory import qualified
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.job_search import JobSearch
from millhand.engine.store.periodic_job import RUNS_MAX, PeriodicRun, periodic_job_list_runs
from millhand.web.job_search import ROWS_MAX, Stop, count_jobs, search_jobs
from millhand.web.search import parse_search
from millhand.web.search_conditions import job_search_of

pytestmark = pytest.mark.slow

ARGS = ("args.order.id:4711", "args.region:nowhere", "state:completed args.region:nowhere")
METADATA = ("periodic:nightly", "metadata.x:nowhere", "state:available metadata.x:nowhere")
BOTH = ("args.region:nowhere metadata.x:nowhere",)


@pytest.fixture
async def recorder(postgres_url: str, filled: AsyncpgDriver) -> AsyncIterator[PlanRecorder]:
    """An executor in a transaction in which the indexes are dropped."""
    connection = await asyncpg.connect(postgres_url)
    recorder = PlanRecorder(connection, filled.schema)
    transaction = connection.transaction()
    await transaction.start()
    await recorder.execute_script(DROP)
    yield recorder
    await transaction.rollback()
    await connection.close()


def meaning(line: str) -> JobSearch:
    return job_search_of(parse_search(line), now=datetime.now(UTC), zone=UTC)


async def test_search_without_index_reads_jobs_in_order(recorder: PlanRecorder) -> None:
    """No statement tries to find jobs by an index that is off; a page reads at most 20,000 rows, and says what is off."""
    off = {}
    for line in (*ARGS, *METADATA, *BOTH):
        page = await search_jobs(recorder, meaning(line))
        off[line] = page.unindexed
        assert page.num_read <= ROWS_MAX
        assert page.stop is not Stop.END or page.num_read < ROWS_MAX
        assert await count_jobs(recorder, meaning(line)) == ()

    assert [plan for plan in recorder.plans if not is_bounded(plan)] == []
    assert {plan.name for plan in recorder.plans} == {
        "job_search_by_id", "job_search_by_time", "job_search_ranges", "index_get_columns",
    }  # fmt: skip
    assert off == (
        dict.fromkeys(ARGS, ("args",))
        | dict.fromkeys(METADATA, ("metadata",))
        | dict.fromkeys(BOTH, ("args", "metadata"))
    )


async def test_search_by_another_index_finds_jobs_at_once(recorder: PlanRecorder) -> None:
    """A condition that another index answers is as fast as before beside one that has none."""
    page = await search_jobs(recorder, meaning("kind:kind_60 args.region:nowhere"))

    assert (page.stop, page.jobs) == (Stop.END, ())
    assert "job_search_in_index" in {plan.name for plan in recorder.plans}


RUNS = """
INSERT INTO /* schema */river_job (id, kind, args, metadata, max_attempts)
SELECT -n, 'report', '{}', '{"river:periodic_job_id": "report"}', 25 FROM generate_series(1, 50) AS n
"""


async def test_runs_of_periodic_jobs_are_found_by_their_kinds(recorder: PlanRecorder) -> None:
    """A few rows of each kind lead to the kinds with runs, and no row of another kind is read, however old the runs are."""
    await recorder.execute_script(RUNS)

    runs: list[PeriodicRun] = await recorder.run(periodic_job_list_runs(["report", "nothing"], limit=24))

    [plan] = recorder.plans
    assert [(run.periodic_job_id, run.id, run.num_runs) for run in runs] == [
        ("report", -n, 50) for n in range(1, 25)
    ]
    assert (plan.scans_all, plan.num_read <= RUNS_MAX) == (False, True)


async def test_runs_of_a_frequent_kind_are_found_among_the_newest_jobs(recorder: PlanRecorder) -> None:
    """Runs of a kind with thousands of other jobs are returned if they are new, and reading them is bounded all the same."""
    newest = await recorder.fetch(
        qualified(
            "SELECT id FROM (SELECT id, metadata FROM /* schema */river_job ORDER BY id DESC LIMIT 2000) AS job "
            """WHERE metadata @> '{"river:periodic_job_id": "nightly"}' ORDER BY id DESC""",
            recorder,
        )
    )

    runs: list[PeriodicRun] = await recorder.run(periodic_job_list_runs(["nightly"], limit=24))

    [plan] = recorder.plans
    assert [run.id for run in runs][: len(newest)] == [row["id"] for row in newest] != []
    assert (plan.scans_all, plan.num_read <= 10 * RUNS_MAX) == (False, True)
