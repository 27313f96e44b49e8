"""`millhand schedule`: list, show and change the schedules that the database keeps, and run one now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import msgspec

from millhand.core.errors import NotFound
from millhand.core.insert_opts import PRIORITY_MAX
from millhand.core.job import Json
from millhand.core.near_match import near_match
from millhand.core.schedule import CatchUp, JobSchedule, Overlap, ScheduleRow, encode_schedule
from millhand.core.schedule_fields import changed_schedule, is_as_declared, when_text
from millhand.schedules.control import ScheduleControl
from millhand.shells.cli.answers import ask_and_print, run
from millhand.shells.cli.command import Choice, Group
from millhand.shells.cli.options import json_option, yes_option
from millhand.shells.cli.output import NotDone, WrongUse, confirm, print_fields, print_json, print_message
from millhand.shells.cli.param_types import OneOf, Whole
from millhand.shells.cli.table import Columns
from millhand.shells.settings.decode import decode_text

T = TypeVar("T")

COLUMNS = Columns(
    ("id", "kind", "when", "next run", "last due", "last job", "runs", "set by"),
    optional=("last due", "last job", "runs", "set by", "kind"),
)
PAGE_SIZE = 1_000

_id_argument = click.argument("id", metavar="ID")


@click.group(cls=Group, example='millhand schedule set nightly --kind send_report --cron "0 3 * * *"')
def schedule() -> None:
    """List, show and change kept schedules, and run one now."""


@schedule.command(name="list", example="millhand schedule list --json", choice=Choice.ANY)
@json_option
@click.pass_obj
def list_schedules(config_path: Path | None, *, is_json: bool) -> None:
    """
    List the schedules that the database keeps.

    `set by` is `code` if the schedule is as the code of a client declares it, and else `run time`.
    """

    async def all_of(schedules: ScheduleControl) -> list[ScheduleRow]:
        found: list[ScheduleRow] = []
        while page := await schedules.list(after=found[-1].schedule.id if found else "", limit=PAGE_SIZE):
            found.extend(page)
        return found

    ask_and_print(
        config_path,
        lambda driver: all_of(ScheduleControl(driver)),
        columns=COLUMNS,
        line=_line,
        fields=_fields,
        is_json=is_json,
        empty="no schedules; set one with: millhand schedule set ID --kind KIND --cron EXPRESSION",
    )


@schedule.command(example="millhand schedule show nightly")
@_id_argument
@click.option(
    "--next", "num", type=Whole(1, PAGE_SIZE), default=5, show_default=True, help="Show so many instants."
)
@json_option
@click.pass_obj
def show(config_path: Path | None, *, id: str, num: int, is_json: bool) -> None:
    """Show schedule ID, and its next instants."""

    async def get(schedules: ScheduleControl) -> tuple[ScheduleRow, list[datetime]]:
        return await schedules.get(id), await schedules.next_instants(id, num)

    row, instants = _run(config_path, get)
    fields = _fields(row)
    if is_json:
        print_json({**fields, "next_instants": instants})
        return
    texts = [(name.replace("_", " "), _text(value)) for name, value in fields.items() if value is not None]
    print_fields([*texts, *((f"next {n}", at) for n, at in enumerate(instants, 1))])


@schedule.command(
    name="set",
    example='millhand schedule set nightly --kind send_report --cron "0 3 * * *" --timezone Europe/Berlin\n'
    "millhand schedule set nightly --overlap skip --jitter 5m",
)
@_id_argument
@click.option("--kind", metavar="KIND", help="The kind of the job.")
@click.option("--args", metavar="JSON", help="The args of the job, a JSON object; {} by default.")
@click.option("--cron", metavar="EXPRESSION", help="Run by a cron expression; or --every.")
@click.option("--every", metavar="DURATION", help="Run at this interval, such as 6h.")
@click.option("--timezone", metavar="ZONE", help="The zone of --cron, such as Europe/Berlin.")
@click.option("--catch-up", type=OneOf(get_args(CatchUp)), help="Which missed runs to insert.")
@click.option("--overlap", type=OneOf(get_args(Overlap)), help="Whether to insert a run beside the last one.")
@click.option("--jitter", metavar="DURATION", help="Delay each run by a part of this time.")
@click.option("--queue", metavar="QUEUE", help="The queue of the job.")
@click.option("--priority", type=Whole(1, PRIORITY_MAX), metavar="N", help="1, first, to 4.")
@click.option("--max-attempts", type=Whole(1, 32_767), metavar="N", help="Attempt the job at most N times.")
@click.pass_obj
def set_schedule(config_path: Path | None, /, *, id: str, **options: Any) -> None:  # noqa: ANN401
    """
    Create schedule ID, or change it now. What is not named stays.

    The schedule holds until it changes in the code of a client.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        raise WrongUse("set must change something, got no option; see: millhand schedule set --help")

    async def change(schedules: ScheduleControl) -> ScheduleRow:
        try:
            found = (await schedules.get(id)).schedule
        except NotFound:
            found = None
        return await schedules.set(_changed(id, found, given))

    row = _run(config_path, change)
    print_message(f"set schedule {id}: {when_text(row.schedule)}, next run {_next(row)}")


