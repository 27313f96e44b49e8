"""
Runs workers under faults of processes, network, clocks and the database for minutes, and then audits the result.

    python tests/chaos/chaos_run.py --minutes 10 --seed 1
    python tests/chaos/chaos_run.py --seed 1 --only kill,partition --keep DIRECTORY

Four worker processes, each behind a proxy, work jobs of all kinds that are inserted meanwhile. The faults follow from the
seed (`chaos_faults.py`) and are printed, so that a run can be repeated; the scheduling of processes is not repeated. When
all jobs are finalized, the workers are stopped and `chaos_verdict.py` audits. For violations the exit code is 1, and the
journals are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
from chaos_base import TICK_ID, TICK_SECONDS
from chaos_dead_jobs import compare_dead_jobs
from chaos_evidence import Evidence, Tick, rescued_at, settled
from chaos_faults import INSERTER, KINDS, NUM_WORKERS, Fault, plan_drivers, plan_faults
from chaos_fleet import Fleet, Trouble, spoken_by
from chaos_flows import KIND as FLOW_KIND
from chaos_flows import FlowLoad, flow_evidence
from chaos_injector import FaultInjector
from chaos_journal import read_journals, read_stalls
from chaos_limits import LimitChanger
from chaos_load import Load
from chaos_migrations import (
    DEAD_JOBS_VERSION,
    FLOWS_VERSION,
    Migrations,
    Reset,
    changes_after,
    holds_after,
    lost_until,
)
from chaos_plan import RETRIED_KIND
from chaos_report import Report, counts
from chaos_rows import row_of
from chaos_schedules import KIND as SCHEDULE_KIND
from chaos_schedules import NEXT, RECORD, RUNS, NextRun, ScheduledRun
from chaos_server import ChaosServer, small_disk
from chaos_verdict import find_violations
from chaos_ways import open_ways

from millhand.client import Client
from millhand.core.config import Config
from millhand.db.driver.asyncpg_error import WIRE_ERRORS
from new_schema import migrate

sys.path.append(str(Path(__file__).parents[1] / "release"))
from released import last_release, unpack

RATE = 40.0
# How long no job may end at the end, before those that are left count as stuck: two minutes for a client whose session
# exists, and more. On a slow machine, limited queues start with a backlog of minutes.
DRAIN_SECONDS = 300.0
START_SECONDS = 60.0
# Kinds that no plan inserts.
NOT_PLANNED = [TICK_ID, SCHEDULE_KIND, FLOW_KIND]


@dataclass(kw_only=True)
class Options:
    """How long, how many jobs, and which faults."""

    seconds: float
    seed: int
    only: Sequence[str] = ()
    rate: float = RATE


async def run(
    options: Options, directory: Path, server: ChaosServer, print_line: Callable[[str], None]
) -> Report:
    """Insert and work jobs, inject the planned faults, and audit the result."""
    faults = plan_faults(options.seed, options.seconds, options.only)
    drivers = plan_drivers(options.seed)
    print_line(f"drivers {' '.join(drivers)}")
    await migrate(server.url)
    await _record_more(server.url)
    fleet = Fleet(
        server.url,
        directory,
        deleting=range(1, NUM_WORKERS, 2),
        drivers=drivers[:NUM_WORKERS],
        noting_stored=range(NUM_WORKERS // 2),
        older=_older(directory),
        settings={"CHAOS_LIMITS": "true", "CHAOS_SCHEDULES": "true"},
    )
    migrations = Migrations(server.url)
    changer = LimitChanger(server.url, options.seed)
    flow_load = FlowLoad(options.seed)
    load = Load(options.seed, options.seconds, options.rate)
    injector = FaultInjector(fleet, server, migrations, print_line)
    epoch = time.time() - time.monotonic()
    async with fleet.running():
        async with asyncio.timeout(START_SECONDS):
            await fleet.started()
        config = Config(client_id="inserter", skip_unknown_job_check=True)
        url = spoken_by(drivers[INSERTER], fleet.proxies[INSERTER].url)
        async with (
            Client(url, config) as client,
            open_ways(client, fleet.proxies[INSERTER].url) as ways,
            asyncio.TaskGroup() as others,
        ):
            began_at = time.monotonic()
            controlling = others.create_task(load.control_all(client, ways, server.url))
            async with asyncio.TaskGroup() as both:
                both.create_task(injector.do(faults))
                both.create_task(load.insert_all(ways))
                both.create_task(changer.change_all(options.seconds))
                both.create_task(flow_load.insert_all(client, options.seconds, lambda: migrations.is_quiet))
            ended_at = time.monotonic()
            print_line(f"{ended_at - began_at:7.1f} s  no more faults")
            await _drained(server.url)
            controlling.cancel()
        drained_at = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await fleet.started()
        await fleet.end()
    left_behind = await limits_left_behind(server.url)
    resets = migrations.resets
    flows = await flow_evidence(server.url, flow_load, lost_until(resets, FLOWS_VERSION))
    evidence = await _evidence(server.url, directory, fleet, load, epoch, began_at, ended_at)
    dead_jobs, num_copied = await compare_dead_jobs(server.url, _discarded_since(resets, epoch))
    evidence = replace(
        evidence,
        changes=changes_after(resets, changer.changes),
        dead_jobs=dead_jobs,
        flows=flows,
        holds=holds_after(resets, changer.holds),
        left_behind=left_behind,
        num_dead_jobs_copied=num_copied,
        resets=resets,
    )
    changes = [*evidence.changes, *evidence.holds, *resets]
    (directory / "changes.log").write_text("".join(f"{one}\n" for one in changes))
    violations = [
        *find_violations(evidence),
        *_missing_faults(injector, faults, options),
        *load.missing_ways(),
    ]
    return Report(
        violations=violations,
        figures=_figures(options, evidence, injector, load, ended_at - began_at, drained_at - ended_at),
    )


def _older(directory: Path) -> Path | None:
    """Unpack the last release, and return the folder of its packages; None if this clone does not have its commit."""
    commit = last_release()
    if commit is None:
        return None
    unpack(commit, directory / "older")
    return directory / "older" / "src"


def _discarded_since(resets: Sequence[Reset], epoch: float) -> datetime:
    """Return since when each discarded job has a dead letter. Before, a migration may have lost it."""
    until = lost_until(resets, DEAD_JOBS_VERSION)
    return datetime.fromtimestamp(max(0.0, until + epoch), UTC)


async def _record_more(url: str) -> None:
    """
    Have the database record what its rows do not show at the end.

    That is when each run of the periodic job, or of a schedule, was due and inserted, because a rescue removes the first
    from the row; and the jobs that clients
    delete when they complete, as completed ones without the time of their end.
    """
    connection = await asyncpg.connect(url)
    await connection.execute(RECORD)
    await connection.execute(f"""
        CREATE TABLE chaos_tick (due_at timestamptz NOT NULL, created_at timestamptz NOT NULL);
        CREATE FUNCTION chaos_tick_note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO chaos_tick VALUES (new.scheduled_at, clock_timestamp());
            RETURN new;
        END $$;
        CREATE TRIGGER chaos_tick_note AFTER INSERT ON river_job FOR EACH ROW WHEN (new.kind = '{TICK_ID}')
        EXECUTE FUNCTION chaos_tick_note();

        CREATE TABLE chaos_deleted (LIKE river_job);
        CREATE FUNCTION chaos_deleted_note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF old.state = 'running' THEN
                old.state := 'completed';
            END IF;
            INSERT INTO chaos_deleted SELECT old.*;
            RETURN old;
        END $$;
        CREATE TRIGGER chaos_deleted_note AFTER DELETE ON river_job FOR EACH ROW
        EXECUTE FUNCTION chaos_deleted_note();
    """)
    await connection.close()


async def _drained(url: str) -> None:
    """Return when all jobs and flows have ended and no job has a slot or waits for one, or when none ends any more."""
    sql = """
        SELECT
            (SELECT count(*) FROM river_job WHERE finalized_at IS NULL AND kind <> ALL($1))
            + (SELECT count(*) FROM river_job WHERE state = 'cancelled' AND kind = $2)
            + (SELECT count(*) FROM millhand_limited_job)
            + (SELECT count(*) FROM millhand_flow WHERE ended_at IS NULL)
    """
    connection = await _recovered(url)
    least, until = None, 0.0
    while num_left := await connection.fetchval(sql, NOT_PLANNED, RETRIED_KIND):
        if least is None or num_left < least:
            least, until = num_left, time.monotonic() + DRAIN_SECONDS
        elif time.monotonic() > until:
            break
        await asyncio.sleep(1.0)
    await connection.close()


async def _recovered(url: str) -> asyncpg.Connection:
    """Connect when a server that was crashed has finished its recovery."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                return await asyncpg.connect(url, command_timeout=START_SECONDS)
            except WIRE_ERRORS:
                await asyncio.sleep(0.5)


