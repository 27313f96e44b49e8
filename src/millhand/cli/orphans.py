"""`millhand orphans`: compare rows with objects by hand, see what was found, why, and undo what was done."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from millhand.cli.command import Group, json_option, yes_option
from millhand.cli.database import run_with_driver
from millhand.cli.orphans_init import init_sources
from millhand.cli.orphans_view import freed_fields, print_report, shown_progress
from millhand.cli.output import (
    NotDone,
    WrongUse,
    confirm,
    print_json,
    print_table,
    say,
)
from millhand.driver.protocol import Driver, Executor
from millhand.errors import MillhandError
from millhand.job import Json
from millhand.observe.terminal_text import one_line
from millhand.orphans import (
    Explanation,
    Finding,
    Mode,
    OrphansConfig,
    RestoreReport,
    Run,
    RunReport,
    bind,
    explain,
    list_findings,
    list_runs,
    reconcile,
    restore,
    unbind,
)
from millhand.orphans.report.progress import expected_objects
from millhand.orphans.report.summary import Summary, summarize_findings
from millhand.orphans.rules import Kind
from millhand.schema.migrator import require_schema
from millhand.settings.decode import decode_text
from millhand.settings.load import DEFAULT, Settings, load_settings
from millhand.storage import ObjectStore, open_store

T = TypeVar("T")

LINE_MILLHAND = "millhand"
KINDS = tuple(kind.value for kind in Kind)
FINDING_COLUMNS = ("id", "kind", "key", "row", "size", "first seen", "seen", "note")
RUN_COLUMNS = ("run", "state", "mode", "objects", "rows", "removed", "started")


@click.group(cls=Group, example="millhand orphans scan")
def orphans() -> None:
    """Reconcile rows with objects, and undo what was done."""


orphans.add_command(init_sources)


@orphans.command(example="millhand orphans scan --json")
@json_option
@click.pass_context
def scan(context: click.Context, *, is_json: bool) -> None:
    """
    Compare all rows with all objects now, and say what was found; deletes nothing, whatever the mode.

    What it finds is kept, and counts as seen once more. Exit code 0: nothing found, 1: something found, 2: aborted, or
    ended by an error.
    """
    settings = load_settings(context.obj)
    config = dataclasses.replace(settings.orphans_config(), mode=Mode.REPORT)
    _reconcile(context, settings, config, is_json=is_json)


@orphans.command(name="run", example="millhand orphans run --mode quarantine --max-share 0.05 --yes")
@click.option("--mode", type=click.Choice([mode.value for mode in Mode]), help="Other than in the settings.")
@click.option(
    "--max-share", type=click.FloatRange(0, 1), help="Remove up to this share of objects and bytes."
)
@click.option("--max-objects", type=click.IntRange(min=1), help="Remove up to so many objects.")
@click.option(
    "--min-overlap", type=click.FloatRange(0, 1), help="The share of ready rows that must have theirs."
)
@click.option("--max-clock-skew", metavar="DURATION", help="How far the clocks may be apart, such as 10m.")
@yes_option
@json_option
@click.pass_context
def run_now(
    context: click.Context,
    *,
    mode: str | None,
    max_share: float | None,
    max_objects: int | None,
    min_overlap: float | None,
    max_clock_skew: str | None,
    is_sure: bool,
    is_json: bool,
) -> None:
    """
    Do now what the worker does, in the mode of the settings; the flags lift a guard for this one run.

    Exit code 0: nothing found, 1: something found, dealt with or not, 2: aborted, or ended by an error.
    """
    settings = load_settings(context.obj)
    lifted = {
        "mode": None if mode is None else Mode(mode),
        "max_share": max_share,
        "max_objects": max_objects,
        "min_overlap": min_overlap,
        "max_clock_skew": decode_text(max_clock_skew, timedelta, "--max-clock-skew")
        if max_clock_skew
        else None,
    }
    chosen = {name: value for name, value in lifted.items() if value is not None}
    config = dataclasses.replace(settings.orphans_config(), **chosen)  # type: ignore[arg-type]
    if config.mode is not Mode.REPORT:
        confirm(f"{config.mode.value} what is due in {settings.get('storage.url')}", is_sure=is_sure)
    _reconcile(context, settings, config, is_json=is_json)


@orphans.command(name="list", example="millhand orphans list --kind missing")
@click.option("--kind", type=click.Choice(KINDS), help="Only findings of this kind.")
@click.option("--runs", "is_runs", is_flag=True, help="List the runs, not what they found.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="List so many at most."
)
@json_option
@click.pass_obj
def list_found(
    config_path: Path | None, *, kind: str | None, is_runs: bool, limit: int, is_json: bool
) -> None:
    """List what the runs found, or the runs."""
    settings = load_settings(config_path)
    if is_runs:
        runs = _run(settings, lambda executor, store: list_runs(executor, bucket=store.url, limit=limit))
        if is_json:
            print_json([_plain(run) for run in runs])
        else:
            print_table(RUN_COLUMNS, [_run_line(run) for run in runs], empty="no runs")
        return
    found = _run(
        settings,
        lambda executor, store: list_findings(executor, bucket=store.url, kind=kind, limit=limit),
    )
    if is_json:
        print_json([_plain(finding) for finding in found])
    else:
        print_table(FINDING_COLUMNS, [_finding_line(finding) for finding in found], empty="nothing found")


@orphans.command(name="explain", example="millhand orphans explain uploads/2026/a.png")
@click.argument("key")
@json_option
@click.pass_obj
def explain_key(config_path: Path | None, *, key: str, is_json: bool) -> None:
    """Say what is known about the object with a KEY, what would become of it, and by which rule."""
    settings = load_settings(config_path)
    config = settings.orphans_config()

    async def go(executor: Executor, store: ObjectStore) -> Explanation:
        return await explain(executor, store, config, key)

    explanation = _run(settings, go)
    if is_json:
        print_json(_plain(explanation))
    else:
        click.echo("\n".join(map(one_line, explanation.lines())))


@orphans.command(name="restore", example="millhand orphans restore --run 12")
@click.option(
    "--run", "run_id", type=click.IntRange(min=1), metavar="N", help="Everything that run N removed."
)
@click.option("--prefix", metavar="PREFIX", help="Every removed object whose key begins with this.")
@click.option("--key", metavar="KEY", help="One removed object.")
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
    Bring back what was removed, and its rows, while it can still be restored.

    What is back already stays as it is, and so does a newer object that took the place; once more is no error. That
    nothing was ever removed is one.
    """
    chosen = [
        f"{name} {value!r}"
        for name, value in (("run", run_id), ("prefix", prefix), ("key", key))
        if value is not None
    ]
    if len(chosen) != 1:
        got = " and ".join(chosen) or "nothing"
        raise WrongUse(f"one of --run, --prefix and --key must say what is restored, got {got}")
    confirm(f"restore what was removed by {chosen[0]}", is_sure=is_sure)
    settings = load_settings(config_path)

    async def go(executor: Executor, store: ObjectStore) -> RestoreReport:
        return await restore(executor, store, run=run_id, prefix=prefix, key=key)

    report = _run(settings, go)
    if is_json:
        print_json(_plain(report))
    say(
        f"restored {report.restored:,} objects and {report.rows:,} rows, kept {report.kept:,} newer objects, "
        f"{report.already:,} were back before"
    )
    if report.is_empty:
        raise NotDone(
            f"something must have been removed by {chosen[0]}, got nothing; see millhand orphans list --runs"
        )
    if report.failed:
        raise NotDone(
            "; ".join(f"{failed!r} cannot be restored: {reason}" for failed, reason in report.failed)
        )


