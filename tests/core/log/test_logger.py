"""What a person reads in an application's own log, with formatters of `logging` and of other libraries."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import logging.handlers
import pickle
import queue
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from millhand.core.log.logger import logger_of
from millhand.observe import JsonFormatter, TextFormatter

NAME = "millhand.core.log.of_this_test"
ERRORED = {
    "job_id": 2,
    "kind": "pay_invoice",
    "queue": "default",
    "attempt": 1,
    "max_attempts": 3,
    "error": "no such invoice\nat postgresql://ann:sesame@db/shop",
    "seconds": 1.5,
}
MESSAGE = (
    "job errored kind=pay_invoice job_id=2 attempt=1/3 queue=default "
    r'error="no such invoice\nat postgresql://ann:***@db/shop" seconds=1.5'
)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of Millhand, whose records go to the handlers of the test only."""
    logger = logger_of(NAME)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.handlers.clear()


@pytest.fixture
def logged(logger: logging.Logger) -> Callable[..., str]:
    """Returns what a handler with a formatter writes for `job errored`."""

    def logged(formatter: logging.Formatter | None, level: int = logging.WARNING) -> str:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        logger.handlers[:] = [handler]
        logger.log(level, "job errored", extra=ERRORED)
        return stream.getvalue().rstrip("\n")

    return logged


def fields_of(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name in ERRORED}


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING])
def test_message_has_its_fields_without_a_formatter_of_ours(logged: Callable[..., str], level: int) -> None:
    """With `logging.basicConfig` a line names the kind, job and attempt first, in one line and without a password."""
    assert (
        logged(logging.Formatter(logging.BASIC_FORMAT), level)
        == f"{logging.getLevelName(level)}:{NAME}:{MESSAGE}"
    )
    assert logged(None, level) == MESSAGE


def test_message_is_the_phrase_with_a_formatter_of_ours(logged: Callable[..., str]) -> None:
    """With a formatter of `millhand.observe` the message is constant, and the fields stay fields."""
    text, entry = logged(TextFormatter()), json.loads(logged(JsonFormatter()))

    assert re.sub(r"\s+", " ", text)[9:].startswith(
        "warn job errored job_id=2 kind=pay_invoice queue=default attempt=1 "
    )
    assert (entry["message"], "event" in entry) == ("job errored", False)
    assert fields_of(entry) == {**ERRORED, "error": "no such invoice\nat postgresql://ann:***@db/shop"}


def test_formatters_of_both_kinds_can_be_mixed(logger: logging.Logger) -> None:
    """Each handler of one record gets what suits its formatter, in any order."""
    streams = [io.StringIO() for _ in range(4)]
    formatters = [JsonFormatter(), None, JsonFormatter(), logging.Formatter("%(event)s: %(message)s")]
    for stream, formatter in zip(streams, formatters, strict=True):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        logger.addHandler(handler)

    logger.info("job errored", extra={"job_id": 2})

    first, second, third, fourth = (stream.getvalue().rstrip("\n") for stream in streams)
    assert json.loads(first)["message"] == json.loads(third)["message"] == "job errored"
    assert (second, fourth) == ("job errored job_id=2", "job errored: job errored job_id=2")


def test_fields_that_the_application_adds_are_not_in_the_message(logger: logging.Logger) -> None:
    """A record factory or a filter of the application adds attributes to every record; the message has Millhand's only."""
    factory = logging.getLogRecordFactory()

    def with_trace_id(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        record.trace_id = "t1"
        record.package = record.name.partition(".")[0]
        return record

    def with_request_id(record: logging.LogRecord) -> bool:
        record.request_id = "r1"
        return True

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(with_request_id)
    handler.setFormatter(logging.Formatter("%(trace_id)s %(request_id)s %(message)s"))
    logger.addHandler(handler)
    logging.setLogRecordFactory(with_trace_id)
    try:
        logger.info("job errored", extra={"job_id": 2})
    finally:
        logging.setLogRecordFactory(factory)

    assert stream.getvalue() == "t1 r1 job errored job_id=2\n"


@pytest.mark.parametrize(
    ("formatter", "told"), [(logging.Formatter(), MESSAGE), (JsonFormatter(), "job errored")]
)
def test_record_from_a_queue_or_another_process_has_its_fields_once(
    logger: logging.Logger, formatter: logging.Formatter, told: str
) -> None:
    """A QueueHandler formats a record before a listener does, perhaps in another process, and no field comes twice."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logger.addHandler(logging.handlers.QueueHandler(records))

    logger.info("job errored", extra=ERRORED)
    record = pickle.loads(pickle.dumps(records.get()))  # noqa: S301 - our own record

    text = formatter.format(record)
    assert (json.loads(text)["message"] if isinstance(formatter, JsonFormatter) else text) == told


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_record_from_a_queue_keeps_its_traceback(
    logger: logging.Logger, formatter: logging.Formatter
) -> None:
    """A QueueHandler moves the traceback into the message, and Millhand's formatters still write it."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logger.addHandler(logging.handlers.QueueHandler(records))

    try:
        raise ValueError("no such invoice")
    except ValueError:
        logger.warning("job errored", extra=ERRORED, exc_info=True)
    text = formatter.format(records.get())

    trace = json.loads(text)["exception"] if isinstance(formatter, JsonFormatter) else text
    assert "Traceback (most recent call last):" in trace
    assert trace.endswith("ValueError: no such invoice")


def test_structlogs_formatter_gets_the_phrase_and_the_fields(logged: Callable[..., str]) -> None:
    """Structlog's formatter with its `ExtraAdder` writes the phrase as its event, and the fields as its own."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )

    entry = json.loads(logged(formatter))

    assert (entry["event"], fields_of(entry)) == ("job errored", ERRORED)


def test_record_of_an_applications_own_class_stays_as_it_is(logger: logging.Logger) -> None:
    """A record factory may return records of another class, whose message Millhand leaves alone."""

    class Record(logging.LogRecord):
        def getMessage(self) -> str:  # noqa: N802 - the name is of `logging`
            return "mine"

    stream = io.StringIO()
    logger.addHandler(logging.StreamHandler(stream))
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(Record)
    try:
        logger.info("job errored", extra={"job_id": 2})
    finally:
        logging.setLogRecordFactory(factory)

    assert stream.getvalue() == "mine\n"


def test_logging_configuration_names_the_formatters(logger: logging.Logger) -> None:
    """`dictConfig` makes the formatters by their names."""
    stream = io.StringIO()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "json": {"()": "millhand.observe.JsonFormatter"},
                "text": {"()": "millhand.observe.TextFormatter", "is_coloured": True},
            },
            "handlers": {
                name: {"class": "logging.StreamHandler", "stream": stream, "formatter": name}
                for name in ("json", "text")
            },
            "loggers": {NAME: {"handlers": ["json", "text"], "propagate": False}},
        }
    )

    logger.warning("job errored", extra={"job_id": 2})

    first, second = stream.getvalue().splitlines()
    assert json.loads(first)["job_id"] == 2
    assert "\x1b[33mwarn \x1b[0m" in second
