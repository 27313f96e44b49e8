"""The metrics of one client that are read at the moment of a collection: what runs, waits and leads."""

from __future__ import annotations

import platform

from millhand.core.clock import Clock, ServerClock
from millhand.core.job import ClientId
from millhand.core.metrics import definitions
from millhand.core.metrics.points import Points, number, numbers
from millhand.engine.completer import Completer
from millhand.engine.job_executor import JobExecutor
from millhand.engine.leadership import Leadership
from millhand.engine.outage import Outage
from millhand.engine.queues import WorkedQueues
from millhand.engine.store.leader import LeaderRole
from millhand.version import VERSION


def read_gauges(
    client_id: ClientId,
    *,
    clock: Clock,
    completer: Completer,
    executor: JobExecutor,
    leadership: Leadership | None,
    listens: bool,
    outage: Outage,
    pool_size: int | None,
    queues: WorkedQueues,
) -> list[Points]:
    """Return the gauges of a started client. Any thread may call it."""
    producers = list(queues.producers.items())
    points = [
        number(definitions.INFO, 1, client_id, VERSION, platform.python_version()),
        numbers(definitions.JOBS_RUNNING, {(name,): one.num_running for name, one in producers}),
        numbers(definitions.SLOTS, {(name,): one.max_workers for name, one in producers}),
        numbers(
            definitions.JOBS_STUCK, {(name,): sum(a.is_stuck for a in one.running) for name, one in producers}
        ),
        number(definitions.THREADS_RUNNING, executor.num_plain_calls),
        number(definitions.COMPLETIONS_PENDING, completer.count_kept()),
        number(definitions.STATEMENTS_RUNNING, outage.num_statements),
        number(definitions.DATABASE_UP, outage.is_reachable),
        number(definitions.DATABASE_OUTAGES, outage.num_outages),
    ]
    if pool_size is not None:
        points.append(number(definitions.POOL_SIZE, pool_size))
    if listens:
        points.append(number(definitions.LISTENER_UP, not outage.is_listener_lost))
    if leadership is not None:
        points.append(
            numbers(
                definitions.LEADER, {(role.value,): leadership.elector(role).is_leader for role in LeaderRole}
            )
        )
    if isinstance(clock, ServerClock) and clock.offset_seconds is not None:
        points.append(number(definitions.CLOCK_OFFSET, clock.offset_seconds))
    return points
