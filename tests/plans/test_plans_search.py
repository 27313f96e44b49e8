"""Plans of the web page's lists, searches, counts and suggestions, at a hundred thousand rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest
from plan_recorder import Plan, PlanRecorder

from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.job_condition import Among
from millhand.engine.store.job_search import JobSearch
from millhand.web.job_search import COUNTED_MAX, ROWS_MAX, Accuracy, Count, count_jobs, search_jobs
from millhand.web.search import parse_search
from millhand.web.search_conditions import job_search_of
from millhand.web.search_suggestions import suggest

pytestmark = pytest.mark.slow

SORTED_MAX = 10_000
SUGGESTED = ("ki", "kind:k", "args.", "queue:q", "state:", "tag:v")
FILTERS = (
    "",
    "kind:kind_7",
    "kind:kind_60",
    "queue:queue_3",
    "queue:nothing",
    "args.order.id:4711",
    "args.region:eu",
    "args.region:nowhere",
    "periodic:nightly",
    "tag:vip",
    "tag:nowhere",
    "error:timeout",
    "client:worker-3",
    "attempt:>5",
    "priority:2",
    "failed:<1h",
    "created:2h..1h",
    "scheduled:<1h",
    "finalized:2h..1h",
    "nowhere",
    "-kind:kind_7 -tag:eu",
    "id:5,6,7",
    "id:>5",
)
STATES = ("", "state:completed", "state:retryable", "state:available,scheduled", "state:retryable,discarded")


# All queues, so that no statistics answer the count.
EVERY_QUEUE = Among("queue", tuple(f"queue_{number}" for number in range(11)))


@pytest.fixture
async def recorder(postgres_url: str, filled: AsyncpgDriver) -> AsyncIterator[PlanRecorder]:
    """An executor on a connection with the server's own settings, as in a pool of the user's."""
    connection = await asyncpg.connect(postgres_url)
    yield PlanRecorder(connection, filled.schema)
    await connection.close()


def is_bounded(plan: Plan) -> bool:
    return not plan.scans_all and plan.num_read <= 2 * SORTED_MAX and plan.num_sorted <= SORTED_MAX


async def test_no_statement_of_a_search_reads_much(recorder: PlanRecorder) -> None:
    """
    Each statement of each filter in each order reads and sorts at most 10,000 rows, by an index.

    That holds for the page after the first, too; and a page reads at most 20,000 rows in all.
    """
    for filters in FILTERS:
        for states in STATES:
            search = job_search_of(parse_search(f"{states} {filters}"), now=datetime.now(UTC), zone=UTC)
            page = await search_jobs(recorder, search)
            assert page.num_read <= ROWS_MAX
            if page.after is not None:
                await search_jobs(recorder, search, after=page.after)

    unbounded = [plan for plan in recorder.plans if not is_bounded(plan)]
    print(*unbounded, sep="\n")
    slowest = max(recorder.plans, key=lambda plan: plan.milliseconds)
    print(f"{len(recorder.plans)} statements; the slowest is {slowest}")
    assert unbounded == []
    assert {plan.name for plan in recorder.plans} == {
        "job_search_by_id", "job_search_by_time", "job_search_ids_of_period", "job_search_in_index", "job_search_is_rare",
        "job_search_ranges", "index_get_columns",
    }  # fmt: skip


async def test_no_count_or_suggestion_reads_much(recorder: PlanRecorder) -> None:
    """A count reads at most 10,001 index entries of each state, and suggestions read a few hundred rows."""
    for filters in FILTERS:
        await count_jobs(recorder, job_search_of(parse_search(filters), now=datetime.now(UTC), zone=UTC))
    counts = list(recorder.plans)
    recorder.plans.clear()
    for line in SUGGESTED:
        await suggest(recorder, line, len(line))

    assert [plan for plan in counts if plan.scans_all or plan.num_read > 8 * (COUNTED_MAX + 1)] == []
    assert [plan for plan in recorder.plans if plan.scans_all or plan.num_read > 1_000] == []
    assert {plan.name for plan in counts} >= {
        "job_count_bounded",
        "job_count_in_index",
        "job_count_estimated",
    }


async def test_counts_say_how_accurate_they_are(recorder: PlanRecorder) -> None:
    """Up to 10,000 jobs of a state are counted; a larger state that ended is estimated within 2 %, others are a minimum."""
    jobs = f'"{recorder._schema}".river_job'
    exact = dict(await recorder._connection.fetch(f"SELECT state::text, count(*) FROM {jobs} GROUP BY state"))

    counts = {one.state: one for one in await count_jobs(recorder, JobSearch())}
    of_queue = {one.state: one for one in await count_jobs(recorder, JobSearch(conditions=(EVERY_QUEUE,)))}

    completed = counts.pop(JobState.COMPLETED)
    assert completed.accuracy is Accuracy.ESTIMATED
    assert abs(completed.num_jobs / exact["completed"] - 1) < 0.02
    assert {one.state: one.num_jobs for one in counts.values()} == {
        state: exact.get(state, 0) for state in counts
    }
    assert {one.accuracy for one in counts.values()} == {Accuracy.EXACT}
    assert of_queue[JobState.COMPLETED] == Count(JobState.COMPLETED, COUNTED_MAX, Accuracy.AT_LEAST)
