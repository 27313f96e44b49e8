"""Claims about the format of the log."""

from __future__ import annotations

import contextvars
import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import loguru
import pytest
import structlog

from millhand.core.job import JobState
from millhand.core.log.context_fields import current_attempt
from millhand.core.log.field_text import shown
from millhand.observe.log import LogFormat, configure_logging

LOG_PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "log_in_your_program.md"

logger = logging.getLogger("millhand.somewhere")


@pytest.fixture(autouse=True)
def _without_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep asyncio out of the streams: it logs a task of an earlier test when the task is garbage-collected."""
    monkeypatch.setattr(logging.getLogger("asyncio"), "propagate", False)


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_log_on_a_terminal_is_a_line_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text line has local time, level, the phrase in a column, and fields as key=value."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    configure_logging("auto", "info", stream)

    logger.info("worker started", extra={"client_id": "a1", "queues": {"default": 100}, "kinds": ["a", "b"]})
    logger.warning("job errored", extra={"error": 'said "no"', "leader": True})

    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d", first[:8])
    assert first[8:] == " info  worker started              client_id=a1 queues=default:100 kinds=a,b"
    assert second[8:] == r' warn  job errored                 error="said \"no\"" leader=true'


def test_log_on_a_terminal_is_coloured_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colours unless NO_COLOR is set."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = Terminal(), Terminal()

    configure_logging("auto", "info", coloured)
    logger.info("worker started")
    monkeypatch.setenv("NO_COLOR", "1")
    configure_logging("auto", "info", plain)
    logger.info("worker started")

    assert "\x1b[32minfo \x1b[0m" in coloured.getvalue()
    assert "\x1b" not in plain.getvalue()


def test_log_in_a_pipe_is_a_json_object_a_line() -> None:
    """A JSON line has the time in UTC, level, message, logger, the fields, and a traceback as a field."""
    stream = io.StringIO()
    configure_logging("auto", "info", stream)

    logger.info("worker started", extra={"queues": {"default": 100}, "event": "x", "error": "two\nlines"})
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("job discarded")

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert datetime.fromisoformat(first.pop("timestamp")).tzinfo == UTC
    assert first == {
        "level": "info",
        "message": "worker started",
        "logger": "millhand.somewhere",
        "queues": {"default": 100},
        "event": "x",
        "error": "two\nlines",
    }
    assert second["exception"].splitlines()[-1] == "ValueError: bad"


def test_log_writes_values_that_json_cannot_hold() -> None:
    """A line is a JSON object, whatever its fields hold."""
    stream = io.StringIO()
    configure_logging("json", "info", stream)

    logger.info("unusual", extra={"found": "\udc80", "seconds": float("nan"), "reason": object})

    line = json.loads(stream.getvalue(), parse_constant=pytest.fail)
    assert line["found"] == "\udc80"
    assert line["reason"] == shown(object)


def test_log_in_a_pipe_renames_fields_with_reserved_names() -> None:
    """Time, level, logger and exception are the line's; a field with such a name gets an underscore."""
    stream = io.StringIO()
    configure_logging("json", stream=stream)

    extra = {"timestamp": 5, "level": "info", "logger": "mine", "exception": "none"}
    logging.getLogger("shop").error("payment refused", extra=extra)

    entry = json.loads(stream.getvalue())
    assert datetime.fromisoformat(entry.pop("timestamp")).tzinfo is not None
    assert entry == {
        "level": "error",
        "message": "payment refused",
        "logger": "shop",
        "timestamp_": 5,
        "level_": "info",
        "logger_": "mine",
        "exception_": "none",
    }


@pytest.mark.parametrize("format", ["json", "text"])
def test_log_writes_a_value_that_contains_itself(format: LogFormat) -> None:
    """A recursive value is written as its repr, and the logging code gets no error."""
    stream = io.StringIO()
    configure_logging(format, stream=stream)
    recursive: list[object] = ["a"]
    recursive.append(recursive)

    logging.getLogger("shop").info("recursive", extra={"recursive": recursive})

    shown_as = "recursive=\"['a', [...]]\"" if format == "text" else '"recursive":"[\'a\', [...]]"'
    assert shown_as in stream.getvalue()


def test_log_on_a_terminal_quotes_field_names() -> None:
    """A field name with a line break stays on its line."""
    stream = io.StringIO()
    configure_logging("text", stream=stream)

    logging.getLogger("shop").info("unusual", extra={"a\n10:00:00 error": 1})

    assert stream.getvalue().endswith('"a\\n10:00:00 error"=1 logger=shop\n')


def test_log_shows_a_traceback_below_its_line() -> None:
    """A text traceback is indented below its line and has no control characters."""
    stream = io.StringIO()
    configure_logging("text", "info", stream)

    try:
        raise ValueError("bad \x1b[2J")
    except ValueError:
        logger.exception("job discarded")

    _, below, *_, last = stream.getvalue().splitlines()
    assert below == "    Traceback (most recent call last):"
    assert last == r"    ValueError: bad \x1b[2J"


