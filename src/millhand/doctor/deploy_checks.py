"""Verdicts about a configuration that is about to be deployed, for pipelines."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.core.insert_opts import InsertOpts
from millhand.core.number_text import counted, duration
from millhand.core.periodic import PeriodicJob, Schedule
from millhand.shells.doctor.finding import Finding, Found, Level

# The leader inserts a run within a second of its time.
PERIODIC_GRACE = timedelta(minutes=1)


class UnworkableJobs(msgspec.Struct, frozen=True, kw_only=True):
    """Queued jobs of one kind that a configuration cannot work. `has_worker` says that their args do not fit."""

    kind: str
    num_jobs: int
    example_id: int
    has_worker: bool
    message: str


class PeriodicRuns(msgspec.Struct, frozen=True, kw_only=True):
    """A periodic job that the configuration declares, and when its newest run was inserted."""

    id: str
    schedule: Schedule
    inserted_at: datetime


def kind_findings(unworkable: Sequence[UnworkableJobs]) -> Found:
    """Judge whether the configuration can work the queued jobs."""
    return [
        Finding(
            level=Level.BROKEN,
            subject=f"kind {one.kind}",
            found=f"{counted(one.num_jobs, 'queued job')} of kind {one.kind}, such as {one.example_id}, "
            + (
                f"{'does' if one.num_jobs == 1 else 'do'} not fit: {one.message}."
                if one.has_worker
                else f"cannot run: {one.message}."
            ),
            effect="With this configuration, each attempt fails."
            if one.has_worker
            else "With this configuration, they wait, unless another program works them.",
            remedy="Give new fields a default, or keep the old args class until these jobs are done:"
            if one.has_worker
            else "Keep its worker, or add the kind to aliases=[…] of another. If another program works it:",
            commands=(
                f"millhand job show {one.example_id}"
                if one.has_worker
                else f"millhand doctor --deploy MODULE:CONFIG --elsewhere {shlex.quote(one.kind)}",
            ),
        )
        for one in unworkable
    ]


def declared_runs(jobs: Sequence[PeriodicJob], inserted: Mapping[str, datetime]) -> list[PeriodicRuns]:
    """Return the periodic jobs whose runs can be judged: each has an id and a run, and inserts one whenever it is due."""
    return [
        PeriodicRuns(id=job.id, schedule=job.schedule, inserted_at=inserted[job.id])
        for job in jobs
        # A constructor may skip a run, and a unique job is skipped while another one waits.
        if job.id is not None and job.id in inserted and job.constructor is None and not _is_unique(job)
    ]


def _is_unique(job: PeriodicJob) -> bool:
    of_class = getattr(job.args, "insert_opts", None)
    return any(
        isinstance(opts, InsertOpts) and opts.unique is not None for opts in (job.opts, of_class)
    ) or callable(of_class)


def periodic_findings(runs: Sequence[PeriodicRuns], *, elected_at: datetime | None, now: datetime) -> Found:
    """Judge which periodic jobs were due twice since their last run, and since a client leads, and were not inserted."""
    if elected_at is None:  # fleet.leader judges that
        return []
    return [
        Finding(
            level=Level.HARMFUL,
            subject=f"periodic job {one.id}",
            found=f"Periodic job {one.id} was last inserted {duration(now - one.inserted_at)} ago, and was due twice since.",
            effect="It does not run.",
            remedy="Configure it in every client that may lead, and look for warnings in the log of the leader:",
            commands=("millhand client list",),
        )
        for one in runs
        if (due := _second_due(one.schedule, max(one.inserted_at, elected_at))) is not None
        and due < now - PERIODIC_GRACE
    ]


def _second_due(schedule: Schedule, after: datetime) -> datetime | None:
    first = schedule.next(after)
    return None if first is None else schedule.next(first)
