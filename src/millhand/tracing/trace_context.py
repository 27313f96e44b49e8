"""
The trace context in a job's metadata: the keys `traceparent` and `tracestate`, as the W3C and otelriver write them.

Rule 1: metadata that has one of the keys is not changed. An application may have put its own context there.
Rule 2: what cannot be read is no context: another program may have written anything. It is never logged.

Source: rivercontrib v0.12.0, otelriver `injectTraceContext, extractSpanContext`; W3C Trace Context, level 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from millhand.core.insert_opts import InsertParams
from millhand.core.json_value import Json

PARENT, STATE = "traceparent", "tracestate"
LENGTH_MAX = 512  # of each text, as OpenTelemetry reads them
MEMBERS_MAX = 32

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
# Stricter than OpenTelemetry, which logs a member that it refuses.
_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_NO_METADATA = "{}"


def read_context(metadata: Mapping[str, Json]) -> SpanContext | None:
    """Return the context of the span that inserted a job; None if there is none, or it cannot be read."""
    text = metadata.get(PARENT)
    if not isinstance(text, str) or len(text) > LENGTH_MAX or not (match := _PARENT.fullmatch(text)):
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest):
        return None
    context = SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16) & TraceFlags.SAMPLED),
        trace_state=_state(metadata.get(STATE)),
    )
    return context if context.is_valid else None


def with_context(params: Sequence[InsertParams], context: SpanContext) -> list[InsertParams]:
    """Return rows with `context` in their metadata, except those that have a context already."""
    # Most rows of an insert have equal metadata, so each text is changed once.
    texts = {text: _with_context(text, context) for text in {one.encoded_metadata for one in params}}
    return [msgspec.structs.replace(one, encoded_metadata=texts[one.encoded_metadata]) for one in params]


def _with_context(encoded_metadata: str, context: SpanContext) -> str:
    # Raw values: a number keeps its digits.
    metadata = msgspec.json.decode(encoded_metadata, type=dict[str, msgspec.Raw])
    if PARENT in metadata or STATE in metadata:
        return encoded_metadata
    # Only the flag `sampled`: Go refuses a version 00 with others, such as that of a random id.
    flags = context.trace_flags & TraceFlags.SAMPLED
    added = {PARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"}
    if context.trace_state:
        added[STATE] = context.trace_state.to_header()
    text = msgspec.json.encode(added).decode()
    return text if encoded_metadata == _NO_METADATA else f"{text[:-1]},{encoded_metadata.lstrip()[1:]}"


def _state(text: Json) -> TraceState | None:
    if not isinstance(text, str) or len(text) > LENGTH_MAX:
        return None
    members = [member.strip(" \t") for member in text.split(",")]
    pairs = [member.partition("=") for member in members if member]
    if len(pairs) > MEMBERS_MAX or not all(_MEMBER.fullmatch("".join(pair)) for pair in pairs):
        return None
    return TraceState([(key, value) for key, _, value in pairs])