def test_log_cuts_a_long_traceback() -> None:
    """Only the last 16 KiB of a traceback are logged."""
    out = io.StringIO()
    configure_logging("json", "info", out)

    logger.error("job errored", exc_info=ValueError("x" * 5_000_000))

    assert json.loads(out.getvalue())["exception"] == "…" + "x" * 16 * 1024


def test_log_masks_a_password_at_the_cut_of_a_traceback() -> None:
    """A password that begins before the logged part of a traceback is masked."""
    out = io.StringIO()
    configure_logging("json", "info", out)
    end = "ame@db"
    rest = "x" * (16 * 1024 - len(end))

    logger.error("job errored", exc_info=ValueError(f"postgresql://ann:ses{end}{rest}"))

    assert json.loads(out.getvalue())["exception"] == f"…***@db{rest}"


def test_log_names_other_loggers_in_text() -> None:
    """A text line of another library has its logger."""
    stream = io.StringIO()
    configure_logging("text", "info", stream)

    logging.getLogger("shop").info("hello %s", "you")

    assert stream.getvalue()[8:] == " info  hello you                   logger=shop\n"


def test_log_masks_passwords() -> None:
    """A password in a URL is masked in the phrase, in fields and in tracebacks."""
    stream = io.StringIO()
    configure_logging("text", "info", stream)
    url = "postgresql://ann:sesame@db/shop"

    try:
        raise ValueError(url)
    except ValueError:
        logger.exception("cannot reach %s", url, extra={"address": url, "found": [url]})

    assert "sesame" not in stream.getvalue()
    assert stream.getvalue().count("ann:***@db/shop") == 4


def test_log_respects_its_level_and_replaces_itself() -> None:
    """Lines below the level are dropped; after a second call each line is written once."""
    first, second = io.StringIO(), io.StringIO()
    configure_logging("text", "info", first)
    configure_logging("text", "warning", second)

    logger.info("quiet")
    logger.warning("loud")

    assert first.getvalue() == ""
    assert second.getvalue()[8:] == " warn  loud\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (0.02, "0.02"),
        ("two words", '"two words"'),
        ("", '""'),
        ("a=b", '"a=b"'),
        ("tab\t", r'"tab\t"'),
        ("grün", "grün"),
        (timedelta(seconds=90), "90"),
        (datetime(2026, 3, 1, tzinfo=UTC), "2026-03-01T00:00:00+00:00"),
        (JobState.RUNNING, "running"),
        ({"default": 100, "mail": 5}, "default:100,mail:5"),
        (["a", "b c"], 'a,"b c"'),
        ((), '""'),
    ],
)
def test_log_writes_each_value_as_one_word(value: object, text: str) -> None:
    """Every value is one word, quoted if necessary."""
    assert shown(value) == text


def test_structlog_recipe_of_the_page_writes_lines_like_ours() -> None:
    """With the recipe of docs/how_to/log_in_your_program.md a line of structlog has message, fields and traceback."""
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    recipe = re.search(
        r"```python\n(import structlog.*?)```", LOG_PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert recipe is not None
    exec(recipe[1], {})  # noqa: S102 - our own page
    try:
        structlog.get_logger("shop").info("mail sent to %s", "a@example.com", num=2)
        try:
            raise ValueError("bad")
        except ValueError:
            structlog.get_logger("shop").exception("failed")
    finally:
        structlog.reset_defaults()

    first, second = map(json.loads, stream.getvalue().splitlines())
    del first["timestamp"]
    assert first == {"level": "info", "message": "mail sent to a@example.com", "logger": "shop", "num": 2}
    assert second["exception"].endswith("ValueError: bad")


def test_loguru_recipe_of_the_page_writes_lines_like_ours() -> None:
    """With the recipe of that page a line of loguru has its fields, traceback, and the job that logs it."""
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    recipe = re.search(
        r"```python\n(import logging\n\nimport loguru.*?)```", LOG_PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert recipe is not None

    def work() -> None:
        current_attempt.set((7, "act", "default", 2))
        exec(recipe[1], {"__name__": "shop"})  # noqa: S102 - our own page
        try:
            raise ValueError("bad")
        except ValueError:
            loguru.logger.exception("failed")

    try:
        contextvars.copy_context().run(work)
    finally:
        loguru.logger.remove()

    first, second = map(json.loads, stream.getvalue().splitlines())
    del first["timestamp"]
    job = {"job_id": 7, "kind": "act", "queue": "default", "attempt": 2}
    assert first == {"level": "info", "message": "invoice sent", "logger": "shop", "invoice_id": 7} | job
    assert (second["message"], second["exception"].splitlines()[-1]) == ("failed", "ValueError: bad")
