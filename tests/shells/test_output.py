"""Claims about the output of commands for people and for programs."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click
import pytest

from millhand.core.job import JobState
from millhand.shells.cli.output import (
    NotDone,
    WrongUse,
    ago,
    confirm,
    print_fields,
    print_json,
    print_message,
    print_table,
)
from millhand.shells.cli.table import Columns

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ROWS = [(1, JobState.DISCARDED, None, "two\nlines\x1b[2J"), (22, JobState.RUNNING, NOW, "tab\there")]


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def colourless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


def on_terminal(show: Callable[[], None]) -> str:
    """Return what `show` prints on a terminal."""
    stream = Terminal()
    with contextlib.redirect_stdout(stream):
        show()
    return stream.getvalue()


def test_print_table_in_a_pipe_is_a_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe there is no heading, and each row is one line, even if a field has line breaks."""
    print_table(Columns(("id", "state", "at", "error")), ROWS, empty="none")

    assert capsys.readouterr().out == (
        "1\tdiscarded\t\ttwo lines [2J\n22\trunning\t2026-03-01T12:00:00Z\ttab here\n"
    )


def test_print_table_in_a_pipe_is_empty_without_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """Without rows a pipe gets no line."""
    print_table(Columns(("id",)), [], empty="no jobs")

    assert capsys.readouterr().out == ""


def test_print_table_on_a_terminal_has_headings() -> None:
    """A terminal gets headings, right-aligned numbers and no control characters of fields."""
    rows = [(row[0], row[1], row[3]) for row in ROWS]

    text = on_terminal(lambda: print_table(Columns(("id", "state", "error")), rows, empty="none"))

    assert [line.rstrip() for line in text.splitlines()] == [
        "id  state      error",
        " 1  discarded  two lines [2J",
        "22  running    tab here",
    ]


@pytest.mark.parametrize(("no_color", "is_plain"), [("1", True), ("", False)])
def test_no_color_leaves_no_style(monkeypatch: pytest.MonkeyPatch, no_color: str, *, is_plain: bool) -> None:
    """With NO_COLOR a table has no escape sequence, not even a bold heading or a dim state; an empty value is none."""
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm-256color")
    rows = [(1, JobState.CANCELLED), (2, JobState.DISCARDED)]

    text = on_terminal(lambda: print_table(Columns(("id", "state")), rows, empty="none"))

    assert (text == click.unstyle(text)) is is_plain


def test_print_table_shortens_only_long_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a narrow terminal a long text ends in an ellipsis, and names, ids and numbers stay whole."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    rows = [(12345, "resize_image", "a reason of many words " * 5)]

    text = on_terminal(
        lambda: print_table(Columns(("id", "kind", "why"), texts=("why",)), rows, empty="none")
    )

    assert [line.rstrip() for line in click.unstyle(text).splitlines()] == [
        "   id  kind          why",
        "12345  resize_image  a reason of many words a reason of man…",
    ]


def test_print_table_is_blocks_where_a_table_would_say_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is too narrow for whole ids gets a block for each row."""
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    rows = [(1, "vm_2026_11_25T14_08_46_457525", "yes"), (2, "vm_2026_11_25T14_08_46_457526", "no")]

    text = on_terminal(lambda: print_table(Columns(("id", "client", "leader")), rows, empty="none"))

    assert text.splitlines() == [
        "id      1",
        "client  vm_2026_11_25T14_08_46_457525",
        "leader  yes",
        "",
        "id      2",
        "client  vm_2026_11_25T14_08_46_457526",
        "leader  no",
    ]


def test_print_table_on_a_terminal_prints_the_empty_text() -> None:
    """Without rows a terminal gets the `empty` text."""
    text = on_terminal(lambda: print_table(Columns(("id",)), [], empty="no jobs"))

    assert text == "no jobs\n"


def test_print_fields_are_aligned_for_people() -> None:
    """On a terminal the values are aligned."""
    text = on_terminal(lambda: print_fields([("id", 1), ("state", "running"), ("leader", True)]))

    assert text == "id      1\nstate   running\nleader  yes\n"


def test_print_json_writes_instants_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    """Instants are strings in UTC."""
    print_json({"at": NOW, "n": None})

    assert capsys.readouterr().out == '{\n  "at": "2026-03-01T12:00:00Z",\n  "n": null\n}\n'


def test_say_prints_to_standard_error_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe a message for people goes to standard error. Its control characters are escaped."""
    print_message("done\nwith queue \x1b[2Ja")

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "done\nwith queue \\u001b[2Ja\n")


def test_confirm_fails_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal the error asks for `--yes`."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))

    confirm("delete 3 jobs", is_sure=True)
    with pytest.raises(WrongUse) as refused:
        confirm("delete 3 jobs", is_sure=False)

    assert refused.value.message == (
        "delete 3 jobs must be confirmed, got no terminal to ask on; repeat it with --yes"
    )


@pytest.mark.parametrize(("answer", "is_done"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_confirm_asks_on_a_terminal(monkeypatch: pytest.MonkeyPatch, answer: str, *, is_done: bool) -> None:
    """On a terminal the user decides, and an empty answer means no."""
    stdin = Terminal(answer)
    monkeypatch.setattr("sys.stdin", stdin)

    def ask() -> bool:
        try:
            confirm("delete 3 jobs", is_sure=False)
        except NotDone:
            return False
        return True

    assert ask() is is_done


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (timedelta(seconds=5), "5s ago"),
        (timedelta(seconds=119), "119s ago"),
        (timedelta(minutes=3), "3m ago"),
        (timedelta(hours=5), "5h ago"),
        (timedelta(days=-2), "in 2d"),
    ],
)
def test_ago_is_relative_to_now(distance: timedelta, text: str) -> None:
    """An instant is shown as its distance in one unit."""
    assert ago(NOW - distance, NOW) == text
