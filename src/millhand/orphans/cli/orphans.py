"""`millhand orphans`: run the orphan cleanup, list and explain its findings, and restore removed objects."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from millhand.core.job import Json
from millhand.observe.terminal_text import one_line
from millhand.orphans import Finding, Mode, Run, bind, explain, list_findings, list_runs, restore, unbind
from millhand.orphans.cli.init import init_sources
from millhand.orphans.cli.inventory import compare_inventory
from millhand.orphans.cli.reconcile import run_reconcile
from millhand.orphans.cli.rehearse import rehearse_runs
from millhand.orphans.report.quarantined import Quarantined, list_quarantined
from millhand.orphans.rules import Kind
from millhand.shells.cli.chosen_database import command_settings
from millhand.shells.cli.command import Group
from millhand.shells.cli.options import json_option, limit_option, yes_option
from millhand.shells.cli.output import (
    NotDone,
    WrongUse,
    confirm,
    counted,
    print_json,
    print_message,
    print_rows,
)
from millhand.shells.cli.param_types import OneOf, Share, Whole, not_empty
from millhand.shells.cli.store_target import run_with_store, shown_store
from millhand.shells.cli.table import Columns
from millhand.shells.settings.decode import decode_text

T = TypeVar("T")

KINDS = tuple(kind.value for kind in Kind)
FINDING_COLUMNS = Columns(
    ("id", "kind", "key", "row", "size", "first seen", "runs", "note"),
    texts=("note",),
    optional=("runs", "first seen", "note", "size"),
)
QUARANTINED = "quarantined"
QUARANTINED_COLUMNS = Columns(
    ("key", "size", "run", "quarantined", "deleted"), optional=("quarantined", "size")
)
NEVER = "not in this mode"
RUN_COLUMNS = Columns(
    ("run", "state", "mode", "objects", "rows", "removed", "started"), optional=("rows", "objects", "mode")
)


@click.group(cls=Group, example="millhand orphans scan")
def orphans() -> None:
    """Compare rows with objects, clean up orphans, and restore them."""


orphans.add_command(init_sources)
orphans.add_command(rehearse_runs)
orphans.add_command(compare_inventory)


@orphans.command(example="millhand orphans scan --json")
@json_option
@click.pass_context
def scan(context: click.Context, *, is_json: bool) -> None:
    """
    Compare all rows with all objects now, and print the findings. A scan never removes anything.

    The findings are recorded, and count as one sighting. Exit code 0: nothing found; 1: something found; 2: a guard
    aborted the run, or it failed.
    """
    settings = command_settings(context.obj)
    config = dataclasses.replace(settings.orphans_config(), mode=Mode.REPORT)
    run_reconcile(context, settings, config, is_json=is_json)


@orphans.command(name="run", example="millhand orphans run --mode quarantine --max-share 0.05 --yes")
@click.option(
    "--mode", type=OneOf([mode.value for mode in Mode]), help="Use this mode, not the one of the settings."
)
@click.option("--max-share", type=Share(), help="Remove at most this share of objects and bytes.")
@click.option("--max-objects", type=Whole(1), help="Remove at most this many objects.")
@click.option("--min-overlap", type=Share(), help="Require this share of ready rows to have their object.")
@click.option(
    "--max-clock-skew",
    callback=not_empty,
    metavar="DURATION",
    help="Allow the clocks to differ by this much, such as 10m.",
)
@yes_option
@json_option
@click.pass_context
def run_now(
    context: click.Context,
    /,
    *,
    mode: str | None,
    max_clock_skew: str | None,
    is_sure: bool,
    is_json: bool,
    **limits: float | None,
) -> None:
    """
    Run the orphan cleanup now, as the worker does. The flags change a guard for this run only.

    Exit code 0: nothing found; 1: something found, removed or not; 2: a guard aborted the run, or it failed.
    """
    settings = command_settings(context.obj)
    lifted = {
        **limits,
        "mode": None if mode is None else Mode(mode),
        "max_clock_skew": None
        if max_clock_skew is None
        else decode_text(max_clock_skew, timedelta, "--max-clock-skew"),
    }
    chosen = {name: value for name, value in lifted.items() if value is not None}
    config = dataclasses.replace(settings.orphans_config(), **chosen)  # type: ignore[arg-type]
    if config.mode is not Mode.REPORT:
        confirm(f"{config.mode.value} the orphans that are due in {shown_store(settings)}", is_sure=is_sure)
    run_reconcile(context, settings, config, is_json=is_json)


@orphans.command(name="list", example="millhand orphans list --kind missing")
@click.option(
    "--kind",
    type=OneOf((*KINDS, QUARANTINED)),
    help="List only findings of this kind, or what is in quarantine.",
)
@click.option("--runs", "is_runs", is_flag=True, help="List the runs, not their findings.")
@limit_option
@json_option
@click.pass_obj
def list_found(
    config_path: Path | None, *, kind: str | None, is_runs: bool, limit: int, is_json: bool
) -> None:
    """
    List the findings, what is in quarantine, or the runs.

    Of an object in quarantine, it shows when a run deletes it.
    """
    if is_runs and kind is not None:
        raise WrongUse(f"--runs must be used without --kind, got {kind!r}; leave out one of them")
    settings = command_settings(config_path)
    if kind == QUARANTINED:
        config = settings.orphans_config()
        print_rows(
            run_with_store(
                settings,
                lambda executor, store: list_quarantined(executor, config, bucket=store.url, limit=limit),
            ),
            columns=QUARANTINED_COLUMNS,
            line=_quarantined_line,
            fields=_plain,
            is_json=is_json,
            empty="nothing in quarantine",
        )
        return
    if is_runs:
        print_rows(
            run_with_store(
                settings, lambda executor, store: list_runs(executor, bucket=store.url, limit=limit)
            ),
            columns=RUN_COLUMNS,
            line=_run_line,
            fields=_plain,
            is_json=is_json,
            empty="no runs",
        )
        return
    print_rows(
        run_with_store(
            settings,
            lambda executor, store: list_findings(executor, bucket=store.url, kind=kind, limit=limit),
        ),
        columns=FINDING_COLUMNS,
        line=_finding_line,
        fields=_plain,
        is_json=is_json,
        empty="nothing found",
    )


@orphans.command(name="explain", example="millhand orphans explain uploads/2026/a.png")
@click.argument("key")
@json_option
@click.pass_obj
def explain_key(config_path: Path | None, *, key: str, is_json: bool) -> None:
    """
    Explain what a run would do with object KEY, and by which rule.

    It fails if no object and no row has this key, and no run has found or removed it.
    """
    settings = command_settings(config_path)
    config = settings.orphans_config()
    explanation = run_with_store(settings, lambda executor, store: explain(executor, store, config, key))
    if is_json:
        print_json(_plain(explanation))
    elif not explanation.is_unknown:
        click.echo("\n".join(map(one_line, explanation.lines())))
    if explanation.is_unknown:
        raise NotDone(f"{explanation.reason}: {key!r}; check it with: millhand orphans list")


@orphans.command(name="restore", example="millhand orphans restore --run 12")
@click.option("--run", "run_id", type=Whole(1), metavar="N", help="Restore everything that run N removed.")
@click.option("--prefix", metavar="PREFIX", help="Restore every removed object whose key starts with PREFIX.")
@click.option("--key", metavar="KEY", help="Restore one removed object.")
@yes_option
@json_option
@click.pass_obj
def restore_removed(
    config_path: Path | None,
    *,
    run_id: int | None,
    prefix: str | None,
    key: str | None,
    is_sure: bool,
    is_json: bool,
) -> None:
    """
    Restore removed objects and their rows.

    This is possible until their quarantine ends. Objects that were restored before, and newer objects under the
    same key, stay as they are. You can repeat the command. It fails if nothing was ever removed.
    """
    chosen = [
        f"{name} {value!r}"
        for name, value in (("run", run_id), ("prefix", prefix), ("key", key))
        if value is not None
    ]
    if len(chosen) != 1:
        got = " and ".join(chosen) or "nothing"
        raise WrongUse(f"exactly one of --run, --prefix and --key must be given, got {got}")
    if "" in (prefix, key):  # an empty variable must not select everything that was ever removed
        raise WrongUse(
            "--prefix and --key must not be empty, got ''; to restore what one run removed, use --run"
        )
    settings = command_settings(config_path)
    confirm(f"restore the objects of {chosen[0]} in {shown_store(settings)}", is_sure=is_sure)
    report = run_with_store(
        settings, lambda executor, store: restore(executor, store, run=run_id, prefix=prefix, key=key)
    )
    if is_json:
        print_json(_plain(report))
    print_message(
        f"restored {counted(report.restored, 'object')} and {counted(report.rows, 'row')}, "
        f"kept {counted(report.kept, 'newer object')}, "
        f"{report.already:,} had been restored before"
    )
    if report.is_empty:
        raise NotDone(f"{chosen[0]} must have removed objects, found none; see: millhand orphans list --runs")
    if report.failed:
        raise NotDone(
            "; ".join(f"{failed!r} cannot be restored: {reason}" for failed, reason in report.failed)
        )


@orphans.command(name="bind", example="millhand orphans bind")
@yes_option
@click.pass_obj
def bind_bucket(config_path: Path | None, *, is_sure: bool) -> None:
    """
    Bind the bucket to this database.

    The bucket may have been bound to another database. The first run binds the bucket by itself. Use this command
    after you restored or moved the database.
    """
    settings = command_settings(config_path)
    confirm(f"bind {shown_store(settings)} to this database", is_sure=is_sure)
    before = run_with_store(settings, bind)
    was = (
        f"it was bound to {before.marker.name!r} since {before.marker.bound_at}"
        if before.marker
        else "it was not bound before"
    )
    if before.earlier is not None:
        was = f"{was}, as {before.earlier.bucket}"
    print_message(f"bound the bucket to {before.name!r}; {was}")


@orphans.command(name="unbind", example="millhand orphans unbind")
@yes_option
@click.pass_obj
def unbind_bucket(config_path: Path | None, *, is_sure: bool) -> None:
    """Unbind the bucket: the next run of any database binds it."""
    settings = command_settings(config_path)
    confirm(f"unbind {shown_store(settings)}", is_sure=is_sure)
    print_message("unbound the bucket" if run_with_store(settings, unbind) else "the bucket was not bound")


def _finding_line(finding: Finding) -> tuple[object, ...]:
    found, row = finding, f"{finding.source} {finding.row_id}".strip()
    seen = found.first_seen_at, found.num_runs
    return found.id, str(found.kind), found.key, row, found.size, *seen, found.note


def _quarantined_line(one: Quarantined) -> tuple[object, ...]:
    return one.key, one.size, one.run_id, one.quarantined_at, one.deleted_at or NEVER


def _run_line(run: Run) -> tuple[object, ...]:
    totals = run.totals
    return run.id, run.state, run.mode, totals.objects, totals.rows, totals.removed, run.started_at


def _plain(value: object) -> Json:
    return msgspec.to_builtins(value, builtin_types=(datetime,), enc_hook=str)