async def _evidence(
    url: str, directory: Path, fleet: Fleet, load: Load, epoch: float, began_at: float, ended_at: float
) -> Evidence:
    sql = """
        SELECT id, args, attempt, attempted_at, attempted_by, errors, finalized_at, metadata, state::text, unique_key
        FROM (TABLE river_job UNION ALL TABLE chaos_deleted) AS job WHERE kind <> ALL($1) ORDER BY id
    """
    connection = await asyncpg.connect(url)
    jobs = [dict(record) for record in await connection.fetch(sql, NOT_PLANNED)]
    ticks = await connection.fetch("SELECT due_at, created_at FROM chaos_tick ORDER BY due_at, created_at")
    runs = [ScheduledRun(**dict(one)) for one in await connection.fetch(RUNS)]
    nexts = [NextRun(**dict(one)) for one in await connection.fetch(NEXT)]
    await connection.close()
    return Evidence(
        answers=load.answers,
        batches=load.batches,
        began_at=began_at,
        ended_at=ended_at,
        epoch=epoch,
        executions=read_journals(directory),
        faults=fleet.faults,
        lives=fleet.lives,
        plan=load.plan,
        rows=[row_of(record) for record in jobs],
        rescued_at={key: at for record in jobs for key, at in rescued_at(record, epoch).items()},
        settled={record["id"]: one for record in jobs if (one := settled(record, epoch)) is not None},
        ticks=[
            Tick(due_at=one["due_at"].timestamp(), created_at=one["created_at"].timestamp()) for one in ticks
        ],
        tick_seconds=TICK_SECONDS,
        troubles=[*fleet.troubles, *_stalls(directory, fleet)],
        scheduled_runs=runs,
        next_runs=nexts,
        inserts=load.inserts,
        job_changes=load.changes,
    )


