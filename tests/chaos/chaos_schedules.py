"""
The kept schedules of a chaos run, and their audit.

Each due instant has exactly one job, whatever faults there are: `catch_up` is `all`, and no fault lasts for a hundred
instants. A trigger records each insert in the transaction of the insert, because jobs may be deleted later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from millhand.core.args.codec import RawArgs
from millhand.core.schedule import JobSchedule

KIND = "chaos_schedule"
SINCE, UNTIL = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
SCHEDULES = tuple(
    JobSchedule(
        id=f"chaos.{n}",
        args=RawArgs(KIND, "{}"),
        interval=timedelta(seconds=2 + n % 3),
        catch_up="all",
        jitter=timedelta(seconds=n % 2),
    )
    for n in range(30)
)
RECORD = f"""
CREATE TABLE chaos_scheduled (
    id text NOT NULL, due_at timestamptz NOT NULL, inserted_at timestamptz NOT NULL
);
CREATE FUNCTION chaos_scheduled_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_scheduled VALUES (
        new.metadata ->> 'river:periodic_job_id', (new.metadata ->> 'millhand:due_at')::timestamptz, clock_timestamp()
    );
    RETURN new;
END $$;
CREATE TRIGGER chaos_scheduled_note AFTER INSERT ON river_job FOR EACH ROW WHEN (new.kind = '{KIND}')
EXECUTE FUNCTION chaos_scheduled_note();
"""
RUNS = "SELECT id, due_at, inserted_at FROM chaos_scheduled ORDER BY id, due_at, inserted_at"
# What is due next, and how many jobs the row counts.
NEXT = "SELECT id, next_run_at, num_runs FROM millhand_schedule ORDER BY id"


@dataclass(frozen=True, kw_only=True)
class ScheduledRun:
    """A job of a schedule: the instant at which it was due, and when it was inserted."""

    id: str
    due_at: datetime
    inserted_at: datetime


@dataclass(frozen=True, kw_only=True)
class NextRun:
    """The row of a schedule at the end."""

    id: str
    next_run_at: datetime
    num_runs: int


def wrong_scheduled_runs(
    runs: Sequence[ScheduledRun],
    nexts: Sequence[NextRun],
    figures: dict[str, int],
    lost_at: Sequence[datetime] = (),
) -> Iterator[str]:
    """
    Yield the due instants that do not have exactly one job, in sentences.

    At the instants of `lost_at`, the rows of schedules were lost. Each began anew with its next instant.
    """
    by_id: dict[str, list[ScheduledRun]] = defaultdict(list)
    for run in runs:
        by_id[run.id].append(run)
    rows = {one.id: one for one in nexts}
    for schedule in SCHEDULES:
        row, own = rows.get(schedule.id), by_id.get(schedule.id, [])
        if row is None or not own:
            yield f"schedule {schedule.id} must have a row and jobs, got {row} and {len(own)} jobs"
            continue
        *lost, kept = _parts(own, lost_at)
        for part in (
            *([run.due_at for run in one] for one in lost),
            [*(run.due_at for run in kept), row.next_run_at],
        ):
            yield from _wrong_instants(schedule, part)
        if row.num_runs != len(kept):
            yield f"schedule {schedule.id} must count its {len(kept)} jobs, got {row.num_runs}"
    late = [(run.inserted_at - run.due_at).total_seconds() for run in runs]
    figures["scheduled runs"] = len(runs)
    figures["scheduled runs late by ms at most"] = round(max(late, default=0.0) * 1_000)
    if any(seconds < 0 for seconds in late):
        yield f"no job of a schedule must be inserted before its instant, got {min(late):.3f} s"


def _parts(runs: Sequence[ScheduledRun], lost_at: Sequence[datetime]) -> list[list[ScheduledRun]]:
    """Return the runs between the instants, and those after the last one."""
    bounds = [SINCE, *lost_at, UNTIL]
    return [[run for run in runs if begin <= run.inserted_at < end] for begin, end in pairwise(bounds)]


def _wrong_instants(schedule: JobSchedule, instants: Sequence[datetime]) -> Iterator[str]:
    for before, after in pairwise(instants):
        if after == before:
            yield f"schedule {schedule.id} has two jobs of {before}"
        elif after != (wanted := schedule.next_after(before)):
            yield f"schedule {schedule.id} has no job of {wanted}, but of {before} and then {after}"