@schedule.command(example="millhand schedule pause nightly")
@_id_argument
@click.pass_obj
def pause(config_path: Path | None, *, id: str) -> None:
    """Insert no job of schedule ID until `resume`. Jobs that were inserted are worked."""
    _run(config_path, lambda schedules: schedules.pause(id))
    print_message(f"paused schedule {id}")


@schedule.command(example="millhand schedule resume nightly")
@_id_argument
@click.pass_obj
def resume(config_path: Path | None, *, id: str) -> None:
    """Continue schedule ID with its next run after now."""
    row = _run(config_path, lambda schedules: schedules.resume(id))
    print_message(f"resumed schedule {id}, next run {_next(row)}")


@schedule.command(name="run", example="millhand schedule run nightly")
@_id_argument
@click.pass_obj
def run_now(config_path: Path | None, *, id: str) -> None:
    """Insert a job of schedule ID now, also if it is paused. Its next run stays."""
    result = _run(config_path, lambda schedules: schedules.run_now(id))
    job = result.job
    if result.unique_skipped_as_duplicate:
        print_message(f"inserted nothing: job {job.id} of kind {job.kind} has the same unique key")
    else:
        print_message(f"inserted job {job.id} of kind {job.kind} into queue {job.queue}")


@schedule.command(example="millhand schedule remove nightly --yes")
@_id_argument
@yes_option
@click.pass_obj
def remove(config_path: Path | None, *, id: str, is_sure: bool) -> None:
    """
    Delete schedule ID. Its jobs stay.

    A client whose code declares the schedule declares it again within an hour.
    """
    confirm(f"remove schedule {id}", is_sure=is_sure)
    _run(config_path, lambda schedules: schedules.remove(id))
    print_message(f"removed schedule {id}")


def _run(config_path: Path | None, work: Callable[[ScheduleControl], Awaitable[T]]) -> T:
    return run(config_path, lambda driver: _explained(work, ScheduleControl(driver)))


async def _explained(work: Callable[[ScheduleControl], Awaitable[T]], schedules: ScheduleControl) -> T:
    """Do the work; an error that there is no such schedule has a remedy."""
    try:
        return await work(schedules)
    except NotFound as error:
        if error.subject != "schedule":
            raise
        ids = [row.schedule.id for row in await schedules.list()]
        near = near_match(str(error.key), ids)
        hint = f"did you mean {near!r}?" if near else "see: millhand schedule list"
        raise NotDone(f"schedule must exist, found none with id {error.key!r}; {hint}") from None


def _changed(id: str, found: JobSchedule | None, given: dict[str, Any]) -> JobSchedule:
    """Return the schedule with the values of the options."""
    if "cron" in given and "every" in given:
        raise WrongUse("--cron must be left out with --every, got both")
    if found is None and "kind" not in given:
        raise WrongUse(f"--kind must be given for a new schedule, got {id!r} without; write --kind KIND")
    values = {("interval" if name == "every" else name): value for name, value in given.items()}
    for name, option in (("interval", "--every"), ("jitter", "--jitter")):
        if name in values:
            values[name] = decode_text(values[name], timedelta, option)
    return changed_schedule(id, found, values)


def _line(row: ScheduleRow) -> tuple[object, ...]:
    return (
        row.schedule.id,
        row.schedule.kind,
        when_text(row.schedule),
        "paused" if row.paused_at is not None else row.next_run_at,
        row.last_due_at,
        row.last_job_id,
        row.num_runs,
        _set_by(row),
    )


def _fields(row: ScheduleRow) -> dict[str, Json]:
    definition: dict[str, Json] = msgspec.json.decode(encode_schedule(row.schedule))
    return {
        "id": row.schedule.id,
        **definition,
        "set_by": _set_by(row),
        "declared_at": row.declared_at,
        "next_run_at": row.next_run_at,
        "last_due_at": row.last_due_at,
        "last_job_id": row.last_job_id,
        "num_runs": row.num_runs,
        "paused_at": row.paused_at,
    }


def _text(value: Json) -> object:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value


def _set_by(row: ScheduleRow) -> str:
    return "code" if is_as_declared(row) else "run time"


def _next(row: ScheduleRow) -> str:
    return "never" if row.next_run_at is None else f"{row.next_run_at:%Y-%m-%dT%H:%M:%SZ}"
