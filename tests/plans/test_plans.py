from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from plan_recorder import PlanRecorder

from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertParams
from millhand.core.job import AttemptError, ClientId, JobId, JobRow, JobState
from millhand.core.transition import StateChange
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.db.health import job_get_table_state, job_list_longest_running
from millhand.db.query import Query
from millhand.db.sql import compile_statement
from millhand.doctor.store import doctor_list_discarded
from millhand.engine.store.client import client_delete_gone, client_get_running, client_get_unregistered
from millhand.engine.store.client_end import (
    job_get_stranded,
    job_get_stuck_beside_clients,
    job_get_stuck_of_client,
    job_rescue_stranded_many,
)
from millhand.engine.store.job import (
    START,
    FetchStart,
    Rescue,
    job_cancel,
    job_complete_many,
    job_count_by_state,
    job_delete_before,
    job_get_available,
    job_get_available_after,
    job_get_available_counted,
    job_get_by_id,
    job_get_by_ids,
    job_get_cancel_requested,
    job_get_locked,
    job_get_lost,
    job_get_stuck,
    job_lock,
    job_rescue_many,
    job_retry,
    job_schedule,
    job_set_state_if_running_many,
)
from millhand.engine.store.job_insert import job_insert_many
from millhand.engine.store.job_list import (
    JobFilters,
    JobListParams,
    SortField,
    UnfinishedJob,
    job_list,
    job_list_unfinished,
)
from millhand.engine.store.job_search import SORTED_MAX, JobSearch
from millhand.engine.store.live import live_get_jobs
from millhand.engine.store.periodic_job import (
    periodic_job_list_ids,
    periodic_job_list_runs,
    periodic_job_list_sources,
)
from millhand.engine.store.queue_load import (
    queue_get_due_kinds,
    queue_get_loads,
    queue_get_newest_jobs,
    queue_list_names,
)
from millhand.flows.report_store import flow_list_stuck
from millhand.history.error_group import error_group_list, job_list_retryable_errors
from millhand.history.fleet_event import fleet_event_list
from millhand.history.job_stats import (
    ErrorRange,
    Step,
    job_stats_count_by_kind,
    job_stats_count_by_queue,
    job_stats_count_failed,
    job_stats_count_longer,
    job_stats_count_minutes,
    job_stats_get_uncounted,
    job_stats_list,
    job_stats_list_by_kind,
    job_stats_list_by_queue,
    job_stats_list_of_kinds,
    job_stats_list_sums,
)
from millhand.history.queue_depth import (
    queue_depth_count_longer,
    queue_depth_list,
    queue_depth_list_at,
    queue_depth_record,
)
from millhand.history.store import TABLES, history_begin, history_delete_intervals
from millhand.limits.job_store import limited_job_get_partition_keys
from millhand.limits.report_store import (
    limit_count_jobs,
    limit_get_changes,
    limit_get_due_kinds,
    limit_get_place,
    limit_list_held,
    limit_partition_get,
    limit_partition_get_current,
)
from millhand.orphans.report.ledger_report import restore_list
from millhand.web.job_search import count_jobs, search_jobs
from millhand.web.search import parse_search
from millhand.web.search_conditions import job_search_of

Node = dict[str, Any]

NUM_JOBS = 40_000
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=30)
LATELY = NOW - timedelta(minutes=1)
ERRORS = ErrorRange(since=LATELY, until=NOW, counts_to=NOW, stride=1)

FETCHING = "river_job_prioritized_fetching_index"
FINALIZED = "river_job_state_and_finalized_at_index"
PRIMARY = "river_job_pkey"
CLIENTS = "millhand_client_pkey"
UNIQUE = "river_job_unique_idx"

