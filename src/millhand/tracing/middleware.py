"""
The middleware that makes spans.

    insert: one span, whose context goes into the metadata of each row
    work:   one span for each attempt, with a link to that of the insert, or as its child

Rule 1: an attempt's context is never detached. Each attempt is a task of its own, and what is logged of its end, such as
        `job completed`, names its trace.
Rule 2: a job that is not sampled costs little: see `sampling.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, get_args

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode

from millhand.core.errors import ConfigError
from millhand.core.hooks import Middleware
from millhand.core.insert_opts import InsertParams, InsertResult
from millhand.core.job import Json
from millhand.core.worker_job import Job
from millhand.engine.attempt_outcome import outcome_of
from millhand.engine.error_handler import error_text
from millhand.tracing import Propagation, Style
from millhand.tracing.sampling import Sampling
from millhand.tracing.span_style import STYLES, Attributes
from millhand.tracing.trace_context import read_context, with_context
from millhand.version import VERSION

STATUS_LENGTH_MAX = 200
_NOTHING = Context()


class OpenTelemetry(Middleware):
    """
    Traces inserts and attempts with OpenTelemetry, compatible with River's otelriver.

        Config(middleware=[OpenTelemetry()])

    Put it first, so that the spans contain what other middleware does.

    Args:
        propagation: How an attempt belongs to its insert. `link`: its trace is its own, with a link to the insert's span.
            `child`: its span is a child of the insert's, in the same trace. `none`: the metadata gets no context.
        style: `semconv` names spans as the conventions for messaging do, `otelriver` as River's middleware for Go.
        record_exceptions: Record the error of a failed attempt on its span, with its text and traceback. The log has them
            anyway.
        tracer_provider: The provider of the spans; by default the global one, as soon as the application sets it.

    Raises: ConfigError. Concurrency: one instance may serve any number of clients.
    """

    def __init__(
        self,
        *,
        propagation: Propagation = "link",
        style: Style = "semconv",
        record_exceptions: bool = False,
        tracer_provider: trace.TracerProvider | None = None,
    ) -> None:
        self._propagation = _checked("propagation", propagation, get_args(Propagation))
        self._provider = tracer_provider
        self._records_exceptions = record_exceptions
        self._sampling: Sampling | None = None
        self._style = STYLES[_checked("style", style, get_args(Style))]

    async def insert(
        self,
        params: Sequence[InsertParams],
        call_next: Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]],
    ) -> Sequence[InsertResult]:
        """Insert in a span, and put its context into each row that has none."""
        sampling = self._sampling or self._find_sampling()
        if sampling is None:
            return await call_next(params)
        parent = trace.get_current_span().get_span_context()
        is_child = self._propagation == "child"
        if not is_child and sampling.drops(parent if parent.is_valid else None):
            return await call_next(params)
        name, attributes = self._style.insert(params)
        span = sampling.tracer.start_span(name, kind=SpanKind.PRODUCER, attributes=attributes)
        context = span.get_span_context()
        # A link to a span that was not recorded leads nowhere. A child must know that its trace is not sampled.
        if is_child or (self._propagation == "link" and context.trace_flags.sampled):
            params = with_context(params, context) if context.is_valid else params
        return await self._insert_in(span, params, call_next)

    async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
        """Run the attempt in a span."""
        sampling = self._sampling or self._find_sampling()
        if sampling is None:
            await call_next()
            return
        parent = self._inserted(job) if self._propagation == "child" else None
        if sampling.drops(parent):
            otel_context.attach(sampling.unsampled_context(parent))
            await call_next()
        else:
            await self._work_in(self._start_work(sampling, job, parent), job, call_next)

    async def _insert_in(
        self,
        span: Span,
        params: Sequence[InsertParams],
        call_next: Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]],
    ) -> Sequence[InsertResult]:
        results: Sequence[InsertResult] = ()
        failure: BaseException | None = None
        token = otel_context.attach(trace.set_span_in_context(span))
        try:
            results = await call_next(params)
        except BaseException as error:
            failure = error
            raise
        finally:
            otel_context.detach(token)
            self._end(span, self._style.insert_end(results, failure), failure)
        return results

    def _start_work(self, sampling: Sampling, job: Job[Any], parent: SpanContext | None) -> Span:
        inserted = parent or self._inserted(job)
        # The task may have begun in a context of the application's: an attempt is no part of it.
        context = (
            _NOTHING if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), _NOTHING)
        )
        name, attributes = self._style.work(job)
        links = None if inserted is None else [Link(inserted)]
        span = sampling.tracer.start_span(name, context, SpanKind.CONSUMER, attributes, links)
        otel_context.attach(trace.set_span_in_context(span, context))
        return span

    def _inserted(self, job: Job[Any]) -> SpanContext | None:
        """Return the context of the span that inserted the job, if it may be used."""
        metadata = job.row.metadata
        return read_context(metadata) if metadata and self._propagation != "none" else None

    async def _work_in(self, span: Span, job: Job[Any], call_next: Callable[[], Awaitable[None]]) -> None:
        raised: BaseException | None = None
        try:
            await call_next()
        except BaseException as error:
            raised = error
            raise
        finally:
            outcome = outcome_of(raised, job)
            failure = raised if outcome == "failed" else None
            self._end(span, self._style.work_end(outcome, raised), failure)

    def _end(self, span: Span, attributes: Attributes, failure: BaseException | None) -> None:
        if span.is_recording():
            span.set_attributes(attributes)
            if failure is not None:
                # The text may have data of users, so it is written by choice only.
                text = error_text(failure, STATUS_LENGTH_MAX) if self._records_exceptions else None
                span.set_status(StatusCode.ERROR, text)
                if self._records_exceptions:
                    span.record_exception(failure)
        span.end()

    def _find_sampling(self) -> Sampling | None:
        """Return the decisions of the provider's sampler; None until the application sets its provider."""
        provider = trace.get_tracer_provider() if self._provider is None else self._provider
        if isinstance(provider, trace.ProxyTracerProvider):
            return None
        self._sampling = Sampling(provider.get_tracer("millhand", VERSION, schema_url=self._style.schema_url))
        return self._sampling


def _checked(name: str, value: Any, choices: Sequence[str]) -> Any:  # noqa: ANN401 - one of a Literal
    if value not in choices:
        raise ConfigError(
            f"{name} of OpenTelemetry must be one of {', '.join(map(repr, choices))}, got {value!r}"
        )
    return value
