"""Claims about how the log looks."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from millhand.job import JobState
from millhand.observe.log import LogFormat, configure_logging, shown
from millhand.observe.secret import masked, masked_error, masked_url


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


logger = logging.getLogger("millhand.somewhere")


def test_log_on_a_terminal_is_a_line_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text has the local time, the level, the phrase in a column of its own, and fields as key=value."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    configure_logging("auto", "info", stream)

    logger.info("worker started", extra={"client_id": "a1", "queues": {"default": 100}, "kinds": ["a", "b"]})
    logger.warning("job errored", extra={"error": 'said "no"', "leader": True})

    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d", first[:8])
    assert first[8:] == " info  worker started              client_id=a1 queues=default:100 kinds=a,b"
    assert second[8:] == r' warn  job errored                 error="said \"no\"" leader=true'


def test_log_on_a_terminal_is_coloured_unless_asked_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colours; NO_COLOR takes them away."""
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
    """JSON has the time in UTC, level, message and logger, the fields as they were given, and a traceback as a field."""
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


def test_log_loses_no_line_for_a_value_that_json_cannot_say() -> None:
    """Whatever a field holds, the line is a JSON object."""
    stream = io.StringIO()
    configure_logging("json", "info", stream)

    logger.info("odd", extra={"found": "\udc80", "seconds": float("nan"), "reason": object})

    line = json.loads(stream.getvalue(), parse_constant=pytest.fail)
    assert line["found"] == "\udc80"
    assert line["reason"] == shown(object)


def test_log_in_a_pipe_keeps_its_own_words_from_fields_of_the_same_name() -> None:
    """When a line was said, how grave it is and by whom is the line's to say; a stranger's field stands beside it."""
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
def test_log_bears_a_value_that_holds_itself(format: LogFormat) -> None:
    """A value without an end is shown as Python shows it, and nothing is raised into the code that logged it."""
    stream = io.StringIO()
    configure_logging(format, stream=stream)
    ring: list[object] = ["a"]
    ring.append(ring)

    logging.getLogger("shop").info("ring", extra={"ring": ring})

    shown_as = "ring=\"['a', [...]]\"" if format == "text" else '"ring":"[\'a\', [...]]"'
    assert shown_as in stream.getvalue()


def test_log_on_a_terminal_quotes_what_a_field_is_called() -> None:
    """A name with a line break in it makes no line of its own."""
    stream = io.StringIO()
    configure_logging("text", stream=stream)

    logging.getLogger("shop").info("odd", extra={"a\n10:00:00 error": 1})

    assert stream.getvalue().endswith('"a\\n10:00:00 error"=1 logger=shop\n')


def test_log_shows_a_traceback_below_its_line() -> None:
    """In text, a traceback is indented under the line it belongs to, and control characters do not reach the terminal."""
    stream = io.StringIO()
    configure_logging("text", "info", stream)

    try:
        raise ValueError("bad \x1b[2J")
    except ValueError:
        logger.exception("job discarded")

    _, below, *_, last = stream.getvalue().splitlines()
    assert below == "    Traceback (most recent call last):"
    assert last == r"    ValueError: bad \x1b[2J"


def test_log_keeps_the_end_of_a_traceback_that_is_too_long() -> None:
    """An error that quotes its megabytes does not put them into the log."""
    out = io.StringIO()
    configure_logging("json", "info", out)

    logger.error("job errored", exc_info=ValueError("x" * 5_000_000))

    assert json.loads(out.getvalue())["exception"] == "…" + "x" * 16 * 1024


@pytest.mark.parametrize("text", ["x" * 500_000, "://u:" * 100_000, "a" * 100_000 + "://u:" + "p" * 100_000])
def test_masked_takes_no_time_for_much_text(text: str) -> None:
    """What a user's error quotes is looked through in linear time: the event loop waits for it."""
    begun = time.process_time()
    masked(f"postgresql://ann:sesame@db {text}")

    assert time.process_time() - begun < 2.0


def test_log_shows_structlog_the_same_way() -> None:
    """A user who logs through structlog, and has not configured it, has his lines beside ours."""
    stream = io.StringIO()
    configure_logging("json", "info", stream)

    structlog.get_logger("shop").info("mail sent to %s", "a@example.com", num=2)

    line = json.loads(stream.getvalue())
    del line["timestamp"]
    assert line == {"level": "info", "message": "mail sent to a@example.com", "logger": "shop", "num": 2}


def test_log_names_strangers_in_text() -> None:
    """A line of another library says whose it is."""
    stream = io.StringIO()
    configure_logging("text", "info", stream)

    logging.getLogger("shop").info("hello %s", "you")

    assert stream.getvalue()[8:] == " info  hello you                   logger=shop\n"


def test_log_masks_passwords() -> None:
    """A password in a URL is shown by nobody: not in the phrase, a field or a traceback."""
    stream = io.StringIO()
    configure_logging("text", "info", stream)
    url = "postgresql://ann:sesame@db/shop"

    try:
        raise ValueError(url)
    except ValueError:
        logger.exception("cannot reach %s", url, extra={"address": url, "found": [url]})

    assert "sesame" not in stream.getvalue()
    assert stream.getvalue().count("ann:***@db/shop") == 4