# As in a busy database: mostly completed jobs, a backlog in one queue, some jobs in every other state.
FILL = f"""
INSERT INTO /* schema */river_job (
    args, kind, max_attempts, state, queue, priority, created_at, scheduled_at, attempted_at, finalized_at,
    unique_key, unique_states
)
SELECT
    '{{}}', 'kind_' || n % 20, 25, state::/* schema */river_job_state, 'queue_' || n % 5, 1 + n % 4, at, at,
    CASE WHEN state IN ('running', 'completed') THEN at END,
    CASE WHEN state IN ('completed', 'cancelled', 'discarded') THEN at END,
    CASE WHEN n % 10 = 0 THEN sha256(n::text::bytea) END,
    CASE WHEN n % 10 = 0 THEN B'11110101' END
FROM generate_series(1, {NUM_JOBS}) AS n,
LATERAL (SELECT
    timestamptz '2026-11-25 12:00+00' - n * interval '1 second' AS at,
    CASE
        WHEN n % 100 < 60 THEN 'completed' WHEN n % 100 < 80 THEN 'available' WHEN n % 100 < 88 THEN 'scheduled'
        WHEN n % 100 < 92 THEN 'retryable' WHEN n % 100 < 94 THEN 'running' WHEN n % 100 < 96 THEN 'cancelled'
        WHEN n % 100 < 98 THEN 'discarded' ELSE 'pending'
    END AS state) AS row
"""


def params(**given: Any) -> InsertParams:
    return InsertParams(
        kind="act", encoded_args="{}", max_attempts=25, encoded_metadata="{}", priority=1, queue="queue_1",
        state=JobState.AVAILABLE, **given,
    )  # fmt: skip


def change(id: int) -> StateChange:
    return StateChange(
        id=JobId(id), state=JobState.RETRYABLE, event_kind=EventKind.JOB_FAILED, scheduled_at=NOW
    )


def complete(ids: list[JobId]) -> Query[list[JobId]]:
    instants = [NOW] * len(ids)
    return job_complete_many(client_id=ClientId("c"), ids=ids, attempted_ats=instants, finalized_ats=instants)


def give_back(ids: list[JobId]) -> Query[list[JobId]]:
    rescues = [Rescue(id, JobState.AVAILABLE, AttemptError(NOW, 1, "lost")) for id in ids]
    return job_rescue_stranded_many([row(id) for id in ids], rescues)


def row(id: JobId) -> JobRow:
    return JobRow(
        id=id, state=JobState.RUNNING, attempt=1, max_attempts=25, attempted_at=NOW, created_at=NOW,
        finalized_at=None, scheduled_at=NOW, priority=1, encoded_args="{}", attempted_by=("c",), errors=(),
        kind="act", metadata={}, queue="queue_1", tags=(), unique_key=None, unique_states=None,
    )  # fmt: skip


IDS = [JobId(id) for id in range(1, 101)]
UNIQUE_PARAMS = params(unique_key=b"k" * 32, unique_states=0xF5)

