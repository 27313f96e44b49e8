"""Show on a terminal how far a command is: a bar on standard error, which disappears at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from millhand.shells.cli.output import counted, is_terminal

Show = Callable[[int, str], None]

FEW_JOBS = 1_000  # are done at once


@contextlib.contextmanager
def shown_bar(begin: str, total: int | None) -> Iterator[Show]:
    """Yield a function that shows how many of `total` are done, with a text; `begin` is the first text."""
    from rich.console import Console  # noqa: PLC0415 - for terminals only
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn  # noqa: PLC0415

    # Without markup, because a key such as a[/b].png has brackets.
    columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(begin, total=total)
        yield lambda done, text: bar.update(task, completed=done, description=text)


@contextlib.contextmanager
def shown_jobs(verb: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Yield a function that shows on a terminal for how many jobs a command is done; in a pipe it shows nothing."""
    if not is_terminal() or (total is not None and total <= FEW_JOBS):
        yield lambda _: None
        return
    of = "" if total is None else f" of {total:,}"
    with shown_bar(verb, total) as show:
        yield lambda done: show(done, f"{verb}: {counted(done, 'job')}{of}")
