"""Claims about a run of the orphan cleanup in a terminal: its line of progress, and its exit codes."""

from __future__ import annotations

import pytest

from millhand.orphans import Progress
from millhand.orphans.cli.reconcile import _bar, progress_line
from millhand.orphans.report.progress import Pace


@pytest.mark.parametrize(
    ("expected", "line"),
    [
        (240_000, "scan: 120,000 objects, 120,000 rows, 2,000 objects/s, 1:00 left"),
        (20_000_000, "scan: 120,000 objects, 120,000 rows, 2,000 objects/s, 2:45:40 left"),
        (None, "scan: 120,000 objects, 120,000 rows, 2,000 objects/s"),
    ],
)
def test_progress_line_has_rate_and_remaining_time(expected: int | None, line: str) -> None:
    """The line on a terminal shows objects, rows, rate and, if it is known, the remaining time."""
    some = Progress(bytes=0, key="k", objects=120_000, phase="scan", rows=120_000, seconds=60.0)

    assert progress_line(some, Pace.of(some, expected)) == line


def test_progress_on_a_terminal_shows_a_key_with_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key of an object is no markup of the bar, where a closing tag would be an error."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal for rich
    monkeypatch.setenv("COLUMNS", "200")

    with _bar(None) as show:
        show(Progress(bytes=0, key="a[/b].png", objects=1, phase="scan", rows=1, seconds=1.0))

    assert "scan: 1 object, 1 row, 1 objects/s, at 'a[/b].png'" in capsys.readouterr().err