# The engine's frequent statements, and the indexes that each must use. None of them may scan the table.
HOT: dict[str, tuple[Query[Any], set[str]]] = {
    "fetch": (
        job_get_available(queue="queue_1", limit=100, client_id=ClientId("c"), now=NOW),
        {FETCHING, PRIMARY},
    ),
    "fetch of an idle queue": (
        job_get_available(queue="nothing", limit=100, client_id=ClientId("c"), now=NOW),
        {FETCHING, PRIMARY},
    ),
    "fetch of known kinds": (
        job_get_available(queue="queue_1", limit=100, client_id=ClientId("c"), kinds=["kind_1"], now=NOW),
        {FETCHING, PRIMARY},
    ),
    "fetch that counts": (
        job_get_available_counted(
            job_get_available(queue="queue_1", limit=100, client_id=ClientId("c"), kinds=["kind_1"], now=NOW)
        ),
        {FETCHING, PRIMARY},
    ),
    "fetch above starts": (
        job_get_available_after(
            (FetchStart(LONG_AGO, 1),) * 4, queue="queue_1", limit=100, client_id=ClientId("c"), now=NOW
        ),
        {FETCHING, PRIMARY},
    ),
    "fetch from the start, priority by priority": (
        job_get_available_after(START, queue="nothing", limit=100, client_id=ClientId("c"), now=NOW),
        {FETCHING, PRIMARY},
    ),
    "search for a lost fetch": (
        job_get_lost(queue="queue_1", client_id=ClientId("c"), after=NOW),
        {FETCHING},
    ),
    "complete": (complete(IDS), {PRIMARY}),
    "search for locked jobs": (job_get_locked(IDS), {PRIMARY}),
    "set state": (job_set_state_if_running_many([change(id) for id in IDS], now=NOW), {PRIMARY}),
    "insert": (job_insert_many([params()], notify_queues=["default"], now=NOW), set()),
    "insert unique": (job_insert_many([UNIQUE_PARAMS], now=NOW), set()),
    "insert many": (job_insert_many([UNIQUE_PARAMS, params(), params()], now=NOW), set()),
    "get": (job_get_by_id(IDS[0]), {PRIMARY}),
    "lock": (job_lock(IDS[0]), {PRIMARY}),
    "get many": (job_get_by_ids(IDS), {PRIMARY}),
    "cancel requested": (job_get_cancel_requested(IDS), {PRIMARY}),
    "cancel": (job_cancel(IDS[0], now=NOW), {PRIMARY}),
    "retry": (job_retry(IDS[0], now=NOW), {PRIMARY}),
    "schedule": (job_schedule(now=NOW, limit=100), {FETCHING, PRIMARY, UNIQUE}),
    "schedule with nothing due": (job_schedule(now=LONG_AGO, limit=1000), {FETCHING, PRIMARY, UNIQUE}),
    "rescue": (
        job_rescue_many(
            [Rescue(id, JobState.RETRYABLE, AttemptError(NOW, 1, "stuck")) for id in IDS], stuck_horizon=NOW
        ),
        {PRIMARY},
    ),
    "search for stuck jobs": (
        job_get_stuck(stuck_horizon=NOW, after_id=JobId(0), limit=1000),
        {FETCHING, PRIMARY},
    ),
    "search for jobs of who is gone": (
        job_get_stranded(after_id=JobId(0), limit=1000, now=NOW),
        {FETCHING, PRIMARY},
    ),
    "search for stuck jobs beside clients": (
        job_get_stuck_beside_clients(stuck_horizon=NOW, after_id=JobId(0), limit=1000),
        {FETCHING, PRIMARY, CLIENTS},
    ),
    "search for stuck jobs of one client": (
        job_get_stuck_of_client(client_id=ClientId("c"), stuck_horizon=NOW, after_id=JobId(0), limit=1000),
        {FETCHING, PRIMARY},
    ),
    "give back": (give_back(IDS), {PRIMARY}),
    "clean with nothing to do": (
        job_delete_before(
            cancelled_horizon=LONG_AGO, completed_horizon=LONG_AGO, discarded_horizon=LONG_AGO, limit=1000
        ),
        {FINALIZED, PRIMARY},
    ),
    "clean": (
        job_delete_before(cancelled_horizon=NOW, completed_horizon=NOW, discarded_horizon=None, limit=1000),
        {FINALIZED, PRIMARY},
    ),
    "count running": (job_count_by_state([JobState.RUNNING]), {FETCHING}),
    "list of what is unfinished": (
        job_list_unfinished(
            JobState.AVAILABLE,
            after=UnfinishedJob(JobId(7), "kind_1", "queue_2", 2, "2026-11-25 08:00+00", None),
            kinds=["kind_1"],
            limit=100,
        ),
        {FETCHING},
    ),
    "list by id": (job_list(JobListParams()), {PRIMARY}),
    "list of the finished": (
        job_list(
            JobListParams(
                filters=JobFilters(states=[JobState.COMPLETED]), order_by=SortField.TIME, descending=True
            )
        ),
        {FINALIZED},
    ),
}


@pytest.fixture(scope="module")
async def filled(module_driver: AsyncpgDriver) -> AsyncpgDriver:
    """A schema with the rows of a busy one, vacuumed and analyzed."""
    await module_driver.pool.execute_script(FILL)
    await module_driver.pool.fetch(f"VACUUM ANALYZE {module_driver.schema}.river_job")
    return module_driver


@pytest.fixture(params=[pytest.param("planner's own choice", marks=pytest.mark.slow), "our settings"])
async def connection(
    request: pytest.FixtureRequest, postgres_url: str, filled: AsyncpgDriver, schema_driver: AsyncpgDriver
) -> AsyncIterator[asyncpg.Connection]:
    """
    A connection with the server's planner settings, and one with Millhand's, in a transaction that is rolled back.

    It is over before the schema of `schema_driver` is emptied.
    """
    settings = PLANNER_SETTINGS if request.param == "our settings" else {}
    connection = await asyncpg.connect(postgres_url, server_settings=settings)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