def test_log_keeps_to_its_level_and_replaces_itself() -> None:
    """Below the level nothing is shown; configured again, each line is shown once."""
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
def test_log_shows_values_in_one_word(value: object, text: str) -> None:
    """Every value of a field is one word, quoted where it would not be."""
    assert shown(value) == text


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("postgresql://ann:sesame@db:5432/shop", "postgresql://ann:***@db:5432/shop"),
        ("postgresql://ann:ses@me@db/shop", "postgresql://ann:***@db/shop"),
        ("postgresql://ann:ses/ame@db/shop", "postgresql://ann:***@db/shop"),
        ("postgresql://:sesame@db/shop", "postgresql://:***@db/shop"),
        (
            "postgresql://db/shop?user=ann&password=sesame&x=1",
            "postgresql://db/shop?user=ann&password=***&x=1",
        ),
        ("got 's3+https://key:secret@host/b', see there", "got 's3+https://key:***@host/b', see there"),
        ("postgresql://ann@db:5432/shop", "postgresql://ann@db:5432/shop"),
        ("http://host:80/path and a@b", "http://host:80/path and a@b"),
        ("no url: a:b@c", "no url: a:b@c"),
    ],
)
def test_masked_hides_passwords_and_nothing_else(text: str, shown_as: str) -> None:
    """A password in a URL is masked, however it was written; what is none stays."""
    assert masked(text) == shown_as


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("postgresql://ann@db:5432/shop", "postgresql://ann@db:5432/shop"),
        ("postgresql://ann@/shop?host=/run&port=5433", "postgresql://ann@/shop?host=/run&port=5433"),
        ("postgresql://ann@db1:5432,db2:5433/shop", "postgresql://ann@db1:5432,db2:5433/shop"),
        ("postgresql://[::1]:5432/shop", "postgresql://[::1]:5432/shop"),
        ("postgresql://ann:ses ame@db/shop", "postgresql://ann:***@db/shop"),
        ("postgresql://ann%3Asesame@db/shop", "postgresql:***@db/shop"),
        ("postgresql://ann:sesame", "postgresql://ann:***"),
        ("postgresql://ann:60185/shop", "postgresql://ann:***/shop"),
        ("'postgresql://ann:60185'", "'postgresql://ann:***"),
        ("postgresql://db:5432/shop", "postgresql://db:5432/shop"),
        ("postgresql://db.internal:5433", "postgresql://db.internal:5433"),
        ("http://localhost:9000/bucket", "http://localhost:9000/bucket"),
        ("s3://b?endpoint_url=http://minio:9000", "s3://b?endpoint_url=http://minio:9000"),
        (
            "s3://b/m?endpoint_url=https://127.0.0.1:8333&region=eu&path_style=true",
            "s3://b/m?endpoint_url=https://127.0.0.1:8333&region=eu&path_style=true",
        ),
        ("postgresql://db/shop?password=ses#ame&user=ann", "postgresql://db/shop?password=***&user=ann"),
        ("host=db password=sesame user=ann", "host=db password=***"),
        ("ann:sesame@db/shop", "ann:***@db/shop"),
    ],
)
def test_masked_url_shows_the_user_and_no_password(text: str, shown_as: str) -> None:
    """Of a text that is meant as a URL all is shown but the password, be it written in a way that is none."""
    assert masked_url(text) == shown_as


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("got 'postgresql://ann:ses ame@db'; empty is none", "got 'postgresql://ann:***@db'; empty is none"),
        ('got "postgresql://ann:ses\' ame@db"; a:b@c', 'got "postgresql://ann:***@db"; a:b@c'),
        ("got 'postgresql://ann:60185'; mend it", "got 'postgresql://ann:***'; mend it"),
        (
            "must begin with 'postgresql://' or 's3://', got scheme 'x'",
            "must begin with 'postgresql://' or 's3://', got scheme 'x'",
        ),
    ],
)
def test_masked_error_hides_passwords_of_quoted_urls(text: str, shown_as: str) -> None:
    """In an error a value that was meant as a URL is masked as one, and the words around it stay."""
    assert masked_error(text) == shown_as


LATE = """
import logging, sys
from millhand.observe.log import configure_logging
configure_logging("json", "info")
configure_logging("json", "info")
logging.getLogger("shop").info("before")
import importlib.util
print("structlog" in sys.modules, importlib.util.find_spec("structlog").name)
import structlog.stdlib
structlog.get_logger("shop").info("after", num=2)
try:
    raise ValueError("bad")
except ValueError:
    structlog.get_logger("shop").exception("failed")
print([type(f).__name__ for f in sys.meta_path].count("_Finder"), structlog.__spec__.loader.get_source("structlog")[:3])
"""


def test_log_shows_structlog_that_is_imported_later_and_does_not_import_it() -> None:
    """A job may be the first to import structlog; until then nothing of it is loaded, and nothing stays in its way."""
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=True)

    first, is_loaded, second, third, left = done.stdout.splitlines()
    assert (is_loaded, left.split()[0]) == ("False structlog", "0")
    assert json.loads(first)["message"] == "before"
    assert {key: json.loads(second)[key] for key in ("level", "message", "logger", "num")} == {
        "level": "info",
        "message": "after",
        "logger": "shop",
        "num": 2,
    }
    assert "ValueError: bad" in json.loads(third)["exception"]
