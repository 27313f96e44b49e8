"""Lines of completed jobs: written from templates, many in one write, as the formatter would write each."""

from __future__ import annotations

import io
import json
import logging
import sys
from types import ModuleType
from typing import Any

import pytest

from millhand.core.log.context_fields import database_named
from millhand.core.log.line_sink import CompletedLine, line_sink_of
from millhand.core.log.logger import FieldRecord, logger_of
from millhand.observe.completed_lines import PHRASE, CompletedLines, Stamps
from millhand.observe.log import JsonFormatter, LogHandler, TextFormatter

NAME = "millhand.engine.job_executor"
LINE = CompletedLine(1_772_359_331.000042, 42, "pay_invoice", "billing", 3, 25, 0.012345, 1.5)
FORMATTERS = {
    "text": TextFormatter(),
    "coloured": TextFormatter(is_coloured=True),
    **{schema: JsonFormatter(schema=schema) for schema in ("millhand", "ecs", "otel", "gcp")},  # type: ignore[arg-type]
}


def formatted(formatter: logging.Formatter, line: CompletedLine, level: int = logging.INFO) -> str:
    """Return what the formatter writes for a record of the line."""
    record = logging.LogRecord(NAME, level, "", 0, PHRASE, (), None)
    fields = line._asdict()
    record.created = fields.pop("created")
    vars(record).update(fields, event=PHRASE)
    record.__class__ = FieldRecord
    return formatter.format(record)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """A logger of Millhand's whose records go to one handler of `configure_logging` alone, in a program without traces."""
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    logger = logging.Logger(NAME, logging.DEBUG)  # noqa: LOG001 - beside the tree, in which pytest has handlers
    logger.addFilter(logger_of(NAME).filters[0])
    logger.addHandler(LogHandler(stream, JsonFormatter()))
    return logger


@pytest.mark.parametrize("name", FORMATTERS)
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"job_id": 2**63 - 1, "attempt": 25, "queue_wait_seconds": 0.0, "run_seconds": 86_400.0},
        {"kind": "reports/größe", "queue": "a b", "queue_wait_seconds": -0.5},
        {"created": 0.0, "max_attempts": 7},
        {"created": 1_772_359_331.9999999},
        # Numbers of the sample: no template can be made.
        {"kind": "job_7777777777777777"},
        {"queue": "q31999", "max_attempts": 31_999},
    ],
)
def test_line_is_what_the_formatter_writes(name: str, given: dict[str, Any]) -> None:
    """Whatever the schema, the kind and the numbers, also of the second line of a template."""
    formatter, line = FORMATTERS[name], LINE._replace(**given)
    lines = CompletedLines(formatter, Stamps(formatter.stamp))  # type: ignore[attr-defined]  # each has it

    text = lines.text([(NAME, logging.INFO, "", one) for one in (line, line._replace(job_id=9), line)])

    assert text == "".join(f"{formatted(formatter, one)}\n" for one in (line, line._replace(job_id=9), line))


def test_short_time_has_no_exponent() -> None:
    """Readers of JSON in other languages, and people, get the same number."""
    lines = CompletedLines(FORMATTERS["millhand"], JsonFormatter.stamp)

    text = lines.text([(NAME, logging.INFO, "", LINE._replace(run_seconds=1e-6))])

    assert json.loads(text) == json.loads(formatted(FORMATTERS["millhand"], LINE._replace(run_seconds=1e-6)))
    assert '"run_seconds":0.000001' in text


def test_line_names_its_database_and_its_level(stream: io.StringIO) -> None:
    """A process of several databases, and `log.completed_jobs = false`, which logs at level debug."""
    handler = LogHandler(stream, JsonFormatter())
    for level, name in ((logging.INFO, ""), (logging.DEBUG, "eu"), (logging.INFO, "us")):
        with database_named(name):
            handler.add_completed(NAME, level, LINE)

    handler.flush()

    lines = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert [(line["level"], line.get("database")) for line in lines] == [
        ("info", None),
        ("debug", "eu"),
        ("info", "us"),
    ]


def test_lines_keep_their_order_among_other_lines(stream: io.StringIO, logger: logging.Logger) -> None:
    """A record that comes later is written later, and what waits at the end is written when logging ends."""
    sink = line_sink_of(logger, logging.INFO)
    assert sink is not None
    sink.add_completed(NAME, logging.INFO, LINE)
    logger.info("job errored", extra={"job_id": 43})
    sink.add_completed(NAME, logging.INFO, LINE._replace(job_id=44))
    before = stream.getvalue().count("\n")
    sink.flush()

    ids = [json.loads(text)["job_id"] for text in stream.getvalue().splitlines()]
    assert (before, ids) == (2, [42, 43, 44])


def test_lines_are_one_write(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    """A terminal or a pipe gets them together."""
    written: list[str] = []
    monkeypatch.setattr(stream, "write", written.append)
    handler = LogHandler(stream, TextFormatter())
    for id in range(100):
        handler.add_completed(NAME, logging.INFO, LINE._replace(job_id=id))

    handler.flush()

    assert [text.count("\n") for text in written] == [100]


def test_stream_that_fails_ends_no_job(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    """As with other lines: a full disk is reported by `logging`, and a closed pipe is ignored."""
    handler, failed = LogHandler(stream, TextFormatter()), []
    monkeypatch.setattr(logging.StreamHandler, "handleError", lambda _self, record: failed.append(record.msg))
    for error in (OSError(28, "No space left on device"), BrokenPipeError()):
        monkeypatch.setattr(stream, "write", lambda _text, error=error: (_ for _ in ()).throw(error))
        handler.add_completed(NAME, logging.INFO, LINE)
        handler.flush()

    assert failed == [PHRASE]


class Other(logging.Handler):
    """A handler of an application."""

    def emit(self, record: logging.LogRecord) -> None:
        """Drop the record."""


def test_only_a_handler_that_is_alone_takes_lines(logger: logging.Logger) -> None:
    """An application's handler, filter, formatter or level must see or stop the record as it did before."""
    [handler] = logger.handlers
    taken = [line_sink_of(logger, logging.INFO) is handler]

    logger.addHandler(Other())
    taken.append(line_sink_of(logger, logging.INFO) is not None)
    logger.removeHandler(logger.handlers[1])
    handler.setLevel(logging.WARNING)
    taken.append(line_sink_of(logger, logging.INFO) is not None)
    handler.setLevel(logging.NOTSET)
    handler.addFilter(lambda _record: False)
    taken.append(line_sink_of(logger, logging.INFO) is not None)
    handler.filters.clear()
    logger.addFilter(lambda _record: True)
    taken.append(line_sink_of(logger, logging.INFO) is not None)

    assert taken == [True, False, False, False, False]


def test_no_line_is_taken_where_records_have_more(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application's factory adds fields to each record, and a span adds its ids."""

    class Record(logging.LogRecord):
        """A record of an application."""

    logging.setLogRecordFactory(Record)
    with_factory = line_sink_of(logger, logging.INFO)
    logging.setLogRecordFactory(logging.LogRecord)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", ModuleType("opentelemetry.trace"))

    assert (with_factory, line_sink_of(logger, logging.INFO)) == (None, None)


def test_handler_without_lines_gets_records(logger: logging.Logger) -> None:
    """An application that only uses our formatters has a handler of its own."""
    logger.removeHandler(logger.handlers[0])
    logger.addHandler(logging.StreamHandler(io.StringIO()))

    assert line_sink_of(logger, logging.INFO) is None
