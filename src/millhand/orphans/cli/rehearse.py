"""`millhand orphans rehearse`: what the runs of some days would remove, by rule and source, and why."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click
import msgspec

from millhand.orphans import Rehearsal, Removal, rehearse
from millhand.shells.cli.chosen_database import command_settings
from millhand.shells.cli.command import Command
from millhand.shells.cli.options import json_option
from millhand.shells.cli.output import counted, print_fields, print_json, print_table
from millhand.shells.cli.param_types import Whole
from millhand.shells.cli.store_target import run_with_store
from millhand.shells.cli.table import Columns

MAX_DAYS = 365
COLUMNS = Columns(
    ("rule", "source", "rows", "objects", "bytes", "days", "for example", "why"),
    texts=("for example", "why"),
    optional=("bytes", "for example", "days", "rows"),
)


@click.command(name="rehearse", cls=Command, example="millhand orphans rehearse --days 30")
@click.option(
    "--days", type=Whole(1, MAX_DAYS), default=30, show_default=True, help="Rehearse one run a day for N days.",
    metavar="N",
)  # fmt: skip
@json_option
@click.pass_obj
def rehearse_runs(config_path: Path | None, *, days: int, is_json: bool) -> None:
    """
    Print what the runs of the next days would remove, and why.

    The runs assume that no row and no object changes. The command reads rows and objects once and changes nothing.
    It rehearses runs that may remove, whatever the mode of the settings.
    """
    settings = command_settings(config_path)
    config = settings.orphans_config()
    found = run_with_store(settings, lambda executor, store: rehearse(executor, store, config, days=days))
    if is_json:
        print_json(msgspec.to_builtins(found, builtin_types=(datetime,), enc_hook=str))
    else:
        _print(found)


def _print(found: Rehearsal) -> None:
    kept = [(f"kept, {kind.replace('_', ' ')}", number) for kind, number in found.kept.items()]
    print_fields([("objects", found.objects), ("rows", found.rows), ("live objects", found.live), *kept])
    print_table(
        COLUMNS,
        [_line(one) for one in found.removals],
        empty=f"nothing would be removed in {counted(found.days, 'day')}",
    )
    for obstacle in found.obstacles:
        click.echo(f"would abort: {obstacle}")


def _line(one: Removal) -> tuple[object, ...]:
    days = str(one.first_day) if one.first_day == one.last_day else f"{one.first_day} to {one.last_day}"
    return one.rule, one.source, one.rows, one.objects, one.bytes, days, ", ".join(one.examples), one.reason
