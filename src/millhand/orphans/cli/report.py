"""What `millhand orphans scan` and `run` print about a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click
import msgspec

from millhand.orphans import Mode, OrphansConfig, RunReport
from millhand.orphans.report.explain import Summary
from millhand.shells.cli.output import print_fields, print_json, print_table
from millhand.shells.cli.table import Columns

COLUMNS = Columns(("found", "number", "bytes", "for example"), texts=("for example",), optional=("bytes",))
GIGABYTE = 10**9
ALWAYS_SHOWN = frozenset(("objects", "rows"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A run, its findings by kind, and the bytes in quarantine after it."""

    config: OrphansConfig
    quarantined_bytes: int
    report: RunReport
    summaries: Sequence[Summary]

    def print_json(self) -> None:
        """Print all figures, those that are 0 too."""
        costs = {name.replace(" ", "_"): value for name, value in self._costs().items()}
        findings = msgspec.to_builtins(self.summaries)
        print_json({**msgspec.to_builtins(self.report, enc_hook=str), "findings": findings, **costs})

    def print_text(self) -> None:
        """Print the figures that are not 0, each kind of finding with examples, what is not judged yet, and the cost."""
        figures = [
            (name.replace("_", " "), value)
            for name, value in self.report.fields().items()
            if value or name in ALWAYS_SHOWN
        ]
        print_fields(figures)
        lines = [(one.kind, one.number, one.bytes, ", ".join(one.examples)) for one in self.summaries]
        undecided = self.report.undecided(self.config)
        if lines or not undecided:
            print_table(COLUMNS, lines, empty="nothing found")
        for line in undecided:
            click.echo(line)
        costs = self._costs()
        if self.report.state == "completed" and any(
            value for value in costs.values() if isinstance(value, int)
        ):
            print_fields([(name, value) for name, value in costs.items() if value])

    def _costs(self) -> dict[str, int | str]:
        """Return the bytes that can be freed, those in quarantine, and what both cost per month."""
        freeable = sum(one.bytes for one in self.summaries if one.is_freeable)
        what = "that could be freed" if self.report.mode is Mode.REPORT else "still to be freed"
        gigabytes = (freeable + self.quarantined_bytes) / GIGABYTE
        return {
            f"bytes {what}": freeable,
            "bytes in quarantine": self.quarantined_bytes,
            "cost per month": f"{gigabytes * self.config.price_per_gb:.2f}",
        }
