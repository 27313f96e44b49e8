"""Claims about how commands answer to people, and to programs."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from millhand.cli.output import NotDone, WrongUse, ago, confirm, print_fields, print_json, print_table, say
from millhand.job import JobState

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ROWS = [(1, JobState.DISCARDED, None, "two\nlines\x1b[2J"), (22, JobState.RUNNING, NOW, "tab\there")]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def colourless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


def on_terminal(show: Callable[[], None]) -> str:
    """Return what a person sees of what `show` prints."""
    stream = Terminal()
    with contextlib.redirect_stdout(stream):
        show()
    return stream.getvalue()


def test_print_table_in_a_pipe_is_a_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe there is no heading, a row is one line of its fields, and nothing in them begins another."""
    print_table(("id", "state", "at", "error"), ROWS, empty="none")

    assert capsys.readouterr().out == (
        "1\tdiscarded\t\ttwo lines [2J\n22\trunning\t2026-03-01T12:00:00Z\ttab here\n"
    )


def test_print_table_in_a_pipe_is_empty_without_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """What is counted with `wc -l` is rows."""
    print_table(("id",), [], empty="no jobs")

    assert capsys.readouterr().out == ""


def test_print_table_on_a_terminal_has_headings() -> None:
    """A person gets a table with headings, numbers to the right, and nothing that moves the cursor."""
    rows = [(row[0], row[1], row[3]) for row in ROWS]

    text = on_terminal(lambda: print_table(("id", "state", "error"), rows, empty="none"))

    assert [line.rstrip() for line in text.splitlines()] == [
        "id  state      error",
        " 1  discarded  two lines [2J",
        "22  running    tab here",
    ]


def test_print_table_on_a_terminal_says_that_there_is_nothing() -> None:
    """A person is told that there is nothing, and not shown an empty table."""
    text = on_terminal(lambda: print_table(("id",), [], empty="no jobs"))

    assert text == "no jobs\n"


def test_print_fields_are_aligned_for_people() -> None:
    """Fields of one thing stand below each other."""
    text = on_terminal(lambda: print_fields([("id", 1), ("state", "running"), ("leader", True)]))

    assert text == "id      1\nstate   running\nleader  yes\n"


def test_print_json_says_what_json_can_say(capsys: pytest.CaptureFixture[str]) -> None:
    """Instants are texts in UTC."""
    print_json({"at": NOW, "n": None})

    assert capsys.readouterr().out == '{\n  "at": "2026-03-01T12:00:00Z",\n  "n": null\n}\n'


def test_say_keeps_out_of_the_way_of_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe, what is meant for people goes to standard error."""
    say("done")

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "done\n")


def test_confirm_refuses_where_nobody_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal it must be said beforehand."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))

    confirm("delete 3 jobs", is_sure=True)
    with pytest.raises(WrongUse) as refused:
        confirm("delete 3 jobs", is_sure=False)

    assert refused.value.message == (
        "delete 3 jobs must be confirmed, got no terminal to ask on; repeat it with --yes"
    )


@pytest.mark.parametrize(("answer", "is_done"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_confirm_asks_a_person(monkeypatch: pytest.MonkeyPatch, answer: str, *, is_done: bool) -> None:
    """On a terminal the person decides, and no answer is a no."""
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
def test_ago_counts_as_people_do(distance: timedelta, text: str) -> None:
    """An instant is told by how far it is."""
    assert ago(NOW - distance, NOW) == text