def _stalls(directory: Path, fleet: Fleet) -> list[Trouble]:
    """Return the times in which workers waited for the disk to take their journals: they stood still."""
    who = {life.name: life.who for life in fleet.lives}
    return [
        Trouble(name="frozen", who=who[one.client], began_at=one.began_at, ended_at=one.ended_at)
        for one in read_stalls(directory)
    ]


async def limits_left_behind(url: str) -> list[str]:
    """Return what the tables of limits must not have when all jobs are finalized, in sentences."""
    connection = await asyncpg.connect(url)
    waiting = await connection.fetch("SELECT * FROM millhand_limited_job ORDER BY job_id")
    partitions = await connection.fetch("SELECT * FROM millhand_limit_partition WHERE running <> 0")
    totals = await connection.fetch("SELECT * FROM millhand_limit WHERE num_running <> 0")
    await connection.close()
    return [
        *(f"no job must wait for a slot or have one in the end, got {dict(row)}" for row in waiting),
        *(f"a partition must count no slots in the end, got {dict(row)}" for row in partitions),
        *(f"a total must count no slots in the end, got {dict(row)}" for row in totals),
    ]


def _missing_faults(injector: FaultInjector, faults: Sequence[Fault], options: Options) -> list[str]:
    """Yield the planned faults that were not injected."""
    planned = Counter(fault.name for fault in faults)
    return [
        f"{name} was planned {num} times, and done {injector.done.get(name, 0)} times"
        for name, num in planned.items()
        if injector.done.get(name, 0) != num
    ]


