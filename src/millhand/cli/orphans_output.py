"""The output of an orphan run: its progress, its findings with examples, and what could be freed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import click

from millhand.cli.output import is_terminal, print_fields, print_table
from millhand.orphans import Mode, Progress, RunReport
from millhand.orphans.report.progress import Pace, ProgressLog
from millhand.orphans.report.summary import Summary

PRINT_EVERY = timedelta(seconds=10)
SUMMARY_COLUMNS = ("found", "number", "bytes", "for example")
GIGABYTE = 10**9
Show = Callable[[Progress], None]


@contextlib.contextmanager
def shown_progress(expected: int | None) -> Iterator[Show]:
    """Yield a function that shows the progress of a run on standard error: a bar on a terminal, otherwise lines."""
    if is_terminal():
        with _bar(expected) as show:
            yield show
    else:
        yield ProgressLog(expected, every=PRINT_EVERY, write=_print)


def print_report(report: RunReport, summaries: Sequence[Summary], *, price_per_gb: float) -> None:
    """Print the figures of a run, each kind of finding with examples, and their cost."""
    print_fields([(name.replace("_", " "), value) for name, value in report.fields().items()])
    lines = [(one.kind, one.number, one.bytes, ", ".join(one.examples)) for one in summaries]
    print_table(SUMMARY_COLUMNS, lines, empty="nothing found")
    if report.state == "completed":
        print_fields(freed_fields(report, summaries, price_per_gb=price_per_gb))


def freed_fields(
    report: RunReport, summaries: Sequence[Summary], *, price_per_gb: float
) -> list[tuple[str, object]]:
    """Return how many bytes can be freed, and their cost per month."""
    num_bytes = sum(one.bytes for one in summaries if one.is_freeable)
    what = "that could be freed" if report.mode is Mode.REPORT else "still to be freed"
    return [
        (f"bytes {what}", num_bytes),
        ("cost per month", f"{num_bytes / GIGABYTE * price_per_gb:.2f}"),
    ]


@contextlib.contextmanager
def _bar(expected: int | None) -> Iterator[Show]:
    from rich.console import Console  # noqa: PLC0415 - for terminals only
    from rich.progress import BarColumn, SpinnerColumn, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("connecting", total=expected)

        def show(progress: Progress) -> None:
            text = progress_line(progress, Pace.of(progress, expected))
            bar.update(task, completed=progress.objects, description=f"{text}, at {progress.key!r}")

        yield show


def progress_line(progress: Progress, pace: Pace) -> str:
    counts = f"{progress.objects:,} objects, {progress.rows:,} rows, {pace.objects_per_second:,.0f} objects/s"
    left = "" if pace.remaining_seconds is None else f", {_span(pace.remaining_seconds)} left"
    return f"{progress.phase}: {counts}{left}"


def _print(progress: Progress, pace: Pace) -> None:
    click.echo(progress_line(progress, pace), err=True)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
