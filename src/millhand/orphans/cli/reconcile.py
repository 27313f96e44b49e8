"""Run the orphan cleanup from a command: its progress, its report, and its exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import click

from millhand.core.errors import MillhandError
from millhand.db.driver.protocol import Executor
from millhand.orphans import OrphansConfig, Progress, reconcile
from millhand.orphans.cli.report import Printed
from millhand.orphans.report.explain import summarize_findings
from millhand.orphans.report.progress import Pace, ProgressLog, expected_objects
from millhand.orphans.report.quarantined import quarantined_bytes
from millhand.shells.cli.output import NotDone, counted, is_terminal
from millhand.shells.cli.progress_bar import shown_bar
from millhand.shells.cli.store_target import run_with_store
from millhand.shells.settings.load import Settings
from millhand.storage import ObjectStore

PRINT_EVERY = timedelta(seconds=10)
Show = Callable[[Progress], None]


class Refused(NotDone):
    """A guard aborted the run, a source or the store failed, or another run is active; exit code 2."""

    exit_code = 2


def run_reconcile(
    context: click.Context,
    settings: Settings,
    config: OrphansConfig,
    *,
    is_json: bool,
    differences: Path | None = None,
) -> None:
    """
    Run the orphan cleanup, show its progress, print its report, and exit with 1 if it found something.

    Raises: Refused, with exit code 2, if a guard aborted it, or it failed.
    """

    async def go(executor: Executor, store: ObjectStore) -> Printed:
        with _shown_progress(await expected_objects(executor, store.url)) as progress:
            report = await reconcile(executor, store, config, differences=differences, progress=progress)
        return Printed(
            config=config,
            quarantined_bytes=await quarantined_bytes(executor, store.url),
            report=report,
            summaries=await summarize_findings(executor, store.url),
        )

    try:
        printed = run_with_store(settings, go)
    except (MillhandError, NotDone, OSError) as error:
        # Not 1, which means that something was found. NotDone is the error of a database that cannot be reached.
        raise Refused(str(error)) from error
    if is_json:
        printed.print_json()
    else:
        printed.print_text()
    report = printed.report
    if report.abort_reasons:
        raise Refused("; ".join(report.abort_reasons))
    if report.state == "busy":
        raise Refused("another run is in progress; try again when it has ended")
    context.exit(1 if report.num_found else 0)


@contextlib.contextmanager
def _shown_progress(expected: int | None) -> Iterator[Show]:
    """Yield a function that shows the progress of a run on standard error: a bar on a terminal, otherwise lines."""
    if is_terminal():
        with _bar(expected) as show:
            yield show
    else:
        yield ProgressLog(expected, every=PRINT_EVERY, write=_print)


@contextlib.contextmanager
def _bar(expected: int | None) -> Iterator[Show]:
    with shown_bar("connecting", expected) as show_bar:

        def show(progress: Progress) -> None:
            text = progress_line(progress, Pace.of(progress, expected))
            show_bar(progress.objects, f"{text}, at {progress.key!r}")

        yield show


def progress_line(progress: Progress, pace: Pace) -> str:
    rows = counted(progress.rows, "row")
    counts = f"{counted(progress.objects, 'object')}, {rows}, {pace.objects_per_second:,.0f} objects/s"
    left = "" if pace.remaining_seconds is None else f", {_span(pace.remaining_seconds)} left"
    return f"{progress.phase}: {counts}{left}"


def _print(progress: Progress, pace: Pace) -> None:
    click.echo(progress_line(progress, pace), err=True)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
