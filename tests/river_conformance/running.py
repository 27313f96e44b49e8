"""A client that works the suite's jobs, from `start` or `work` until its stop."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from msgspec import UNSET, UnsetType

from millhand.client import Client
from millhand.core.config import REINDEXER_INDEX_NAMES, REINDEXER_SCHEDULE, Config
from millhand.core.event import Event
from millhand.core.insert_opts import InsertOpts
from millhand.core.periodic import IntervalSchedule, PeriodicJob, every
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.unique import UniqueOpts
from millhand.core.worker import NO_TIMEOUT
from millhand.engine.subscription import Subscription
from river_conformance import params as p
from river_conformance.barriers import Barriers
from river_conformance.echo import Echo
from river_conformance.echo_worker import EchoWorker
from river_conformance.observed import CancellingHandler, Observed, PeriodicStarts, TraceHook, TraceMiddleware
from river_conformance.protocol import ErrorCode, RpcError
from river_conformance.running_driver import RunningDriver

MAX_WORKERS = 4
PERIODIC_ID = "conformance-periodic"
# Intervals that Millhand does not expose. The contract wants them refused, and lets adapters ignore the cleaners'.
UNSUPPORTED = ("elect_interval_ms", "rescuer_interval_ms", "scheduler_interval_ms")


class Running:
    """A started client with what it observes."""

    def __init__(
        self,
        client: Client,
        driver: RunningDriver,
        events: Subscription[Event],
        observed: Observed,
        params: p.StartParams,
    ) -> None:
        self._claim_barrier = _given(params.claim_barrier, "")
        self.client = client
        self.driver = driver
        self.observed = observed
        self.queues = {params.queue}
        self.schema = params.schema
        self._reader = asyncio.create_task(_read(events, observed))

    async def stop(self, barriers: Barriers, *, cancel: bool = False) -> None:
        """Stop the client; `cancel` cancels its attempts at once. A fetch that is held continues."""
        if self._claim_barrier:
            barriers.release(self._claim_barrier)
        await self.client.stop(soft_stop_timeout=timedelta(0) if cancel else None)
        await self._reader  # the stop has ended the events


async def _read(events: Subscription[Event], observed: Observed) -> None:
    async for event in events:
        observed.record_event(event)


async def begin(url: str, pool_size: int, params: p.StartParams, barriers: Barriers) -> Running:
    """Start a client. Raises: RpcError; ConfigError for a setting that Millhand refuses."""
    _check(params, barriers)
    observed = Observed()
    claim_barrier = _given(params.claim_barrier, "")
    hold = (lambda: barriers.wait(claim_barrier)) if claim_barrier else None
    driver = RunningDriver(url, params.schema, hold=hold, pool_size=pool_size)
    client = Client(driver, _config(params, EchoWorker(barriers, observed), observed))
    events = client.subscribe()  # before the first event
    await client.start()
    return Running(client, driver, events, observed, params)


def _check(params: p.StartParams, barriers: Barriers) -> None:
    for name in UNSUPPORTED:
        if getattr(params, name) is not UNSET:
            raise RpcError(
                ErrorCode.UNSUPPORTED, f"{name} must not be set, because Millhand has no such setting"
            )
    if params.periodic_unique and not params.periodic_run_on_start:
        raise RpcError(ErrorCode.REJECTED, "periodic_unique must come with periodic_run_on_start")
    claim_barrier = _given(params.claim_barrier, "")
    if claim_barrier and not barriers.is_current(claim_barrier):
        raise RpcError(
            ErrorCode.INVALID_PARAMS, f"claim_barrier must be created and not released, got {claim_barrier!r}"
        )


def _config(params: p.StartParams, worker: EchoWorker, observed: Observed) -> Config:
    """Return the settings of a client. What is not given is Millhand's default."""
    given: dict[str, Any] = {
        "cancelled_job_retention": _retention(params.cancelled_job_retention_ms),
        "completed_job_retention": _retention(params.completed_job_retention_ms),
        "discarded_job_retention": _retention(params.discarded_job_retention_ms),
        "fetch_poll_interval": _duration(params.fetch_poll_interval_ms),
        "job_stuck_threshold": _duration(params.job_stuck_threshold_ms),
        "job_timeout": NO_TIMEOUT if params.job_timeout_disabled else _duration(params.job_timeout_ms),
        "rescue_stuck_jobs_after": _duration(params.rescue_after_ms),
    }
    delay = _duration(params.retry_delay_ms)
    if not isinstance(delay, UnsetType):
        given["retry_policy"] = ConstantRetryPolicy(delay)
    hooks = [PeriodicStarts(observed), *([TraceHook(observed)] if params.instrumented else [])]
    interval = _duration(params.reindexer_interval_ms)
    return Config(
        client_id=params.client_id,
        dead_job_retention=timedelta(0),  # as River: no deletion waits until a copy is settled
        error_handlers=[CancellingHandler(observed)] if params.error_handler_cancel else [],
        fetch_only_known_kinds=False,
        heartbeat_interval=None,
        hooks=hooks,
        job_stuck_handler=observed.record_stuck,
        leader_election=not params.leader_election_disabled,
        middleware=[TraceMiddleware(observed)] if params.instrumented else [],
        periodic_jobs=_periodic_jobs(params),
        poll_only=params.poll_only,
        prefer_other_leaders=False,
        queues={params.queue: _given(params.max_workers, MAX_WORKERS)},
        reindexer_index_names=_given(params.reindexer_index_names, REINDEXER_INDEX_NAMES),
        reindexer_schedule=REINDEXER_SCHEDULE
        if isinstance(interval, UnsetType)
        else IntervalSchedule(interval),
        schema=params.schema,
        workers=worker.workers(),
        **{name: value for name, value in given.items() if value is not UNSET},
    )


def _periodic_jobs(params: p.StartParams) -> list[PeriodicJob]:
    if not params.periodic_run_on_start:
        return []
    unique = UniqueOpts(by_args=True, by_queue=True) if params.periodic_unique else None
    jobs = [_periodic_job(PERIODIC_ID, "periodic run on start", unique)]
    if params.periodic_unique:
        jobs.append(_periodic_job(f"{PERIODIC_ID}-marker", "periodic marker", None))
    return jobs


def _periodic_job(id: str, message: str, unique: UniqueOpts | None) -> PeriodicJob:
    opts = InsertOpts(metadata={"periodic": True}, unique=unique)
    return every(timedelta(hours=1), Echo("", 0, message), id=id, opts=opts, run_on_start=True)


def _retention(milliseconds: int | UnsetType) -> timedelta | UnsetType | None:
    return None if milliseconds == -1 else _duration(milliseconds)


def _duration(milliseconds: int | UnsetType) -> timedelta | UnsetType:
    return milliseconds if isinstance(milliseconds, UnsetType) else timedelta(milliseconds=milliseconds)


def _given(value: Any | UnsetType, default: Any) -> Any:
    return default if value is UNSET else value
