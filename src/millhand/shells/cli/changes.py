"""What a command has changed, and why it left the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from millhand.core.job import JobId, JobRow, Json
from millhand.shells.cli.output import NotDone, counted, is_terminal, job_fields, print_json, print_message

NUM_EXPLAINED = 10


class Changes:
    """What a command has changed, and why it left other jobs. It keeps ids, and rows only for JSON: all may be large."""

    def __init__(self, *, is_json: bool) -> None:
        self._done: list[Json] = []
        self.is_json = is_json
        self.refusals: list[str] = []

    def add(self, row: JobRow) -> None:
        self._done.append(job_fields(row) if self.is_json else row.id)

    def add_many(self, reasons: Sequence[tuple[JobId, str | None]], rows: Sequence[JobRow]) -> None:
        """Add jobs that have no reason why they were left; JSON needs their rows."""
        by_id = {row.id: row for row in rows}
        for id, reason in reasons:
            if reason is not None:
                self.refusals.append(reason)
            else:
                self._done.append(job_fields(by_id[id]) if self.is_json else id)

    @contextmanager
    def printed(self, past: str, noun: str) -> Iterator[None]:
        """
        Print what the block has changed, also if Ctrl-C or an error ends it: each change is committed by then.

        Raises: NotDone with the refusals, if any.
        """
        try:
            yield
        except BaseException:
            if self._done:
                self._print(past, noun)
            raise
        self._print(past, noun)
        if self.refusals:
            raise NotDone(joined(self.refusals))

    def _print(self, past: str, noun: str) -> None:
        if self.is_json:
            print_json(self._done)
        elif self._done and not is_terminal():
            click.echo("\n".join(map(str, self._done)))
        if self._done or not self.refusals:
            print_message(f"{past} {counted(len(self._done), noun)}")


def joined(refusals: Sequence[str]) -> str:
    """Return refusals as one text: the first ones, and the number of the others."""
    rest = len(refusals) - NUM_EXPLAINED
    return "; ".join([*refusals[:NUM_EXPLAINED], *([f"and {rest:,} more"] if rest > 0 else [])])
