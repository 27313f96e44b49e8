"""The trace context in a job's metadata: what is read, and what is written."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from millhand.core.insert_opts import InsertParams
from millhand.core.job import JobState
from millhand.tracing.trace_context import read_context, with_context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"
WRITERS = ("millhand", "opentelemetry")  # asyncio logs what tasks of earlier tests have left
CONTEXT = SpanContext(
    int(TRACE, 16), int(SPAN, 16), is_remote=False, trace_flags=TraceFlags(3), trace_state=TraceState([("a", "1")])
)  # fmt: skip


def inserted(metadata: str) -> InsertParams:
    return InsertParams(
        kind="act", encoded_args="{}", max_attempts=25, encoded_metadata=metadata, priority=1, queue="default",
        state=JobState.AVAILABLE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "flags", "state"),
    [
        ({"traceparent": VALID}, 1, ""),
        ({"traceparent": f"00-{TRACE}-{SPAN}-00"}, 0, ""),
        ({"traceparent": f"00-{TRACE}-{SPAN}-03"}, 1, ""),  # a random trace id, as newer SDKs say
        ({"traceparent": f"cc-{TRACE}-{SPAN}-01-what_the_future_will_be_like"}, 1, ""),
        ({"traceparent": VALID, "tracestate": "rojo=00f0, congo=t61;r", "n": 1}, 1, "rojo=00f0,congo=t61;r"),
        ({"traceparent": VALID, "tracestate": "no member"}, 1, ""),
        ({"traceparent": VALID, "tracestate": "a=" + "x" * 600}, 1, ""),
        ({"traceparent": VALID, "tracestate": ",".join(f"k{n}=1" for n in range(33))}, 1, ""),
        ({"traceparent": VALID, "tracestate": {"a": "1"}}, 1, ""),
    ],
)
def test_context_of_the_insert_is_read(
    metadata: dict[str, Any], flags: int, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A valid `traceparent` is read, whatever the `tracestate`; a refused member is dropped and never logged."""
    with caplog.at_level(logging.DEBUG):
        context = read_context(metadata)

    assert context is not None
    assert (f"{context.trace_id:032x}", f"{context.span_id:016x}") == (TRACE, SPAN)
    assert (context.is_remote, context.trace_flags, context.trace_state.to_header()) == (True, flags, state)
    assert [one for one in caplog.records if one.name.startswith(WRITERS)] == []


@pytest.mark.parametrize(
    "value",
    [
        None, 7, {"version": "00"}, [VALID], "", "00", VALID[:-1], f"{VALID}-more", f" {VALID}", f"{VALID}\n",
        VALID.upper(), f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-2]}_1-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-{'x' * 600}", "0" * 40_000_000,
    ],
    ids=range(17),
)  # fmt: skip
def test_unreadable_context_is_none(value: object, caplog: pytest.LogCaptureFixture) -> None:
    """A `traceparent` that is broken, of another type or 40 MB long is no context, and no line of the log."""
    with caplog.at_level(logging.DEBUG):
        context = read_context({"traceparent": value})  # type: ignore[dict-item]

    assert context is None
    assert [one for one in caplog.records if one.name.startswith(WRITERS)] == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{}", {}),
        ('{"n": 123456789012345678901234567890, "x": 1e400}', None),
        (' {"tenant": "a"}', {"tenant": "a"}),
    ],
)
def test_context_is_added_to_metadata(before: str, after: dict[str, Any] | None) -> None:
    """The keys of otelriver are added, and every other value keeps its text; Go refuses flags other than `sampled`."""
    [row] = with_context([inserted(before)], CONTEXT)

    added = f'{{"traceparent":"{VALID}","tracestate":"a=1"'
    assert row.encoded_metadata.startswith(added)
    if after is None:
        assert row.encoded_metadata == f"{added},{before[1:]}"
    else:
        assert json.loads(row.encoded_metadata) == {"traceparent": VALID, "tracestate": "a=1", **after}


@pytest.mark.parametrize(
    "own", ['{"traceparent": "mine"}', '{"tracestate": "mine", "n": 1}', '{"traceparent": null}']
)
def test_context_of_a_user_is_kept(own: str) -> None:
    """Metadata with one of the two keys is not changed, whatever the value."""
    first, second = with_context([inserted(own), inserted("{}")], CONTEXT)

    assert first.encoded_metadata == own
    assert json.loads(second.encoded_metadata)["traceparent"] == VALID


def test_written_context_is_read_again() -> None:
    """What is written is read as the same ids and state."""
    [row] = with_context([inserted("{}")], CONTEXT)

    context = read_context(json.loads(row.encoded_metadata))

    assert context is not None
    assert (context.trace_id, context.span_id, context.trace_state) == (
        CONTEXT.trace_id,
        CONTEXT.span_id,
        CONTEXT.trace_state,
    )
