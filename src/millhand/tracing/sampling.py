"""
Foresee what the SDK's sampler decides, because to ask it costs more than most of what Millhand does for a job.

The samplers of the SDK are known: on, off, a ratio, and each of them behind `ParentBased`. Others are asked.

Rule: the same traces are sampled as without this module. For a ratio, the id of a new trace is drawn here, and the SDK
      gets that id if it is sampled.
"""

from __future__ import annotations

import copy
import hashlib
import secrets
import threading
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, Tracer

from millhand.core.log.context_fields import current_attempt

SAMPLES_ALL = 1 << 64  # the bound of a ratio of 1


class Sampling:
    """
    The decisions of a tracer's sampler. `tracer` is the one to start spans with.

    Concurrency: any number of threads. Start the span right after `drops`, before anything is awaited.
    """

    __slots__ = ("_bound", "_drops_after_parent", "_drops_all", "_ids", "_unsampled_root", "tracer")

    def __init__(self, tracer: Tracer) -> None:
        sampler = getattr(tracer, "sampler", None)
        root = _root(sampler)
        is_parent_based = root is not None and root is not sampler
        self._bound = SAMPLES_ALL if root is None else _bound(root)
        self._drops_after_parent = is_parent_based and _drops_unsampled(sampler)
        self._drops_all = self._bound == 0 and _is_off(sampler)
        self._ids = _DrawnIds(getattr(tracer, "id_generator", None))
        self._unsampled_root = trace.set_span_in_context(_UnsampledRoot(), Context())
        self.tracer = tracer
        if 0 < self._bound < SAMPLES_ALL:
            self.tracer = copy.copy(tracer)
            self.tracer.id_generator = self._ids  # type: ignore[attr-defined]  # of the SDK's tracer

    def drops(self, parent: SpanContext | None) -> bool:
        """Return whether a span with this parent would surely not be sampled."""
        if parent is not None:
            return self._drops_all or (self._drops_after_parent and not parent.trace_flags.sampled)
        bound = self._bound
        if bound in (0, SAMPLES_ALL):
            return bound == 0
        return not self._ids.draw_below(bound)

    def unsampled_context(self, parent: SpanContext | None) -> Context:
        """Return the context of an attempt that `drops` has dropped: no span below it is sampled."""
        if parent is None:
            return self._unsampled_root
        own = SpanContext(
            parent.trace_id, self._ids.generate_span_id(), is_remote=False, trace_state=parent.trace_state
        )
        return trace.set_span_in_context(NonRecordingSpan(own), Context())


class _DrawnIds:
    """The SDK's ids, the next trace id of which may be drawn in advance."""

    def __init__(self, ids: Any) -> None:  # noqa: ANN401 - an `IdGenerator` of the SDK
        self._drawn = threading.local()
        self._ids = ids

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - of the SDK
        return getattr(self._ids, name)

    def draw_below(self, bound: int) -> bool:
        """Draw the id of a trace. If it is below the bound, the next trace of this thread has it."""
        drawn: int = self._ids.generate_trace_id()
        if drawn & (SAMPLES_ALL - 1) >= bound:
            return False
        self._drawn.id = drawn
        return True

    def generate_trace_id(self) -> int:
        drawn: int | None = getattr(self._drawn, "id", None)
        self._drawn.id = None
        return self._ids.generate_trace_id() if drawn is None else drawn


class _UnsampledRoot(NonRecordingSpan):
    """
    The span of every attempt that is not sampled and has no parent.

    One for all, because one for each would be most of what such an attempt costs. Its ids are made if they are read, by a
    log line or by a request to another program, and belong to the attempt that reads them.
    """

    def __init__(self) -> None:
        self._seed = secrets.token_bytes(16)

    def get_span_context(self) -> SpanContext:
        ids = hashlib.blake2b(repr(current_attempt.get()).encode(), key=self._seed, digest_size=24).digest()
        return SpanContext(int.from_bytes(ids[:16]), int.from_bytes(ids[16:]), is_remote=False)


def _root(sampler: object) -> Any:  # noqa: ANN401 - a sampler of the SDK
    """Return the sampler of traces without a parent; None if only the SDK knows."""
    try:
        from opentelemetry.sdk.trace import sampling  # noqa: PLC0415 - the SDK is the application's
    except ImportError:
        return None
    if _is_as(sampler, sampling.ParentBased):
        sampler = getattr(sampler, "_root", None)
    known = _is_as(sampler, sampling.StaticSampler) or _is_as(sampler, sampling.TraceIdRatioBased)
    return sampler if known else None


def _is_as(sampler: object, kind: Any) -> bool:  # noqa: ANN401 - a class of the SDK
    """Return whether a sampler decides as `kind` does: a subclass may decide anything."""
    return isinstance(sampler, kind) and type(sampler).should_sample is kind.should_sample


def _bound(root: Any) -> int:  # noqa: ANN401 - as above
    if _is_off(root):
        return 0
    return int(getattr(root, "bound", SAMPLES_ALL))


def _drops_unsampled(sampler: object) -> bool:
    """Return whether a `ParentBased` follows a parent that is not sampled, as it does unless it was given samplers."""
    names = ("_remote_parent_not_sampled", "_local_parent_not_sampled")
    return all(_is_off(getattr(sampler, name, None)) for name in names)


def _is_off(sampler: Any) -> bool:  # noqa: ANN401 - as above
    return sampler is not None and sampler.get_description() == "AlwaysOffSampler"
