"""The checks of clients, queues and jobs, and of a configuration: each asks the database, and returns a verdict."""

from __future__ import annotations

from datetime import timedelta

from millhand.db.sql import LINE_MILLHAND
from millhand.doctor import deploy_checks, fleet_checks
from millhand.doctor.context import QUEUES_MAX, Context, Deployed
from millhand.doctor.fleet_figures import is_led_by_ours
from millhand.doctor.fleet_verdict import Figures
from millhand.doctor.periodic_figures import load_runs, periodic_figures
from millhand.doctor.store import doctor_list_discarded
from millhand.engine.store.client import client_get_running
from millhand.engine.store.leader import LeaderRole
from millhand.engine.store.periodic_job import periodic_job_list_runs
from millhand.flows import checks as flow_checks
from millhand.flows.report_store import flow_list_stuck
from millhand.limits import checks as limit_checks
from millhand.limits.report_store import limit_get_shape, limit_list_held
from millhand.limits.store import SEARCHED_MAX, limit_partition_list_halted
from millhand.shells.doctor.finding import Finding, Found, Unseen

DISCARDED_WITHIN = timedelta(days=1)
# Of a queue, as many of its closed partitions are searched for held ones.
CLOSED_MAX = 10_000
# As many flows, and as many tasks of theirs, are read in about a second.
FLOWS_MAX = 10_000
FLOW_TASKS_MAX = 1_000_000
MIGRATION_OF_FLOWS = 12


async def fleet_leader(context: Context) -> Found:
    return fleet_checks.leader_findings((await context.fleet.get()).figures)


async def fleet_unresponsive(context: Context) -> Found:
    figures = (await context.fleet.get()).figures
    held = await context.executor.run(client_get_running()) if figures.unresponsive else []
    return fleet_checks.unresponsive_findings(figures, held)


async def fleet_versions(context: Context) -> Found:
    return fleet_checks.version_findings((await context.fleet.get()).fleet)


async def fleet_periodic(context: Context) -> Found:
    runs = await load_runs(context.executor)
    periodic = periodic_figures(runs, (await context.server.get()).at)
    return fleet_checks.periodic_findings(Figures(periodic=periodic))


async def fleet_history(context: Context) -> Found:
    return fleet_checks.history_findings(await _with_history(context))


async def queues_unworked(context: Context) -> Found:
    state = await context.fleet.get()
    found: list[Finding | Unseen] = list(fleet_checks.unworked_queue_findings(state.figures))
    if state.num_queues_left_out:
        found.append(
            Unseen(
                reason=f"Only the first {QUEUES_MAX:,} queues by name were checked.",
                remedy="See all:",
                commands=("millhand queue list",),
            )
        )
    return found


async def queues_paused(context: Context) -> Found:
    state = await context.fleet.get()
    return fleet_checks.paused_findings(state.figures, state.reports, (await context.server.get()).at)


async def queues_halted(context: Context) -> Found:
    if not await context.executor.run(limit_get_shape()):
        return []
    halted = await context.executor.run(limit_partition_list_halted(limit=SEARCHED_MAX))
    return limit_checks.halted_findings(halted, (await context.server.get()).at)


async def queues_held(context: Context) -> Found:
    if not await context.executor.run(limit_get_shape()):
        return []
    held = await context.executor.run(limit_list_held(limit=CLOSED_MAX))
    return limit_checks.held_findings(held, (await context.server.get()).at)


async def queues_behind(context: Context) -> Found:
    return fleet_checks.behind_findings(await _with_history(context))


async def kinds_unknown(context: Context) -> Found:
    return fleet_checks.unknown_kind_findings((await context.fleet.get()).figures)


async def kinds_failing(context: Context) -> Found:
    return fleet_checks.failing_findings(await _with_history(context))


async def jobs_overdue(context: Context) -> Found:
    return fleet_checks.overdue_findings((await context.fleet.get()).reports, (await context.server.get()).at)


async def jobs_slow(context: Context) -> Found:
    return fleet_checks.slow_findings(await _with_history(context))


async def jobs_stranded(context: Context) -> Found:
    held = await context.executor.run(client_get_running())
    return fleet_checks.stranded_findings(
        held, (await context.fleet.get()).fleet, (await context.server.get()).at
    )


async def jobs_discarded(context: Context) -> Found:
    since = (await context.server.get()).at - DISCARDED_WITHIN
    discarded = await context.executor.run(doctor_list_discarded(since=since))
    return fleet_checks.discarded_findings(discarded)


async def jobs_cleanup(context: Context) -> Found:
    state = await context.fleet.get()
    is_known = context.is_retention_known and is_led_by_ours(state.fleet)
    return fleet_checks.cleanup_findings(state.figures, context.completed_retention, is_known=is_known)


async def flows_stuck(context: Context) -> Found:
    if MIGRATION_OF_FLOWS not in (await context.applied.get()).get(LINE_MILLHAND, ()):
        return []
    now = (await context.server.get()).at
    query = flow_list_stuck(before=now - flow_checks.STUCK_FOR, num_flows=FLOWS_MAX, num_tasks=FLOW_TASKS_MAX)
    flows, num_left_out = await context.executor.run(query)
    found: list[Finding | Unseen] = list(flow_checks.stuck_findings(flows, now))
    if num_left_out:
        reason = "Only some of the running flows were checked: the oldest, and the smallest of these."
        found.append(
            Unseen(reason=reason, remedy="See all:", commands=("millhand flow list --state running",))
        )
    return found


async def deploy_kinds(context: Context) -> Found:
    return deploy_checks.kind_findings(await _deployed(context).check_queued(context.executor))


async def deploy_periodic(context: Context) -> Found:
    jobs = _deployed(context).periodic_jobs
    ids = [job.id for job in jobs if job.id is not None]
    runs = await context.executor.run(periodic_job_list_runs(ids, limit=1)) if ids else []
    leader = (await context.fleet.get()).fleet.leaders.get(LeaderRole.PERIODIC)
    return deploy_checks.periodic_findings(
        deploy_checks.declared_runs(jobs, {run.periodic_job_id: run.created_at for run in runs}),
        elected_at=None if leader is None else leader.elected_at,
        now=(await context.server.get()).at,
    )


async def _with_history(context: Context) -> Figures:
    """Return the figures with those of the history. Raises: as its load."""
    state = await context.fleet.get()
    if state.history_error is not None:
        raise state.history_error
    return state.figures


def _deployed(context: Context) -> Deployed:
    assert context.deployed is not None  # noqa: S101 - these checks run only with a configuration
    return context.deployed