def _figures(
    options: Options,
    evidence: Evidence,
    injector: FaultInjector,
    load: Load,
    seconds: float,
    drain_seconds: float,
) -> dict[str, str]:
    states = Counter(row.state for row in evidence.rows)
    answers = Counter(answer for one in evidence.answers.values() for answer in one)
    num_killed = sum(life.is_killed for life in evidence.lives)
    cut_short = sum(one.ended_at is None for one in evidence.executions)
    counted = {
        "seed": str(options.seed),
        "faults": f"{sum(injector.done.values())} in {seconds:.0f} s: {counts(Counter(injector.done))}",
        "left out": "; ".join(sorted(injector.skipped)) or "nothing",
        "jobs": f"{len(evidence.rows):,}: {counts(states)}",
        "inserts": f"{counts(answers)}; {counts(Counter(load.errors))}",
        "acknowledged by way": counts(load.by_way),
        "all finalized after": f"{drain_seconds:.0f} s more",
        "executions": f"{len(evidence.executions):,}, {cut_short:,} of them cut short by a kill",
        "processes": f"{len(evidence.lives)}, {num_killed} of them killed",
        "rescued": f"{sum(len(row.rescued) for row in evidence.rows):,} attempts",
        "periodic runs": f"{len(evidence.ticks):,}",
        "limits": f"changed {len(evidence.changes):,} times, partitions held {len(evidence.holds):,} times",
    }
    return counted | {name: f"{num:,}" for name, num in sorted(evidence.figures.items())}


@contextlib.contextmanager
def place(keep: Path | None) -> Iterator[tuple[Path, ChaosServer]]:
    """Make a directory that root's server user may enter, with a small disk in it, and a server."""
    with tempfile.TemporaryDirectory(prefix="millhand-chaos-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        journals = keep or directory / "journals"
        journals.mkdir(parents=True, exist_ok=True)
        with small_disk(directory / "disk") as disk:
            server = ChaosServer(directory / "server", disk)
            server.make()
            try:
                yield journals, server
            finally:
                server.stop()
                if keep:
                    (keep / "server.log").write_text(server.log_text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", default="", help=f"some of {','.join(KINDS)}")
    parser.add_argument("--rate", type=float, default=RATE, help="jobs that are inserted a second")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave journals and logs there")
    given = parser.parse_args()
    only = tuple(filter(None, given.only.split(",")))
    if unknown := set(only) - set(KINDS):
        parser.error(f"faults of --only must be some of {', '.join(KINDS)}, got {', '.join(sorted(unknown))}")
    if given.keep is not None and given.keep.exists() and any(given.keep.iterdir()):
        # Journals are appended to, so an earlier run's would be taken for this one's.
        parser.error(f"directory of --keep must be empty or not there yet, got {str(given.keep)!r}")
    options = Options(seconds=60 * given.minutes, seed=given.seed, only=only, rate=given.rate)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # otherwise servers and disks would be left behind
    logging.disable(logging.CRITICAL)  # of the inserter, whose lost connections are part of the run
    print(f"seed {options.seed}", flush=True)
    with place(given.keep) as (journals, server):
        report = asyncio.run(run(options, journals, server, lambda line: print(line, flush=True)))
        if report.violations and given.keep is None:
            kept = shutil.copytree(journals, tempfile.mkdtemp(prefix="chaos-journals-"), dirs_exist_ok=True)
            (Path(kept) / "server.log").write_text(server.log_text)
            print(f"journals and logs are kept in {kept}")
    print(report)
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