@pytest.mark.parametrize("name", HOT)
async def test_hot_statement_uses_its_indexes(
    connection: asyncpg.Connection, filled: AsyncpgDriver, name: str
) -> None:
    """On a full table, a frequent statement uses its indexes and never scans the whole table."""
    query, indexes = HOT[name]

    plan = await explain(connection, query, filled.schema)

    assert {node["Index Name"] for node in plan if "Index Name" in node} <= indexes
    # A list reads its index backwards until it has a page.
    assert name.startswith("list") or [node["Node Type"] for node in plan if is_scan_of_all(node)] == []


async def test_plan_made_on_an_empty_table_uses_indexes(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """With Millhand's settings, a plan made on an empty table does not scan the whole table later."""
    await schema_driver.pool.fetch(f"VACUUM ANALYZE {schema_driver.schema}.river_job")
    connection = await asyncpg.connect(postgres_url, server_settings=PLANNER_SETTINGS)

    scans = {
        name: [node["Node Type"] for node in await explain(connection, HOT[name][0], schema_driver.schema)
               if is_scan_of_all(node)]
        for name in ("fetch", "complete", "set state", "schedule", "cancel requested")
    }  # fmt: skip
    await connection.close()

    assert scans == {name: [] for name in scans}


LARGE_IDS = [JobId(id) for id in range(1, 2001)]
LARGE: dict[str, Query[Any]] = {
    "complete": complete(LARGE_IDS),
    "set state": job_set_state_if_running_many([change(id) for id in LARGE_IDS], now=NOW),
    "rescue": job_rescue_many(
        [Rescue(id, JobState.RETRYABLE, AttemptError(NOW, 1, "stuck")) for id in LARGE_IDS], stuck_horizon=NOW
    ),
    "give back": give_back(LARGE_IDS),
    "schedule": job_schedule(now=NOW, limit=2000),
    "insert many": job_insert_many([params()] * 2000, now=NOW),
}


@pytest.mark.parametrize("name", LARGE)
async def test_large_batch_has_no_nested_loop(
    connection: asyncpg.Connection, filled: AsyncpgDriver, schema_driver: AsyncpgDriver, name: str
) -> None:
    """No row of a large batch is compared with all others, on a full or an empty table."""
    for driver in (filled, schema_driver):
        plan = await explain(connection, LARGE[name], driver.schema)

        inner = [node["Plans"][1]["Node Type"] for node in plan if node["Node Type"] == "Nested Loop"]
        assert not {"CTE Scan", "Function Scan", "Materialize"} & set(inner)


@pytest.mark.parametrize(
    ("query", "indexes"),
    [
        (client_get_unregistered(now=NOW), {FETCHING, FINALIZED}),
        (client_delete_gone(last_seen_horizon=NOW), {FETCHING}),
        (client_get_unregistered(now=NOW, has_tables=False), {FETCHING, FINALIZED}),
        (client_get_running(), {FETCHING}),
        (queue_get_loads(["queue_1", "nothing"]), {FETCHING}),
        (queue_list_names(), {FETCHING}),
        (queue_list_names(among=["queue_1", "nothing"]), {FETCHING}),
        (periodic_job_list_ids(), {"river_job_kind", PRIMARY}),
        (
            periodic_job_list_runs(["nightly"], limit=24),
            {"river_job_metadata_index", "river_job_kind", PRIMARY},
        ),
        (periodic_job_list_sources([JobId(7), JobId(9)], args_length=200), {PRIMARY}),
        (restore_list("orphan_restore", limit=10), {"river_job_kind", PRIMARY}),
        (queue_get_due_kinds(["queue_1", "nothing"], limit=200, now=NOW), {FETCHING}),
        (queue_get_newest_jobs("queue_1", limit=20), {FETCHING, PRIMARY}),
        (limit_count_jobs(["queue_1", "nothing"]), set()),
        (limit_get_place(JobId(7)), {PRIMARY}),
        (limit_get_due_kinds(["queue_1", "nothing"], limit=200), {PRIMARY}),
        (limit_partition_get_current("queue_1", ['["a"]']), {PRIMARY}),
        (limited_job_get_partition_keys([JobId(7)]), set()),
        (limit_partition_get("queue_1", '["a"]'), set()),
        (limit_get_changes(), set()),
        (live_get_jobs(), {FETCHING, FINALIZED, PRIMARY}),
        (history_begin(holder="me", now=NOW), {FETCHING, FINALIZED}),
        (job_stats_get_uncounted(since=LATELY, until=NOW, counted_to=LATELY), {FINALIZED}),
        (job_stats_count_minutes([LATELY], stride=1), {FINALIZED}),
        (job_stats_count_failed(ERRORS), {FETCHING, FINALIZED}),
        (queue_depth_record(now=NOW), {FETCHING}),
        (job_list_longest_running(limit=10), {FETCHING}),
        (job_list_retryable_errors(), {FETCHING}),
        (job_get_table_state(), {FINALIZED}),
        (doctor_list_discarded(since=NOW), {FINALIZED}),
        (limit_list_held(limit=1_000), {PRIMARY}),
        (flow_list_stuck(before=NOW, num_flows=1_000, num_tasks=10_000), {PRIMARY}),
    ],
    ids=lambda value: value.name if isinstance(value, Query) else "",
)
async def test_statements_about_clients_and_queues_never_scan_all_jobs(
    connection: asyncpg.Connection, filled: AsyncpgDriver, query: Query[Any], indexes: set[str]
) -> None:
    """What leader, clients, the page and the doctor ask about clients and queues is bounded, however many jobs there are."""
    plan = await explain(connection, query, filled.schema)

    of_jobs = [node for node in plan if node.get("Relation Name") == "river_job" or "Index Name" in node]
    assert [
        node for node in of_jobs if node.get("Relation Name") == "river_job" and is_scan_of_all(node)
    ] == []
    assert {
        node["Index Name"] for node in plan if str(node.get("Index Name", "")).startswith("river_job")
    } == indexes


# Of a queue, there are more than a report counts: of a small table, the planner rightly reads everything.
NUM_LIMITED = 200_000
FILL_LIMITED = f"""
INSERT INTO /* schema */millhand_limit (queue, at_once, by_args, by_kind, in_order, is_shared)
SELECT 'queue_' || n, 2, '{{a}}', false, true, false FROM generate_series(0, 4) AS n;
INSERT INTO /* schema */millhand_limit_partition (queue, partition_key, opens_at)
SELECT 'queue_' || n % 5, '[' || n || ']', CASE WHEN n % 20 = 0 THEN now() END FROM generate_series(1, 10000) AS n;
INSERT INTO /* schema */millhand_limited_job (job_id, queue, partition_key, priority, due_at, is_later, admitted_at)
SELECT n, 'queue_' || n % 5, '[' || n % 10000 || ']', 1, now(), n % 50 = 0, CASE WHEN n % 50 = 1 THEN now() END
FROM generate_series(1, {NUM_LIMITED}) AS n;
ANALYZE /* schema */millhand_limit, /* schema */millhand_limit_partition, /* schema */millhand_limited_job;
"""


@pytest.mark.slow
async def test_reports_on_limits_never_scan_the_limited_jobs(
    connection: asyncpg.Connection, filled: AsyncpgDriver
) -> None:
    """Numbers of waiting jobs, places and partitions are ranges of indexes, however many jobs wait; limits are few."""
    queries: list[Query[Any]] = [
        limit_count_jobs(["queue_1", "nothing"]), limit_get_place(JobId(7)), limit_partition_get("queue_1", '["a"]'),
        limit_get_changes(), limit_get_due_kinds(["queue_1", "nothing"], limit=200),
        limit_partition_get_current("queue_1", ["[1]", "[2]"]), limited_job_get_partition_keys([JobId(7)]),
    ]  # fmt: skip
    async with connection.transaction():
        await connection.execute(FILL_LIMITED.replace("/* schema */", f'"{filled.schema}".'))

        scans = {
            query.name: [node["Relation Name"] for node in await explain(connection, query, filled.schema)
                         if "Relation Name" in node and node["Relation Name"] != "millhand_limit" and is_scan_of_all(node)]
            for query in queries
        }  # fmt: skip

    assert {name: tables for name, tables in scans.items() if tables} == {}


SEARCHES = (
    "", "state:completed", "state:available,retryable", "state:discarded,available", "kind:kind_3", "queue:queue_1",
    "args.x:1", "tag:x state:retryable",
)  # fmt: skip


@pytest.mark.slow
async def test_searches_of_the_page_use_indexes(filled: AsyncpgDriver, postgres_url: str) -> None:
    """With the server's own settings, no list, search or count of the web page scans the whole table or sorts much of it."""
    connection = await asyncpg.connect(postgres_url)
    recorder = PlanRecorder(connection, filled.schema)
    for line in SEARCHES:
        search = job_search_of(parse_search(line), now=NOW, zone=UTC)
        await search_jobs(recorder, search)
    await count_jobs(recorder, JobSearch())
    await connection.close()

    assert [plan for plan in recorder.plans if plan.scans_all or plan.num_sorted > SORTED_MAX] == []
    assert {plan.name for plan in recorder.plans} >= {
        "job_search_by_id", "job_search_by_time", "job_search_in_index", "job_count_bounded",
    }  # fmt: skip


# Twenty kinds, each in one of five queues, for six hours by minute.
FILL_HISTORY = """
INSERT INTO /* schema */millhand_job_stats
SELECT 60, timestamptz '2026-11-25 12:00Z' - n * interval '1 minute', 'kind_' || k, queue, 9, 0, 0, 0, 1, 1, '{9}', '{9}', 1
FROM generate_series(1, 360) AS n, generate_series(1, 20) AS k, LATERAL (VALUES ('*'), ('queue_' || k % 5)) AS q (queue);
INSERT INTO /* schema */millhand_queue_depth
SELECT 60, timestamptz '2026-11-25 12:00+00' - n * interval '1 minute', 'queue_' || k, 1, 1, 1, 1, 1, FALSE
FROM generate_series(1, 1000) AS n, generate_series(1, 5) AS k;
INSERT INTO /* schema */millhand_error_stats
SELECT 60, timestamptz '2026-11-25 12:00+00' - n * interval '1 minute', k, 'kind', 1
FROM generate_series(1, 100) AS n, generate_series(1, 50) AS k;
INSERT INTO /* schema */millhand_error_group
SELECT n, 'kind', n, 1, at, at
FROM generate_series(1, 2000) AS n, LATERAL (SELECT timestamptz '2026-11-25 12:00+00' - n * interval '1 hour' AS at) AS seen;
INSERT INTO /* schema */millhand_fleet_event
SELECT timestamptz '2026-11-25 12:00+00' - n * interval '1 hour', 'client_started', n, '{}'
FROM generate_series(1, 2000) AS n;
ANALYZE /* schema */millhand_job_stats, /* schema */millhand_queue_depth, /* schema */millhand_error_stats,
    /* schema */millhand_error_group, /* schema */millhand_fleet_event;
"""
HISTORY: list[Query[Any]] = [
    job_stats_list(Step.MINUTE, since=LATELY, until=NOW, kind="kind_7"),
    job_stats_list_by_kind(Step.MINUTE, [LATELY]),
    job_stats_count_by_kind(Step.MINUTE, [LATELY]),
    job_stats_list_of_kinds(["kind_7"], Step.MINUTE, [LATELY]),
    job_stats_list_by_queue(Step.MINUTE, [LATELY]),
    job_stats_list_sums(Step.MINUTE, since=LATELY, until=NOW, kinds=["kind_7"], queues=["*"]),
    job_stats_count_by_queue(Step.MINUTE, [LATELY], queues=["queue_1"]),
    job_stats_count_longer(Step.HOUR, [LATELY]),
    queue_depth_list(Step.MINUTE, since=LATELY, until=NOW, queue="queue_1"),
    queue_depth_list_at(Step.MINUTE, [LATELY], queues=["queue_1"]),
    queue_depth_count_longer(Step.HOUR, [LATELY]),
    error_group_list(Step.MINUTE, [LATELY], since=LATELY),
    fleet_event_list(since=LATELY, until=NOW, limit=100),
    *(history_delete_intervals(table, at=NOW, limit=100) for table in TABLES),
]


@pytest.mark.slow
async def test_statements_of_the_history_never_scan_its_tables(
    connection: asyncpg.Connection, filled: AsyncpgDriver
) -> None:
    """What the page reads and the writer adds up and deletes is a range of an index."""
    async with connection.transaction():
        await connection.execute(FILL_HISTORY.replace("/* schema */", f'"{filled.schema}".'))

        scans = {
            query.name: [node["Relation Name"] for node in await explain(connection, query, filled.schema)
                         if node["Node Type"] == "Seq Scan"]
            for query in HISTORY
        }  # fmt: skip

    assert {name: tables for name, tables in scans.items() if tables} == {}


@pytest.mark.parametrize("settings", [{}, PLANNER_SETTINGS])
async def test_list_by_id_of_a_rare_state_reads_the_jobs_of_that_state(
    filled: AsyncpgDriver, postgres_url: str, settings: dict[str, str]
) -> None:
    """A list by id of states that few jobs have reads 2,000 rows at its end, or the index entries of these states."""
    connection = await asyncpg.connect(postgres_url, server_settings=settings)
    recorder = PlanRecorder(connection, filled.schema)
    filters = JobFilters(states=[JobState.RUNNING, JobState.CANCELLED])  # 4 % of the jobs
    pages = [
        await recorder.run(job_list(JobListParams(filters=filters, limit=1_000, descending=descending)))
        for descending in (False, True)
    ]
    await connection.close()

    assert [len(page) for page in pages] == [1_000, 1_000]
    assert [(plan.indexes, plan.scans_all) for plan in recorder.plans] == [({FETCHING, PRIMARY}, False)] * 2
    assert max(plan.num_read for plan in recorder.plans) <= NUM_JOBS * 6 // 100


async def test_fetch_reads_no_more_than_it_takes(
    connection: asyncpg.Connection, filled: AsyncpgDriver
) -> None:
    """A fetch of a hundred from a backlog of thousands reads a hundred index entries."""
    query = HOT["fetch"][0]
    sql, names = compile_statement(query.name, filled.schema)
    values = [query.params[name] for name in names]

    plan = as_nodes(await connection.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}", *values))

    [scan] = [node for node in plan if node.get("Index Name") == FETCHING]
    assert (scan["Actual Rows"], scan.get("Rows Removed by Filter", 0)) == (100, 0)


def is_scan_of_all(node: Node) -> bool:
    """Return whether a node reads a whole table, directly or by a whole index; the few clients excepted."""
    if node.get("Relation Name") == "millhand_client":
        return False
    is_by_index = "Index Name" in node and "Scan" in node["Node Type"]
    return node["Node Type"] == "Seq Scan" or (is_by_index and "Index Cond" not in node)


async def explain(connection: asyncpg.Connection, query: Query[Any], schema: str) -> list[Node]:
    """Return the plan's nodes for a query with its params, or for all params where the connection plans once."""
    sql, names = compile_statement(query.name, schema, fragments=query.fragments)
    if await connection.fetchval("SHOW plan_cache_mode") == "auto":
        return as_nodes(
            await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *(query.params[one] for one in names))
        )
    await connection.execute(f"PREPARE planned AS {sql}")
    values = f"({', '.join(['NULL'] * len(names))})" if names else ""
    plan_json = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE planned {values}")
    await connection.execute("DEALLOCATE planned")
    return as_nodes(plan_json)


def as_nodes(plan_json: str) -> list[Node]:
    [plan] = json.loads(plan_json)
    return list(nodes(plan["Plan"]))


def nodes(plan: Node) -> Iterator[Node]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def test_every_hot_statement_is_listed() -> None:
    """Each statement of producer, completer and services is in the table above."""
    listed = {query.name for query, _ in HOT.values()}

    assert {name for name in listed if not re.match(r"job_", name)} == set()
    assert listed >= {
        "job_get_available",
        "job_get_available_after",
        "job_get_available_counted",
        "job_complete_many",
        "job_set_state_if_running_many",
        "job_insert",
        "job_insert_many",
        "job_insert_unique",
    }
