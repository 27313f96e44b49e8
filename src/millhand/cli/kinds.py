"""`millhand kinds`: list the kinds that a configuration works, and check that it can work the queued jobs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

from millhand.cli.kinds_check import Finding, Report, check_queued
from millhand.cli.worked_kinds import WorkedArgs, worked_args
from millhand.core.args.fields import args_schema
from millhand.core.job import Json
from millhand.db.driver.protocol import Driver
from millhand.db.schema.migrator import require_schema
from millhand.observe.terminal_text import one_line
from millhand.shells.cli.chosen_database import command_settings
from millhand.shells.cli.command import Choice, Group
from millhand.shells.cli.database import run_with_driver
from millhand.shells.cli.options import json_option, list_option, queues_option
from millhand.shells.cli.output import (
    NotDone,
    WrongUse,
    counted,
    is_terminal,
    print_json,
    print_message,
    print_table,
)
from millhand.shells.cli.param_types import Whole
from millhand.shells.cli.table import Columns
from millhand.shells.cli.target import load_config
from millhand.shells.settings.load import Settings

COLUMNS = Columns(("kind", "aliases", "worker", "args"))
FINDING_COLUMNS = Columns(("kind", "problem", "jobs", "example", "message"))


class _KindsGroup(Group):
    """A group that runs `list` if the command is a MODULE:CONFIG."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, ["list", *args] if ":" in args[0] else args)


@click.group(
    cls=_KindsGroup, example="millhand kinds list shop.jobs:config", epilog="You can leave out list."
)
def kinds() -> None:
    """List job kinds, and check that queued jobs can be worked."""


@kinds.command(name="list", example="millhand kinds list shop.jobs:config --json", choice=Choice.NONE)
@click.argument("target", metavar="MODULE:CONFIG")
@json_option
@click.pass_obj
def list_kinds(config_path: Path | None, *, target: str, is_json: bool) -> None:
    """
    List the kinds that a configuration works, with their args.

    A terminal shows the fields of the args; a pipe and --json get their JSON Schema. The command needs no database.
    """
    workers = _worked(command_settings(config_path), target)
    if is_json:
        print_json([_fields(worker) for worker in workers])
    elif is_terminal():
        click.echo("\n".join(map(_summary, workers)) or "no kinds")
    else:
        print_table(COLUMNS, map(_line, workers), empty="")


@kinds.command(example="millhand kinds check shop.jobs:config --elsewhere go_report")
@click.argument("target", metavar="MODULE:CONFIG")
@list_option("--elsewhere", "elsewhere", "Skip this kind because other programs work it", metavar="KIND")
@queues_option
@click.option("--limit", type=Whole(1), metavar="N", help="Read at most N jobs of each state, not all.")
@json_option
@click.pass_obj
def check(
    config_path: Path | None,
    *,
    target: str,
    elsewhere: tuple[str, ...],
    queues: tuple[str, ...],
    limit: int | None,
    is_json: bool,
) -> None:
    """
    Check that a configuration can work the queued jobs.

    Run it before you deploy. The command reads all available, pending, retryable, running and scheduled jobs in a
    read-only transaction. It reports the kinds without a worker and the kinds whose args do not decode, each with a
    count, an example id and the reason. It never prints args.
    """
    settings = command_settings(config_path)
    workers = _worked(settings, target)
    for kind in elsewhere:
        if any(kind in worker.kinds for worker in workers):
            raise WrongUse(
                f"--elsewhere must name a kind that other programs work, got {kind!r}, which {target} works"
            )

    async def go(driver: Driver) -> Report:
        await require_schema(driver.pool, driver.schema)
        return await check_queued(driver.pool, workers, elsewhere=elsewhere, limit=limit, queues=queues)

    _print(run_with_driver(settings, go), is_json=is_json)


def _worked(settings: Settings, target: str) -> list[WorkedArgs]:
    return worked_args(settings, load_config(target, Path.cwd()), target)


def _print(report: Report, *, is_json: bool) -> None:
    if is_json:
        print_json(report)
    elif is_terminal():
        for finding in report.findings:
            click.echo(_finding_text(finding))
    else:
        lines = [
            (one.kind, one.problem, one.num_jobs, one.example_id, one.message) for one in report.findings
        ]
        print_table(FINDING_COLUMNS, lines, empty="")
    cut = "; --limit left out more" if report.is_cut else ""
    print_message(
        f"read {counted(report.num_jobs, 'queued job')} of {counted(report.num_kinds, 'kind')}{cut}"
    )
    if report.findings:
        num_bad = sum(finding.num_jobs for finding in report.findings)
        raise NotDone(
            f"queued jobs must be workable, got {num_bad:,} that are not; keep their workers until the jobs are "
            "done, add former kinds to aliases=[…], give new fields a default"
        )


def _finding_text(finding: Finding) -> str:
    jobs = counted(finding.num_jobs, "job")
    return f"{one_line(finding.kind)}: {jobs}, such as {finding.example_id}: {one_line(finding.message)}"


def _schema(worker: WorkedArgs) -> dict[str, Json] | None:
    try:
        return args_schema(worker.args_type)
    except TypeError:  # a class that msgspec can decode but not describe
        return None


def _fields(worker: WorkedArgs) -> dict[str, Json]:
    return {
        "kind": worker.kinds[0],
        "aliases": list(worker.kinds[1:]),
        "worker": worker.worker,
        "schema": _schema(worker),
    }


def _line(worker: WorkedArgs) -> tuple[object, ...]:
    schema = _schema(worker)
    args = None if schema is None else msgspec.json.encode(schema).decode()
    return worker.kinds[0], ",".join(worker.kinds[1:]) or None, worker.worker, args


def _summary(worker: WorkedArgs) -> str:
    """Return a worker for people: its kind with the fields of its args, and its function on the next line."""
    schema = _schema(worker)
    args = "…" if schema is None else _signature(schema)
    also = f", also {', '.join(worker.kinds[1:])}" if worker.kinds[1:] else ""
    return f"{worker.kinds[0]}({args})\n    {worker.worker}{also}"


def _signature(schema: Mapping[str, Json]) -> str:
    """Return the fields of a schema: `to: string, subject?: string`."""
    definitions = schema.get("$defs", {})
    root = definitions.get(_referred(schema), schema)
    required = root.get("required", ())
    return ", ".join(
        f"{name}{'' if name in required else '?'}: {_type_of(part)}"
        for name, part in root.get("properties", {}).items()
    )


def _type_of(part: Mapping[str, Json]) -> str:
    if "$ref" in part:
        return _referred(part)
    if members := part.get("anyOf") or part.get("oneOf"):
        return " | ".join(map(_type_of, members))
    if "enum" in part:
        return " | ".join(map(repr, part["enum"]))
    if part.get("type") == "array" and isinstance(items := part.get("items"), dict):
        return f"{_type_of(items)}[]"
    return str(part.get("format") or part.get("type") or "any")


def _referred(part: Mapping[str, Json]) -> str:
    return str(part.get("$ref", "")).rpartition("/")[2]
