"""`millhand orphans`: compare rows with objects by hand, see what was found, why, and undo what was done."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from millhand.cli.command import Group, json_option, yes_option
from millhand.cli.database import run_with_driver
from millhand.cli.output import (
    NotDone,
    WrongUse,
    confirm,
    is_terminal,
    print_fields,
    print_json,
    print_table,
    say,
)
from millhand.cli.settings import DEFAULT, Settings, load_settings
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.driver.protocol import Executor
from millhand.job import Json
from millhand.migrate import require_schema
from millhand.orphans import (
    Explanation,
    Finding,
    Mode,
    Progress,
    RestoreReport,
    Run,
    RunReport,
    explain,
    list_findings,
    list_runs,
    reconcile,
    restore,
)
from millhand.storage import ObjectStore, open_store

T = TypeVar("T")

LINE_MILLHAND = "millhand"
KINDS = ("orphan", "abandoned", "missing", "size_mismatch", "shared")
FINDING_COLUMNS = ("id", "kind", "key", "row", "size", "first seen", "seen")
RUN_COLUMNS = ("run", "state", "mode", "objects", "rows", "removed", "started")


@click.group(cls=Group, example="millhand orphans scan")
def orphans() -> None:
    """Reconcile rows with objects, and undo what was done."""


@orphans.command(example="millhand orphans scan --json")
@json_option
@click.pass_obj
def scan(config_path: Path | None, *, is_json: bool) -> None:
    """
    Compare all rows with all objects now, and say what was found; deletes nothing, whatever the mode.

    What it finds is kept, and counts as seen once more. Exit code 1 if a guard does not trust what it sees.
    """
    settings = load_settings(config_path)
    config = dataclasses.replace(settings.orphans_config(), mode=Mode.REPORT)

    async def go(executor: Executor, store: ObjectStore) -> RunReport:
        with _progress() as progress:
            return await reconcile(executor, store, config, progress=progress)

    report = _run(settings, go)
    if is_json:
        print_json(_plain(report))
    else:
        print_fields([(name.replace("_", " "), value) for name, value in report.fields().items()])
    if report.refusals:
        raise NotDone("; ".join(report.refusals))
    if report.state == "busy":
        raise NotDone("another run is at it; try again when it has ended")


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
        click.echo("\n".join(explanation.lines()))


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

    What is back already stays as it is, and so does a newer object that took the place.
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
    say(f"restored {report.restored:,} objects and {report.rows:,} rows, kept {report.kept:,} newer objects")
    if report.failed:
        raise NotDone(
            "; ".join(f"{failed!r} cannot be restored: {reason}" for failed, reason in report.failed)
        )


def _run(settings: Settings, work: Callable[[Executor, ObjectStore], Awaitable[T]]) -> T:
    with settings.blamed("storage"):
        store = open_store(settings.get("storage.url"), create=settings.origin("storage.url") == DEFAULT)

    async def go(driver: AsyncpgDriver) -> T:
        try:
            await require_schema(driver.pool, driver.schema, LINE_MILLHAND)
            return await work(driver.pool, store)
        finally:
            await store.aclose()

    return run_with_driver(settings, go)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Progress], None] | None]:
    """Yield a function that shows how far a run is, to a person; on standard error, apart from the answer."""
    if not is_terminal():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - for terminals only
    from rich.progress import Progress as Bar  # noqa: PLC0415
    from rich.progress import SpinnerColumn, TextColumn  # noqa: PLC0415

    with Bar(
        SpinnerColumn(), TextColumn("{task.description}"), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("connecting")

        def show(progress: Progress) -> None:
            speed = progress.objects / progress.seconds if progress.seconds else 0.0
            counts = f"{progress.objects:,} objects, {progress.rows:,} rows, {speed:,.0f} objects/s"
            bar.update(task, description=f"{progress.phase}: {counts}, at {progress.key!r}")

        yield show


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
    )


def _run_line(run: Run) -> tuple[object, ...]:
    totals = run.totals
    return run.id, run.state, run.mode, totals.objects, totals.rows, totals.removed, run.started_at


def _plain(value: object) -> Json:
    return msgspec.to_builtins(value, builtin_types=(datetime,), enc_hook=str)
