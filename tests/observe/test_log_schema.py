"""A line of the log in each schema."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace

from millhand.core.errors import ConfigError
from millhand.observe import JsonFormatter
from millhand.observe.log_schema import SCHEMAS, LogSchema

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
AT = "2026-01-01T12:30:15.250000Z"
TRACE = "Traceback (most recent call last):\nshop.Declined: no"
FIELDS = {"job_id": 7, "queues": {"default": 100}, "tags": ["eu"], "message_": "own", "severity": "mine"}


class Declined(Exception): ...


def logged(schema: LogSchema, level: int, **fields: Any) -> dict[str, Any]:
    """Return the entry of a line that is logged in a sampled span."""
    span = trace.SpanContext(
        int(TRACE_ID, 16), int(SPAN_ID, 16), is_remote=False, trace_flags=trace.TraceFlags(1)
    )
    record = logging.makeLogRecord(
        {
            "name": "shop",
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": "job discarded",
            **fields,
        }
    )
    record.created = 1767270615.25
    token = otel_context.attach(trace.set_span_in_context(trace.NonRecordingSpan(span)))
    try:
        entry: dict[str, Any] = json.loads(JsonFormatter(schema=schema).format(record))
    finally:
        otel_context.detach(token)
    return entry


ENTRIES: dict[LogSchema, dict[str, Any]] = {
    "millhand": {
        "timestamp": AT, "level": "error", "message": "job discarded", "logger": "shop", "exception": TRACE,
        "error": "no", "error_type": "shop.Declined", "trace_id": TRACE_ID, "span_id": SPAN_ID, "trace_flags": "01",
        **FIELDS,
    },
    "ecs": {
        "@timestamp": AT, "log.level": "error", "message": "job discarded", "ecs.version": "8.11.0", "log.logger": "shop",
        "error.type": "shop.Declined", "error.message": "no", "error.stack_trace": TRACE,
        "trace.id": TRACE_ID, "span.id": SPAN_ID, "labels.trace_flags": "01", "labels.job_id": 7,
        "labels.queues": "default:100", "labels.tags": ["eu"], "labels.message_": "own", "labels.severity": "mine",
    },
    "otel": {
        "timestamp": AT, "severity_text": "ERROR", "severity_number": 17, "body": "job discarded", "scope": {"name": "shop"},
        "trace_id": TRACE_ID, "span_id": SPAN_ID, "trace_flags": "01",
        "attributes": {
            "exception.type": "shop.Declined", "exception.message": "no", "exception.stacktrace": TRACE, **FIELDS,
        },
    },
    "gcp": {
        "time": AT, "severity": "ERROR", "message": "job discarded", "logger": "shop", "stack_trace": TRACE,
        "logging.googleapis.com/trace": f"projects/shop-1/traces/{TRACE_ID}",
        "logging.googleapis.com/spanId": SPAN_ID, "logging.googleapis.com/trace_sampled": True,
        "error": "no", "error_type": "shop.Declined", "job_id": 7, "queues": {"default": 100}, "tags": ["eu"],
        "message_": "own", "severity_": "mine",
    },
}  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS)
def test_line_has_the_keys_of_its_schema(schema: LogSchema, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time, level, phrase, logger, error, traceback, trace and fields are under the keys of the log system."""
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "shop-1")
    extra = {"error": "no", "error_type": "shop.Declined", "exc_text": None, "stack_info": TRACE}

    assert logged(schema, logging.ERROR, **extra, **FIELDS) == ENTRIES[schema]


@pytest.mark.parametrize(
    ("level", "names"),
    [
        (logging.DEBUG, ("debug", 5, "DEBUG")),
        (logging.INFO, ("info", 9, "INFO")),
        (logging.WARNING, ("warning", 13, "WARNING")),
        (logging.CRITICAL, ("critical", 21, "CRITICAL")),
        (25, ("level 25", 9, "INFO")),
        (1, ("level 1", 1, "DEFAULT")),
    ],
)
def test_level_is_that_of_the_schema(
    level: int, names: tuple[str, int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A level between two of the schema counts as the lower one; without a project, Google's trace is its id."""
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    ecs, otel, gcp = (logged(schema, level) for schema in ("ecs", "otel", "gcp"))

    assert (ecs["log.level"], otel["severity_number"], gcp["severity"]) == names
    assert gcp["logging.googleapis.com/trace"] == TRACE_ID


@pytest.mark.parametrize(
    ("schema", "path"), [("ecs", ("error.type",)), ("otel", ("attributes", "exception.type"))]
)
def test_class_of_a_logged_exception_is_named(schema: LogSchema, path: tuple[str, ...]) -> None:
    """An application's line with `exc_info` names the class, although it has no field `error_type`."""
    try:
        raise Declined
    except Declined:
        value: Any = logged(schema, logging.ERROR, exc_info=sys.exc_info())

    for key in path:
        value = value[key]
    assert value == f"{__name__}.Declined"


@pytest.mark.parametrize("schema", SCHEMAS)
def test_unusual_values_lose_no_line(schema: LogSchema) -> None:
    """A value that JSON cannot hold is written as text, in each schema."""
    recursive: list[object] = []
    recursive.append(recursive)

    entry = logged(schema, logging.INFO, found="\udc80", recursive=recursive, kinds={object})

    assert "\udc80" in json.dumps(entry, ensure_ascii=False)


def test_unknown_schema_is_refused() -> None:
    """The error names the schemas."""
    with pytest.raises(ConfigError) as caught:
        JsonFormatter(schema="splunk")  # type: ignore[arg-type]

    assert (
        str(caught.value) == "schema of a log must be one of 'millhand', 'ecs', 'otel', 'gcp', got 'splunk'"
    )
