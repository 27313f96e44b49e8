"""Read the plan of a query on an application's tables: the rows that it scans sequentially, and the tables that it reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from millhand.db.driver.protocol import Executor

# Our connections forbid sequential scans in a transaction, so the plan needs PostgreSQL's defaults.
DEFAULT_PLANNING = (
    "SELECT set_config('enable_seqscan', 'on', true), set_config('plan_cache_mode', 'auto', true), "
    "set_config('max_parallel_workers_per_gather', '0', true)"
)
# The plan holds how many rows a scan returns, not how many it reads.
NUM_ROWS = """
SELECT coalesce(sum(greatest(class.reltuples, 0)), 0)::bigint AS num_rows
FROM unnest($1::text[], $2::text[]) AS scanned (schema, name)
JOIN pg_catalog.pg_namespace AS namespace ON namespace.nspname = scanned.schema
JOIN pg_catalog.pg_class AS class ON class.relnamespace = namespace.oid AND class.relname = scanned.name
"""


async def num_rows_scanned(tx: Executor, sql: str, params: Sequence[object], timeout_seconds: float) -> int:
    """Return how many rows a statement would scan sequentially, 0 if it uses an index for all of them."""
    await tx.fetch(DEFAULT_PLANNING)
    nodes = await _nodes(tx, sql, params, timeout_seconds)
    scans = [node for node in nodes if node.get("Node Type") == "Seq Scan"]
    if not scans:
        return 0
    places = [[scan["Schema"] for scan in scans], [scan["Relation Name"] for scan in scans]]
    known = await tx.fetch(NUM_ROWS, places)
    return max(1, int(known[0]["num_rows"]), *(int(scan["Plan Rows"]) for scan in scans))


async def relations_read(
    tx: Executor, sql: str, params: Sequence[object], timeout_seconds: float
) -> list[tuple[str, str]]:
    """Return schema and name of each table and partition that a statement reads, also through views."""
    nodes = await _nodes(tx, sql, params, timeout_seconds)
    return sorted({(node["Schema"], node["Relation Name"]) for node in nodes if "Relation Name" in node})


async def _nodes(
    tx: Executor, sql: str, params: Sequence[object], timeout_seconds: float
) -> list[Mapping[str, Any]]:
    explained = await tx.fetch(
        f"EXPLAIN (FORMAT JSON, VERBOSE) {sql}", list(params), timeout_seconds=timeout_seconds
    )
    plan = explained[0]["QUERY PLAN"]  # the application's codec may have parsed it
    return list(_walk(json.loads(plan) if isinstance(plan, str) else plan))


def _walk(plan: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(plan, list):
        for part in plan:
            yield from _walk(part)
    elif isinstance(plan, dict):
        yield plan
        for part in plan.values():
            yield from _walk(part)
