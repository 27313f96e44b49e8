"""`millhand periodic`: list periodic jobs by their runs, and run one now."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from millhand.core.job import JobRow
from millhand.db.driver.protocol import Driver
from millhand.engine.store.periodic_job import PeriodicRun, periodic_job_list_ids, periodic_job_list_runs
from millhand.schedules.run_now import run_periodic_job
from millhand.shells.cli.answers import ask_and_print, run
from millhand.shells.cli.command import Choice, Group
from millhand.shells.cli.options import json_option
from millhand.shells.cli.output import print_message
from millhand.shells.cli.table import Columns

COLUMNS = Columns(("id", "kind", "queue", "last job", "state", "inserted"), optional=("last job", "kind"))


@click.group(cls=Group, example="millhand periodic run nightly")
def periodic() -> None:
    """List periodic jobs by their runs, and run one now."""


@periodic.command(name="list", example="millhand periodic list --json", choice=Choice.ANY)
@json_option
@click.pass_obj
def list_periodic(config_path: Path | None, *, is_json: bool) -> None:
    """
    List the periodic jobs that have runs in the table.

    Each has its newest run. Programs do not store the periodic jobs that they declare. One without an id is not listed,
    nor is one whose runs were all deleted.
    """

    async def newest(driver: Driver) -> list[PeriodicRun]:
        found = await driver.pool.run(periodic_job_list_ids())
        return await driver.pool.run(periodic_job_list_runs([one.id for one in found], limit=1))

    ask_and_print(
        config_path,
        newest,
        columns=COLUMNS,
        line=lambda run: (run.periodic_job_id, run.kind, run.queue, run.id, run.state.value, run.created_at),
        fields=msgspec.structs.asdict,
        is_json=is_json,
        empty="no runs of periodic jobs; one with an id is listed after its first run",
    )


@periodic.command(name="run", example="millhand periodic run nightly")
@click.argument("id", metavar="ID")
@click.pass_obj
def run_now(config_path: Path | None, /, *, id: str) -> None:
    """
    Run periodic job ID now: insert a copy of its last run.

    The copy has the kind, args, queue, priority, tags, attempts and unique key of the last run that a leader inserted. It
    fails while a run waits or runs. The schedule stays as it is.
    """

    async def insert(driver: Driver) -> JobRow:
        async with driver.pool.begin() as tx:
            return await run_periodic_job(tx, id)

    job = run(config_path, insert)
    print_message(f"inserted job {job.id} of kind {job.kind} into queue {job.queue}")
