"""Every table of the command line fits into the terminal."""

from __future__ import annotations

import click
import pytest
from test_output import on_terminal

from millhand.cli import client, kinds, queue
from millhand.orphans.cli import init as orphans_init
from millhand.orphans.cli import orphans
from millhand.orphans.cli import rehearse as orphans_rehearse
from millhand.orphans.cli import report as orphans_report
from millhand.shells.cli import output
from millhand.shells.cli.table import Columns, fitting_widths

# A row of each table as an application in production may have it.
CLIENT_ID = "web-7f9c4d5b8-x2x9k_2026_11_25T14_08_46_457525"
KEY = "uploads/2026/11/25/3f2b1c9a-photo.jpg"
ROWS: dict[str, tuple[Columns, tuple[object, ...]]] = {
    "jobs": (
        output.JOB_COLUMNS,
        (4_211_387, "retryable", "send_newsletter", "default", "12/25", "in 25m", "TimeoutError: no answer within 30 s"),
    ),
    "clients": (
        client.COLUMNS,
        (CLIENT_ID, "working", "periodic", "python", "web-7f9c4d5b8-x2x9k", 4_711, "default:100,mail:5",
         "heartbeat,orphan_cleanup,pay_invoice,resize_image", "3h ago", "2s ago"),
    ),
    "queues": (
        queue.COLUMNS,
        ("send_newsletter", "active", "10,000+", "25m ago", 1_000, 1_000, 1_000, 1_000, 12, "unknown kinds",
         "3h ago", "30d ago", "2s ago"),
    ),
    "findings": (
        orphans.FINDING_COLUMNS,
        (1_000_001, "orphan_object", KEY, "uploads 4211387", 13_000_000, "3d ago", 71, "near match of a row"),
    ),
    "runs": (orphans.RUN_COLUMNS, (4_711, "completed", "quarantine", 1_000_000, 1_000_000, 12_345, "3h ago")),
    "quarantined": (orphans.QUARANTINED_COLUMNS, (KEY, 13_000_000, 4_711, "3d ago", "not in this mode")),
    "summary": (orphans_report.COLUMNS, ("orphan_object", 12_345, 13_000_000_000, f"{KEY}, {KEY}")),
    "sources": (
        orphans_init.COLUMNS,
        ("public.uploads.photo", "public.uploads.photo", 1_000_000, 1_000, "1000 of 1000", 1_000_000, KEY),
    ),
    "rehearsal": (
        orphans_rehearse.COLUMNS,
        (12, "public.uploads", 0, 12_345, 13_000_000, "8 to 30", f"{KEY}, {KEY}", "no row has referenced it for a week"),
    ),
}  # fmt: skip
HEADINGS = {
    "jobs": "id state kind queue scheduled error",
    "clients": "id state leads seen",
    "queues": "name state available oldest running slots limit",
    "findings": "id kind key row",
    "runs": "run state mode objects rows removed started",
    "quarantined": "key size run deleted",
    "summary": "found number bytes for example",
    "sources": "source column found for example",
    "rehearsal": "rule source rows objects days for example why",
}


@pytest.mark.parametrize("width", [200, 132, 100, 80, 64, 50, 20])
def test_tables_fit_into_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """A table is never wider than the terminal, and a column that is left out is named; else each row is a block."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    headings = {}
    for name, (columns, row) in ROWS.items():
        text = on_terminal(lambda: output.print_table(columns, [row, row], empty=""))  # noqa: B023 - called at once
        first, *lines = click.unstyle(text).splitlines()
        if first.split()[:2] != [columns.names[0], str(row[0])]:  # a table, not a block
            assert max(map(len, lines[:2])) <= width, name
            left_out = lines[2].partition(": ")[2].split(", ") if len(lines) > 2 else []
            assert sorted([*left_out, *_shown(columns, first)]) == sorted(columns.names)
            headings[name] = " ".join(_shown(columns, first))

    if width == 200:
        assert headings == {name: " ".join(columns.names) for name, (columns, _) in ROWS.items()}
    if width == 80:
        assert headings == HEADINGS
    if width == 20:
        assert headings == {}


def _shown(columns: Columns, heading: str) -> list[str]:
    return [name for name in columns.names if f"  {name}  " in f"  {heading.strip()}  "]


def test_columns_name_their_texts_and_optional_columns() -> None:
    """The columns that may be cut or left out exist, and the first column always stays."""
    for columns in (*(columns for columns, _ in ROWS.values()), kinds.FINDING_COLUMNS):
        assert {*columns.texts, *columns.optional} <= set(columns.names[1:]) | {"source"}


@pytest.mark.parametrize(
    ("width", "widths"),
    [
        (100, {"id": 40, "error": 40, "at": 9}),
        (80, {"id": 40, "error": 27, "at": 9}),
        (67, {"id": 40, "error": 25}),
        (58, {"id": 40, "error": 16}),
        (57, {"id": 39, "error": 16}),
        (50, {"id": 32, "error": 16}),
        (49, None),
    ],
)
def test_texts_are_cut_before_columns_go_and_ids_are_cut(width: int, widths: dict[str, int] | None) -> None:
    """Texts are cut first, then optional columns go, then ids are cut; below 32 of an id a table says too little."""
    columns = Columns(("id", "error", "at"), texts=("error",), optional=("at",))

    assert fitting_widths(columns, [40, 40, 9], width) == widths