@orphans.command(name="bind", example="millhand orphans bind")
@yes_option
@click.pass_obj
def bind_bucket(config_path: Path | None, *, is_sure: bool) -> None:
    """
    Say that the bucket is to be judged by this database from now on, whosever it was.

    The first run that may remove does it by itself. By hand it is for after a database was restored or moved.
    """
    settings = load_settings(config_path)
    confirm(f"bind {settings.get('storage.url')} to this database", is_sure=is_sure)
    before = _run(settings, bind)
    was = (
        f"it was bound by {before.marker.name!r} at {before.marker.bound_at}"
        if before.marker
        else "it was not bound"
    )
    say(f"bound to {before.name!r}; {was}")


@orphans.command(name="unbind", example="millhand orphans unbind")
@yes_option
@click.pass_obj
def unbind_bucket(config_path: Path | None, *, is_sure: bool) -> None:
    """Let the bucket go, so that whichever database runs next may bind it."""
    settings = load_settings(config_path)
    confirm(f"let {settings.get('storage.url')} go", is_sure=is_sure)
    say("let go" if _run(settings, unbind) else "it was not bound")


class Refused(NotDone):
    """A guard did not trust what it saw, a source or the store gave no answer, or another run is at it; exit code 2."""

    exit_code = 2


def _reconcile(context: click.Context, settings: Settings, config: OrphansConfig, *, is_json: bool) -> None:
    async def go(executor: Executor, store: ObjectStore) -> tuple[RunReport, list[Summary]]:
        with shown_progress(await expected_objects(executor, store.url)) as progress:
            report = await reconcile(executor, store, config, progress=progress)
        return report, await summarize_findings(executor, store.url)

    try:
        report, summaries = _run(settings, go)
    except MillhandError as error:
        from millhand.observe.secret import masked_error  # noqa: PLC0415 - for errors only

        # Never 1, which says that something was found: where a source or the store gave no answer, nobody knows.
        raise Refused(masked_error(str(error))) from error
    price = config.price_per_gb
    if is_json:
        freed = dict(freed_fields(report, summaries, price_per_gb=price))
        told = {name.replace(" ", "_"): value for name, value in freed.items()}
        print_json({**_fields(report), "findings": _plain(summaries), **_fields(told)})
    else:
        print_report(report, summaries, price_per_gb=price)
    if report.abort_reasons:
        raise Refused("; ".join(report.abort_reasons))
    if report.state == "busy":
        raise Refused("another run is in progress; try again when it has ended")
    context.exit(1 if report.num_found else 0)


def _run(settings: Settings, work: Callable[[Executor, ObjectStore], Awaitable[T]]) -> T:
    with settings.blamed("storage"):
        store = open_store(settings.get("storage.url"), create=settings.origin("storage.url") == DEFAULT)

    async def go(driver: Driver) -> T:
        try:
            await require_schema(driver.pool, driver.schema, LINE_MILLHAND)
            return await work(driver.pool, store)
        finally:
            await store.aclose()

    return run_with_driver(settings, go)


def _finding_line(finding: Finding) -> tuple[object, ...]:
    row = f"{finding.source} {finding.row_id}".strip()
    return (
        finding.id,
        str(finding.kind),
        finding.key,
        row,
        finding.size,
        finding.first_seen_at,
        finding.sightings,
        finding.note,
    )


def _run_line(run: Run) -> tuple[object, ...]:
    totals = run.totals
    return run.id, run.state, run.mode, totals.objects, totals.rows, totals.removed, run.started_at


def _fields(value: object) -> dict[str, Json]:
    plain = _plain(value)
    return plain if isinstance(plain, dict) else {}


def _plain(value: object) -> Json:
    return msgspec.to_builtins(value, builtin_types=(datetime,), enc_hook=str)
