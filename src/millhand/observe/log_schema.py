"""
The keys of a JSON line in the schemas of log systems. A schema is a function from the parts of a line to its entry.

    millhand  our own: the phrase is `message`, and fields stand beside it
    ecs       Elastic Common Schema: our fields are labels
    otel      the data model of OpenTelemetry's logs: our fields are attributes
    gcp       Google Cloud Logging: our fields stand beside its own keys

Source: ecs-logging, specification 1; OpenTelemetry, Logs Data Model; Google Cloud, structured logging.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import msgspec

from millhand.core.log.field_text import shown

LogSchema = Literal["millhand", "ecs", "otel", "gcp"]
Entry: TypeAlias = dict[str, object]

ECS_VERSION = "8.11.0"

_GCP = "logging.googleapis.com/"
_GCP_LEVELS = (
    (logging.CRITICAL, "CRITICAL"),
    (logging.ERROR, "ERROR"),
    (logging.WARNING, "WARNING"),
    (logging.INFO, "INFO"),
    (logging.DEBUG, "DEBUG"),
)
_OTEL_LEVELS = (
    (logging.CRITICAL, 21),
    (logging.ERROR, 17),
    (logging.WARNING, 13),
    (logging.INFO, 9),
    (logging.DEBUG, 5),
)
_TRACE = ("trace_id", "span_id", "trace_flags")
_MILLHAND_KEYS = frozenset({"timestamp", "level", "message", "logger", "exception"})
_GCP_KEYS = frozenset({"time", "severity", "message", "logger", "stack_trace"})


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """
    The parts of a line.

    Attributes:
        error_type: The class of the exception that was logged with a traceback; empty without one.
        exception: The traceback; empty without one.
        seconds: The instant, since 1970.
    """

    error_type: str
    exception: str
    fields: Mapping[str, object]
    level: int
    level_name: str
    logger: str
    phrase: str
    seconds: float

    @property
    def at(self) -> str:
        return instant_text(self.seconds)


def instant_text(seconds: float) -> str:
    """Return an instant, given in seconds since 1970."""
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat(timespec='microseconds')[:-6]}Z"


def _millhand(line: Line) -> Entry:
    entry: Entry = {
        "timestamp": line.at,
        "level": line.level_name.lower(),
        "message": line.phrase,
        "logger": line.logger,
        **_renamed(line.fields, _MILLHAND_KEYS),
    }
    return entry | ({"exception": line.exception} if line.exception else {})


def _ecs(line: Line) -> Entry:
    fields = dict(line.fields)
    entry: Entry = {
        "@timestamp": line.at,
        "log.level": line.level_name.lower(),
        "message": line.phrase,
        "ecs.version": ECS_VERSION,
        "log.logger": line.logger,
        "error.type": fields.pop("error_type", line.error_type),
        "error.message": fields.pop("error", None),
        "error.stack_trace": line.exception,
        "trace.id": fields.pop("trace_id", None),
        "span.id": fields.pop("span_id", None),
    }
    labels = {f"labels.{name.replace('.', '_')}": _label(value) for name, value in fields.items()}
    return _given(entry) | labels


def _otel(line: Line) -> Entry:
    fields = dict(line.fields)
    trace = {name: fields.pop(name) for name in _TRACE if name in fields}
    attributes: Entry = {
        "exception.type": fields.pop("error_type", line.error_type),
        "exception.message": fields.pop("error", None),
        "exception.stacktrace": line.exception,
    }
    return {
        "timestamp": line.at,
        "severity_text": line.level_name,
        "severity_number": next((number for level, number in _OTEL_LEVELS if line.level >= level), 1),
        "body": line.phrase,
        "scope": {"name": line.logger},
        "attributes": _given(attributes) | fields,
        **trace,
    }


def _gcp(line: Line) -> Entry:
    fields = dict(line.fields)
    trace_id, span_id, flags = (fields.pop(name, None) for name in _TRACE)
    project = os.environ.get("GOOGLE_CLOUD_PROJECT")
    entry: Entry = {
        "time": line.at,
        "severity": next((name for level, name in _GCP_LEVELS if line.level >= level), "DEFAULT"),
        "message": line.phrase,
        "logger": line.logger,
        "stack_trace": line.exception,
        f"{_GCP}trace": f"projects/{project}/traces/{trace_id}" if project and trace_id else trace_id,
        f"{_GCP}spanId": span_id,
    }
    sampled = {} if flags is None else {f"{_GCP}trace_sampled": flags == "01"}
    return _given(entry) | sampled | _renamed(fields, _GCP_KEYS)


SCHEMAS: Mapping[LogSchema, Callable[[Line], Entry]] = {
    "millhand": _millhand,
    "ecs": _ecs,
    "otel": _otel,
    "gcp": _gcp,
}


def _given(entry: Entry) -> Entry:
    return {key: value for key, value in entry.items() if value not in (None, "")}


def _label(value: object) -> object:
    """Return a value as a label, which has no structure."""
    if isinstance(value, list | tuple | set | frozenset):
        return [_label(part) for part in value]
    return value if isinstance(value, str | int | float) else shown(value)


def _renamed(fields: Mapping[str, object], keys: frozenset[str]) -> Entry:
    """Return the fields. One with a key of the schema gets a `_`."""
    return {f"{name}_" if name in keys else name: value for name, value in fields.items()}
