"""An executor that explains each statement before it runs it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple, TypeVar

import asyncpg

from millhand.db.driver.asyncpg_executor import ConnectionExecutor
from millhand.db.query import Query
from millhand.db.sql import compile_statement

T = TypeVar("T")
Node = dict[str, Any]


class Plan(NamedTuple):
    """What a statement did: its indexes, tables that it read as a whole, and the rows of jobs that it read and sorted."""

    name: str
    indexes: set[str]
    num_read: int
    num_sorted: int
    scans_all: bool
    num_blocks: int
    milliseconds: float
    seq_scans: set[str]


class PlanRecorder(ConnectionExecutor):
    """Runs statements on one connection, and keeps the plan of each."""

    __slots__ = ("plans",)

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        super().__init__(connection, schema)
        self.plans: list[Plan] = []

    @property
    def connection(self) -> asyncpg.Connection:
        return self._connection

    async def run(self, query: Query[T]) -> T:
        sql, names = compile_statement(query.name, self._schema, fragments=query.fragments)
        if query.name != "job_search_settings":
            explain = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {sql}"
            text = await self._connection.fetchval(explain, *(query.params[name] for name in names))
            [explained] = json.loads(text)
            self.plans.append(plan_of(query.name, explained))
        return await super().run(query)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[PlanRecorder]:
        async with self._connection.transaction():
            yield self


def plan_of(name: str, explained: Node) -> Plan:
    nodes = [node for node in all_nodes(explained["Plan"]) if node["Actual Loops"]]
    of_jobs = [node for node in nodes if node.get("Relation Name") == "river_job" or is_job_index(node)]
    return Plan(
        name=name,
        indexes={node["Index Name"] for node in nodes if "Index Name" in node},
        num_read=int(max((rows_read(node) for node in of_jobs), default=0)),
        num_sorted=int(
            max((rows_of(node["Plans"][0]) for node in nodes if "Sort" in node["Node Type"]), default=0)
        ),
        scans_all=any(node["Node Type"] == "Seq Scan" for node in of_jobs),
        num_blocks=explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"],
        milliseconds=explained["Execution Time"],
        seq_scans={node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"},
    )


def all_nodes(plan: Node) -> Iterator[Node]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from all_nodes(inner)


def is_job_index(node: Node) -> bool:
    return str(node.get("Index Name", "")).startswith("river_job")


def rows_of(node: Node) -> float:
    """Return how many rows a node returned in all of its loops."""
    return float(node["Actual Rows"] * node["Actual Loops"])


def rows_read(node: Node) -> float:
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return rows_of(node) + float(removed * node["Actual Loops"])
