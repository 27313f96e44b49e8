"""Methods for jobs: insert, read, list, change and delete, alone and in a transaction."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
from msgspec import UNSET, UnsetType

from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobId, JobState
from millhand.core.unique import UniqueOpts
from millhand.engine.store.job_list import LIMIT_DEFAULT, JobFilters, JobListParams, SortField
from river_conformance import params as p
from river_conformance.echo import Echo
from river_conformance.normalized import Normalized, normalized_job, normalized_result
from river_conformance.protocol import ErrorCode, RpcError
from river_conformance.session import Session

Tx: TypeAlias = "asyncpg.Connection[Any] | None"


def tx_of(session: Session, params: p.Params) -> Tx:
    """Return the transaction that the params name, or None. Raises: RpcError for an unknown handle."""
    handle = getattr(params, "handle", UNSET)
    return None if handle is UNSET else session.transactions.get(handle)


# Insert.


async def insert(session: Session, params: p.InsertParams) -> Normalized:
    """Insert a job."""
    client = await session.client(params.schema)
    return normalized_job((await client.insert(*_pair(params))).job)


async def tx_insert(session: Session, params: p.TxInsertParams) -> Normalized:
    """Insert a job in a transaction."""
    tx = session.transactions.get(params.handle)
    client = await session.client()
    return normalized_job((await client.insert(*_pair(params.job), tx=tx)).job)


async def insert_many(session: Session, params: p.InsertManyParams) -> Normalized:
    """Insert jobs, all or none. River rejects an empty list."""
    tx = tx_of(session, params)
    if not params.jobs:
        raise RpcError(ErrorCode.REJECTED, "jobs must not be empty")
    client = await session.client()
    results = await client.insert_many([_pair(job) for job in params.jobs], tx=tx)
    return {"results": [normalized_result(result) for result in results]}


async def benchmark_enqueue(session: Session, params: p.BenchmarkParams) -> Normalized:
    """Insert jobs one after the other, and return the time of all and the time that 95 % of them needed."""
    client = await session.client()
    times = []
    for _ in range(params.jobs):
        began = time.perf_counter_ns()
        await client.insert(Echo("", 0, "benchmark"))
        times.append(time.perf_counter_ns() - began)
    return {"duration_ns": sum(times), "p95_ns": sorted(times)[(len(times) * 95 - 1) // 100]}


def _pair(job: p.JobToInsert) -> tuple[Echo, InsertOpts]:
    return Echo(job.behavior, job.duration_ms, job.message), _insert_opts(job.opts)


def _insert_opts(opts: p.OptsParams) -> InsertOpts:
    """Return the options; what is 0 or empty is not set, as in Go."""
    return InsertOpts(
        max_attempts=_or_none(opts.max_attempts),
        metadata=_or_none(opts.metadata),
        pending=opts.pending,
        priority=opts.priority or None,
        queue=opts.queue or None,
        scheduled_at=_or_none(opts.scheduled_at),
        tags=_or_none(opts.tags),
        unique=None if opts.unique is UNSET else unique_opts(opts.unique),
    )


def unique_opts(opts: p.UniqueParams) -> UniqueOpts:
    """Return the options of a unique job. Raises: InvalidJob."""
    return UniqueOpts(
        by_args=opts.by_args,
        by_period=timedelta(milliseconds=opts.by_period_ms) or None,
        by_queue=opts.by_queue,
        by_state=opts.by_state or None,
        exclude_kind=opts.exclude_kind,
    )


def _or_none(value: Any | UnsetType) -> Any | None:
    return None if value is UNSET else value


# One job.


async def get(session: Session, params: p.JobParams) -> Normalized:
    """Return a job."""
    tx = tx_of(session, params)
    client = await session.client(getattr(params, "schema", ""))
    return normalized_job(await client.jobs.get(params.id, tx=tx))


async def cancel(session: Session, params: p.JobParams) -> Normalized:
    """Cancel a job."""
    tx = tx_of(session, params)
    return normalized_job(await (await session.client()).jobs.cancel(params.id, tx=tx))


async def retry(session: Session, params: p.JobParams) -> Normalized:
    """Retry a job."""
    tx = tx_of(session, params)
    return normalized_job(await (await session.client()).jobs.retry(params.id, tx=tx))


async def delete(session: Session, params: p.JobParams) -> Normalized:
    """Delete a job."""
    tx = tx_of(session, params)
    return normalized_job(await (await session.client()).jobs.delete(params.id, tx=tx))


async def update(session: Session, params: p.UpdateParams) -> Normalized:
    """Store a job's output, if one is given."""
    if params.output is UNSET:
        return await get(session, params)
    tx = tx_of(session, params)
    client = await session.client()
    return normalized_job(await client.jobs.update_output(params.id, params.output, tx=tx))


# Many jobs.


async def list_jobs(session: Session, params: p.ListParams) -> Normalized:
    """Return a page of a list, and the cursor after its last job; null for an empty page."""
    tx = tx_of(session, params)
    filters = _filters(params, params.priorities, params.metadata, params.tags_all, params.tags_any)
    order_by, limit = SortField(params.order_by), _limit(params.limit)
    page = await (await session.client()).jobs.list(
        filters,
        after=_or_none(params.after),
        descending=params.direction == "desc",
        limit=limit,
        order_by=order_by,
        tx=tx,
    )
    order = JobListParams(filters=filters, order_by=order_by)
    cursor = order.cursor_of(page.jobs[-1]).encode() if page.jobs else None
    return {"cursor": cursor, "jobs": [normalized_job(job) for job in page.jobs]}


async def delete_many(session: Session, params: p.DeleteManyParams) -> Normalized:
    """Delete the jobs that match. Without a filter, `all` must be set."""
    tx = tx_of(session, params)
    client = await session.client()
    rows = await client.jobs.delete_many(
        _filters(params), limit=_limit(params.limit), tx=tx, unsafe_all=params.all
    )
    return {"jobs": [normalized_job(row) for row in rows]}


def _limit(limit: int | UnsetType) -> int:
    return LIMIT_DEFAULT if limit is UNSET else limit


def _filters(
    params: p.ListParams | p.DeleteManyParams,
    priorities: Sequence[int] = (),
    metadata: dict[str, Any] | None = None,
    tags_all: Sequence[str] = (),
    tags_any: Sequence[str] = (),
) -> JobFilters:
    """Return the filters; an empty one is not set, as in Go. In Millhand's own lists, no job passes it."""
    return JobFilters(
        ids=[JobId(id) for id in params.ids] or None,
        kinds=params.kinds or None,
        metadata=metadata or None,
        priorities=priorities or None,
        queues=params.queues or None,
        states=[JobState(state) for state in params.states] or None,
        tags_all=tags_all or None,
        tags_any=tags_any or None,
    )
