"""Statements that list parts of the ledger: what each reads of a large one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.db.query import Query
from millhand.db.sql import compile_statement
from millhand.orphans.ledger import action_get_open, run_list
from millhand.orphans.report.ledger_report import (
    RuleCount,
    finding_count,
    finding_list_of_key,
    finding_list_of_rules,
    removal_list_alerts,
    removal_list_of_key,
    removal_list_quarantined,
    removal_sum_quarantined,
    run_get_completed_at,
    run_list_before,
    store_list,
)

# Two stores with a run each hour for two years, and 60,000 findings and as many removals.
FILL = """
INSERT INTO /* schema */millhand_orphan_run (bucket, mode, fingerprint, state, started_at, heartbeat_at, finished_at)
SELECT 'b' || n % 2, 'delete', 'f', 'completed', now(), now(), now() FROM generate_series(1, 20000) AS n;
INSERT INTO /* schema */millhand_orphan_finding
    (bucket, key, kind, reference, rule, is_present, first_seen_at, last_seen_at, sightings, run_id)
SELECT 'b' || n % 2, 'uploads/' || n, 'orphan', 'none', 11 + n % 3 / 2, true, now(), now(), 1, 20000 - n % 2
FROM generate_series(1, 60000) AS n;
INSERT INTO /* schema */millhand_orphan_action (run_id, bucket, key, rule, state, size, created_at, updated_at, alert)
SELECT
    n % 20000, 'b' || n % 2, 'uploads/' || n % 30000, 12, CASE WHEN n % 4 < 3 THEN 'purged' ELSE 'quarantined' END, 7,
    now(), now(), CASE WHEN n % 1000 = 0 THEN 'needed again' END
FROM generate_series(1, 60000) AS n;
ANALYZE /* schema */millhand_orphan_run, /* schema */millhand_orphan_finding, /* schema */millhand_orphan_action;
"""
# The blocks of 8 kB that each may read. Without its index, each would read 500 or more of the tables above.
STATEMENTS: dict[str, tuple[Query[Any], int]] = {
    "stores": (store_list(), 30),
    "last completed run": (run_get_completed_at("b1"), 30),
    "last completed run of a bucket without one": (run_get_completed_at("b2"), 10),
    "runs": (run_list_before("b1", before_id=15_000, limit=21), 30),
    "findings of rules": (
        finding_list_of_rules([RuleCount(19_999, 11, 1), RuleCount(19_999, 12, 1)], after=0, limit=51),
        60,
    ),
    "findings of a key": (finding_list_of_key("b1", "uploads/41", limit=50), 10),
    "removals of a key": (removal_list_of_key("b1", "uploads/41", limit=50), 20),
    "quarantine": (removal_list_quarantined("b1", after=30_000, limit=51), 60),
    "quarantine of a bucket without one": (removal_list_quarantined("b0", after=0, limit=51), 10),
    "runs of a bucket without one": (run_list_before("b2", before_id=None, limit=21), 10),
    "alerts": (removal_list_alerts("b0", limit=20), 120),
    "runs of the command line": (run_list(bucket="b1", limit=20), 30),
    "runs of all buckets": (run_list(bucket=None, limit=20), 30),
    "runs of the command line in a bucket without one": (run_list(bucket="b2", limit=20), 10),
    "open removals": (action_get_open("b1", state="quarantined", after=30_000, limit=51), 60),
    "open removals of a bucket without one": (
        action_get_open("b0", state="quarantined", after=0, limit=51),
        10,
    ),
    "open removals of a state without one": (action_get_open("b1", state="intended", after=0, limit=51), 10),
    "old open removals": (
        action_get_open(
            "b1", state="quarantined", after=0, limit=51, updated_before=datetime(2100, 1, 1, tzinfo=UTC)
        ),
        60,
    ),
}


@pytest.fixture(scope="module")
async def large(module_driver: AsyncpgDriver) -> AsyncpgDriver:
    await module_driver.pool.execute_script(FILL, timeout_seconds=120)
    return module_driver


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def literal(value: object) -> str | None:
    """Return a parameter as PostgreSQL reads it from a text."""
    if isinstance(value, list):
        return "{" + ",".join(map(str, value)) + "}"
    return None if value is None else str(value)


async def explained(
    postgres_url: str, driver: AsyncpgDriver, query: Query[Any], settings: dict[str, str]
) -> tuple[int, list[str]]:
    """Return how many blocks a statement read, and the tables that it read as a whole, bindings excepted."""
    sql, names = compile_statement(query.name, driver.schema)
    connection = await asyncpg.connect(postgres_url, server_settings=settings)
    values = [
        await connection.fetchval("SELECT quote_nullable($1)", literal(query.params[name])) for name in names
    ]
    try:
        await connection.execute(f"PREPARE planned AS {sql}")
        text = await connection.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE planned ({', '.join(values)})"
        )
    finally:
        await connection.close()
    [found] = json.loads(text)
    plan = found["Plan"]
    scans = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], [
        name for name in scans if name != "millhand_orphan_binding"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, PLANNER_SETTINGS], ids=["planner's own choice", "our settings"])
@pytest.mark.parametrize("name", STATEMENTS)
async def test_list_reads_a_bounded_part_of_a_large_ledger(
    postgres_url: str, large: AsyncpgDriver, name: str, settings: dict[str, str]
) -> None:
    """A list reads no table as a whole, and at most so many blocks, wherever its page begins."""
    query, blocks_max = STATEMENTS[name]

    blocks, scans = await explained(postgres_url, large, query, settings)

    assert scans == []
    assert blocks <= blocks_max


@pytest.mark.slow
@pytest.mark.parametrize(
    "query", [finding_count("b1"), removal_sum_quarantined("b0"), removal_sum_quarantined("b1")]
)
async def test_count_ends_at_its_limit(postgres_url: str, large: AsyncpgDriver, query: Query[Any]) -> None:
    """A count reads by an index, and at most its limit of rows."""
    limited = Query(query.name, {**query.params, "limit": 100}, query.parse)

    blocks, scans = await explained(postgres_url, large, limited, PLANNER_SETTINGS)

    assert scans == []
    assert blocks <= 450


@pytest.mark.slow
async def test_counts_of_a_large_ledger_are_right(large: AsyncpgDriver) -> None:
    """The jumps over an index find each pair of run and rule, and each bucket."""
    counts = await large.pool.run(finding_count("b1"))
    stores = await large.pool.run(store_list())

    assert [(one.run_id, one.rule, one.number) for one in counts] == [
        (19_999, 11, 10_000),
        (19_999, 12, 10_000),
    ]
    assert [one.bucket for one in stores] == ["b0", "b1"]
