"""What `Sampling` foresees is what the SDK's sampler decides."""

from __future__ import annotations

import contextvars
import random
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from millhand.core.log.context_fields import current_attempt
from millhand.tracing.sampling import Sampling

NUM_TRACES = 40


class SeededIds(IdGenerator):
    """Ids of a seed, so that two providers make the same ones."""

    def __init__(self) -> None:
        self._random = random.Random(7)  # noqa: S311 - not secret
        self._span_id = 0

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128)

    def generate_span_id(self) -> int:
        self._span_id += 1
        return self._span_id


class Inverted(TraceIdRatioBased):
    """A sampler of a user's that decides in its own way."""

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return ALWAYS_ON.should_sample(*args, **kwargs)


def remote(flags: int) -> SpanContext:
    return SpanContext(5, 6, is_remote=True, trace_flags=TraceFlags(flags))


SAMPLERS = {
    "always_on": ALWAYS_ON,
    "always_off": ALWAYS_OFF,
    "parentbased_always_on": DEFAULT_ON,
    "parentbased_always_off": DEFAULT_OFF,
    "traceidratio": TraceIdRatioBased(0.3),
    "traceidratio of 0": TraceIdRatioBased(0.0),
    "traceidratio of 1": TraceIdRatioBased(1.0),
    "parentbased_traceidratio": ParentBasedTraceIdRatio(0.3),
    "parentbased that samples against its parent": ParentBased(
        ALWAYS_OFF, remote_parent_not_sampled=ALWAYS_ON, remote_parent_sampled=ALWAYS_OFF
    ),
    "a sampler of a user's": Inverted(0.0),
    "a user's root": ParentBased(Inverted(0.0)),
}


def decisions(tracer: trace.Tracer, parent: SpanContext | None, sampling: Sampling | None) -> list[int]:
    """Return the trace ids that are sampled, with the decisions of `sampling` before the SDK is asked."""
    context = Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())
    sampled = []
    for _ in range(NUM_TRACES):
        if sampling is not None and sampling.drops(parent):
            continue
        span = tracer.start_span("x", context).get_span_context()
        if span.trace_flags.sampled:
            sampled.append(span.trace_id)
    return sampled


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("parent", [None, remote(0), remote(1)], ids=["root", "unsampled", "sampled"])
def test_same_traces_are_sampled(name: str, parent: SpanContext | None) -> None:
    """With each sampler and parent, the sampled trace ids are those of the SDK alone, one by one."""
    asked, foreseen = (TracerProvider(SAMPLERS[name], id_generator=SeededIds()) for _ in range(2))
    sampling = Sampling(foreseen.get_tracer("millhand"))

    assert decisions(sampling.tracer, parent, sampling) == decisions(
        asked.get_tracer("millhand"), parent, None
    )


@pytest.mark.parametrize(
    ("sampler", "parent", "drops"),
    [
        (ALWAYS_OFF, None, True),
        (ALWAYS_OFF, remote(1), True),
        (DEFAULT_OFF, None, True),
        (DEFAULT_ON, remote(0), True),
        (TraceIdRatioBased(0.0), None, True),
        (TraceIdRatioBased(1e-12), None, True),
        (DEFAULT_ON, None, False),
        (Inverted(0.0), None, False),
    ],
)  # fmt: skip
def test_known_samplers_are_not_asked(sampler: Sampler, parent: SpanContext | None, drops: bool) -> None:
    """A known sampler's no is foreseen; a sampler of a user's is asked each time."""
    assert Sampling(TracerProvider(sampler).get_tracer("millhand")).drops(parent) is drops


def test_unsampled_attempt_has_ids_of_its_own() -> None:
    """A dropped attempt has a valid trace id, the same at each look, unlike another's; or the trace id of its parent."""
    sampling = Sampling(TracerProvider(DEFAULT_OFF).get_tracer("millhand"))

    def look(job_id: int, parent: SpanContext | None = None) -> SpanContext:
        current_attempt.set((job_id, "act", "default", 1))
        return trace.get_current_span(sampling.unsampled_context(parent)).get_span_context()

    first, again, other, child = (
        contextvars.copy_context().run(look, *arguments) for arguments in ((1,), (1,), (2,), (3, remote(0)))
    )

    assert (first, first.is_valid, first.trace_flags, first.is_remote) == (again, True, 0, False)
    assert first.trace_id != other.trace_id
    assert (child.trace_id, child.span_id != 6, child.is_remote) == (5, True, False)


def test_api_without_the_sdk_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the SDK nothing is foreseen, and the API's spans are not recorded."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    sampling = Sampling(trace.NoOpTracerProvider().get_tracer("millhand"))

    assert not sampling.drops(None)
    assert not sampling.tracer.start_span("x").is_recording()
