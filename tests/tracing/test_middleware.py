"""The spans of inserts and attempts, by the SDK's in-memory exporter."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import msgspec
import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_OFF, DEFAULT_ON, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from millhand.contrib.opentelemetry import OpenTelemetry
from millhand.core.config import Config
from millhand.core.errors import ConfigError, JobCancel, JobSnooze
from millhand.core.hooks import AttemptFailure
from millhand.core.insert_opts import InsertParams, InsertResult
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.attempt import Attempt, CancelReason
from millhand.engine.error_handler import ErrorHandlers
from millhand.engine.job_executor import JobExecutor
from millhand.observe import JsonFormatter

NOW = datetime(2026, 1, 1, 12, 30, 15, 250_000, UTC)
INSERTED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = f"{INSERTED[:-1]}0"

log = logging.getLogger("shop.orders")


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"


class Client:
    """A client of which only the id is read."""

    id = "client_a"


class Traces:
    """A provider whose ended spans can be read, and the middleware on it."""

    def __init__(self, sampler: Sampler = DEFAULT_ON, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.middleware = OpenTelemetry(tracer_provider=self.provider, **options)

    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def only(self) -> ReadableSpan:
        [span] = self.spans()
        return span

    async def insert(
        self, *params: InsertParams, skipped: int = 0, error: Exception | None = None
    ) -> list[str]:
        """Insert by the middleware, and return the metadata of the rows."""
        got: list[str] = []

        async def call_next(params: Sequence[InsertParams]) -> Sequence[InsertResult]:
            if error is not None:
                raise error
            got.extend(one.encoded_metadata for one in params)
            return [InsertResult(row(id=n + 1), n < skipped) for n in range(len(params))]

        await self.middleware.insert(params, call_next)
        return got

    async def work(
        self,
        do: Callable[[], object] = lambda: None,
        *,
        reason: CancelReason | None = None,
        is_async: bool = True,
        **columns: Any,
    ) -> None:
        """Execute an attempt as a client does; `do` is what the worker does, and `reason` cancels it meanwhile."""
        workers, changes = Workers(), list[object]()

        async def coroutine(job: Job[Act]) -> None:
            if reason is not None:
                attempt.cancel(reason)
                await asyncio.sleep(0)
            do()

        def function(job: Job[Act]) -> None:
            do()

        workers.add(kind="act")(coroutine if is_async else function)  # type: ignore[arg-type]
        handlers = ErrorHandlers()

        async def handle(failure: AttemptFailure) -> bool:
            return await handlers.handle(failure)

        executor = JobExecutor(
            Config(workers=workers, middleware=[self.middleware], log_completed_jobs=True),
            client=Client(),
            hand_over=lambda change, _: changes.append(change),
            handle_failure=handle,
            on_stuck=lambda _: None,
        )
        attempt = Attempt(row(**columns))
        attempt.task = asyncio.create_task(executor.execute(attempt))
        await attempt.task
        executor.close()
        assert len(changes) == 1


def row(**columns: Any) -> JobRow:
    made = JobRow(
        JobId(7), JobState.RUNNING, 2, 25, NOW, NOW, None, NOW, 1, "{}", ("me",), (), "act", {}, "default", ("eu",),
        None, None,
    )  # fmt: skip
    return msgspec.structs.replace(made, **columns)


def inserted(kind: str = "act", queue: str = "default", metadata: str = "{}") -> InsertParams:
    return InsertParams(
        kind=kind, encoded_args="{}", max_attempts=25, encoded_metadata=metadata, priority=1, queue=queue,
        state=JobState.AVAILABLE,
    )  # fmt: skip


def traceparent(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def links(span: ReadableSpan) -> list[str]:
    return [f"00-{at.context.trace_id:032x}-{at.context.span_id:016x}-01" for at in span.links]


def fails(error: BaseException) -> Callable[[], object]:
    def do() -> None:
        raise error

    return do


SEND = {"messaging.operation.name": "send", "messaging.operation.type": "send", "messaging.system": "river"}


async def test_insert_of_one_job_is_a_send_span() -> None:
    """Its context is in the row; queue, kind and id are attributes; it is a child of the span that inserts."""
    traces = Traces()

    with traces.provider.get_tracer("shop").start_as_current_span("request") as request:
        [metadata] = await traces.insert(inserted())

    span = traces.spans()[0]
    assert (span.name, span.kind, span.status.status_code) == (
        "send default",
        SpanKind.PRODUCER,
        StatusCode.UNSET,
    )
    assert span.attributes == SEND | {
        "messaging.destination.name": "default",
        "messaging.message.id": "1",
        "messaging.river.job.kind": "act",
    }
    assert json.loads(metadata) == {"traceparent": traceparent(span)}
    assert span.parent == request.get_span_context()
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"


async def test_mixed_insert_of_many_rows_is_one_send_span() -> None:
    """A thousand rows of two kinds and queues are one span with their number, and share its context."""
    traces = Traces()

    rows = [inserted("act" if n % 2 else "pay", "default" if n % 3 else "mail") for n in range(999)]
    metadata = await traces.insert(*rows, inserted(metadata='{"traceparent": "own"}'), skipped=3)

    span = traces.only()
    assert span.name == "send"
    assert span.attributes == SEND | {
        "messaging.batch.message_count": 1_000,
        "messaging.river.job.num_skipped": 3,
    }
    assert set(metadata) == {f'{{"traceparent":"{traceparent(span)}"}}', '{"traceparent": "own"}'}


async def test_failed_insert_is_an_error_without_its_text() -> None:
    """The class is an attribute. The text may have values of the row, so it is on no span by default."""
    traces = Traces()

    with pytest.raises(ZeroDivisionError):
        await traces.insert(inserted(), error=ZeroDivisionError("card 4711"))

    span = traces.only()
    assert (span.status.status_code, span.status.description, span.events) == (StatusCode.ERROR, None, ())
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ZeroDivisionError"


@pytest.mark.parametrize(
    ("sampler", "propagation", "written"),
    [
        (ALWAYS_OFF, "link", False),
        (ALWAYS_OFF, "child", True),
        (ALWAYS_OFF, "none", False),
        (DEFAULT_ON, "none", False),
        (DEFAULT_ON, "child", True),
    ],
)
async def test_context_is_written_only_where_it_is_of_use(
    sampler: Sampler, propagation: str, written: bool
) -> None:
    """An insert that is not sampled writes a context only for children, whose trace is not sampled either."""
    traces = Traces(sampler, propagation=propagation)

    [metadata] = await traces.insert(inserted())

    context = json.loads(metadata).get("traceparent", "")
    assert bool(context) is written
    assert context.endswith("-00" if sampler is ALWAYS_OFF else "-01") is written


@pytest.mark.parametrize(
    ("do", "reason", "outcome", "error_type"),
    [
        (lambda: None, None, "completed", None),
        (fails(ValueError("card 4711")), None, "failed", "ValueError"),
        (fails(json.JSONDecodeError("no", "", 0)), None, "failed", "json.decoder.JSONDecodeError"),
        (fails(SystemExit(1)), None, "failed", "SystemExit"),
        (fails(JobSnooze(timedelta(minutes=1))), None, "snoozed", None),
        (fails(JobCancel("no")), None, "cancelled", None),
        (lambda: None, CancelReason.REMOTE, "cancelled", None),
        (lambda: None, CancelReason.STOPPING, "interrupted", None),
        (lambda: None, CancelReason.LOST, "interrupted", None),
    ],
)
async def test_attempt_is_a_process_span(
    do: Callable[[], object], reason: CancelReason | None, outcome: str, error_type: str | None
) -> None:
    """Each attempt has its attributes and outcome; only a failure has status ERROR and a type, and no text."""
    traces = Traces()

    await traces.work(do, reason=reason)

    span = traces.only()
    failed = {} if error_type is None else {"error.type": error_type}
    assert (span.name, span.kind, span.parent, span.links) == ("process default", SpanKind.CONSUMER, None, ())
    assert span.attributes == failed | {
        "messaging.client.id": "client_a",
        "messaging.destination.name": "default",
        "messaging.message.id": "7",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.river.job.attempt": 2,
        "messaging.river.job.kind": "act",
        "messaging.river.job.max_attempts": 25,
        "messaging.river.job.outcome": outcome,
        "messaging.river.job.priority": 1,
        "messaging.system": "river",
    }
    assert span.status.is_ok is (error_type is None)
    assert (span.status.description, span.events) == (None, ())


async def test_exceptions_are_recorded_by_choice() -> None:
    """With `record_exceptions`, the span of a failure has the text, and an event with the traceback."""
    traces = Traces(record_exceptions=True)

    await traces.work(fails(ValueError("declined")))

    span = traces.only()
    [event] = span.events
    assert span.status.description == "declined"
    assert event.attributes is not None
    assert event.attributes["exception.message"] == "declined"


async def test_attempt_belongs_to_its_insert_as_chosen() -> None:
    """By default an attempt has a trace of its own and a link; with `child` it is in the insert's trace, and linked."""
    metadata = {"traceparent": INSERTED, "tracestate": "a=1"}
    link, child, none = Traces(), Traces(propagation="child"), Traces(propagation="none")
    for traces in (link, child, none):
        await traces.work(metadata=metadata)

    linked, parented, alone = link.only(), child.only(), none.only()
    assert (linked.parent, links(linked)) == (None, [INSERTED])
    assert linked.links[0].context.trace_state.to_header() == "a=1"
    assert parented.parent is not None
    assert (f"{parented.parent.span_id:016x}", links(parented)) == (INSERTED.split("-")[2], [INSERTED])
    assert traceparent(parented)[:36] == INSERTED[:36]
    assert (alone.parent, links(alone)) == (None, [])


async def test_broken_context_costs_only_itself() -> None:
    """An attempt whose traceparent cannot be read is traced like one without."""
    traces = Traces(propagation="child")

    await traces.work(metadata={"traceparent": f"{INSERTED}-and_more", "n": 1})

    span = traces.only()
    assert (span.parent, links(span)) == (None, [])


async def test_attempt_is_no_part_of_the_span_in_which_its_client_started() -> None:
    """Tasks of a client may have begun in a span of the application; its attempts have traces of their own."""
    traces = Traces()

    with traces.provider.get_tracer("shop").start_as_current_span("startup"):
        await traces.work()

    assert traces.spans()[0].parent is None


@pytest.mark.parametrize("is_async", [True, False], ids=["coroutine", "plain function"])
async def test_spans_of_the_worker_are_below_the_attempt(is_async: bool) -> None:
    """The worker's own spans are children of the attempt's, in its thread too; the caller's context stays its own."""
    traces = Traces()

    def do() -> None:
        with traces.provider.get_tracer("shop").start_as_current_span("charge card"):
            pass

    await traces.work(do, is_async=is_async)

    inner, attempt = traces.spans()
    assert inner.parent == attempt.get_span_context()
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.parametrize(
    ("sampler", "propagation", "metadata"),
    [
        (DEFAULT_OFF, "link", {}),
        (DEFAULT_OFF, "link", {"traceparent": INSERTED}),
        (DEFAULT_ON, "child", {"traceparent": UNSAMPLED}),
    ],
)
async def test_what_an_unsampled_attempt_does_is_not_sampled(
    sampler: Sampler, propagation: str, metadata: dict[str, Any]
) -> None:
    """Spans of the worker follow the attempt, and requests of it carry the flag to other programs."""
    traces = Traces(sampler, propagation=propagation)
    flags: list[int] = []

    def do() -> None:
        with traces.provider.get_tracer("shop").start_as_current_span("charge card"):
            flags.append(trace.get_current_span().get_span_context().trace_flags & 1)

    await traces.work(do, metadata=metadata)

    assert (flags, traces.spans()) == ([0], ())


@pytest.mark.parametrize("do", [lambda: None, fails(ValueError("no")), fails(JobCancel("no"))])
async def test_each_line_of_an_attempt_names_its_trace(
    do: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    """`trace_id`, `span_id` and `trace_flags` are in the worker's lines and in that of the end; the job only in its own."""
    traces = Traces()
    lines = Lines()
    logging.getLogger().addHandler(lines)

    def logs() -> None:
        log.warning("paid", extra={"kind": "visa"})
        do()

    try:
        with caplog.at_level(logging.INFO):
            await traces.work(logs)
    finally:
        logging.getLogger().removeHandler(lines)

    context = traces.only().get_span_context()
    assert context is not None
    ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
    own, end = lines.lines
    assert [line["trace_flags"] for line in lines.lines] == [f"{context.trace_flags:02x}"] * 2
    assert [line.items() >= ids.items() for line in lines.lines] == [True, True]
    assert (own["message"], own["job_id"], own["kind"], own["queue"], own["attempt"]) == (
        "paid", 7, "visa", "default", 2,
    )  # fmt: skip
    assert end["message"] in ("job completed", "job errored", "job cancelled")


class Lines(logging.Handler):
    """Keeps lines as `JsonFormatter` writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(("shop", "millhand")):
            self.lines.append(json.loads(self.format(record)))


async def test_otelriver_style_has_the_names_of_river() -> None:
    """Names and attributes are those of River's middleware for Go."""
    traces = Traces(style="otelriver")

    await traces.insert(inserted("pay"), inserted("act"), inserted("act"), skipped=1)
    await traces.work(metadata={"traceparent": INSERTED})
    await traces.work(fails(ValueError("no")))

    insert, work, failed = traces.spans()
    assert (insert.name, insert.attributes) == (
        "river.insert_many",
        {"kinds": ("act", "pay"), "status": "ok", "unique_skipped_as_duplicate_count": 1},
    )
    attributes = {
        "attempt": 2, "created_at": "2026-01-01T12:30:15Z", "id": 7, "kind": "act", "priority": 1, "queue": "default",
        "scheduled_at": "2026-01-01T12:30:15Z", "tag": ("eu",),
    }  # fmt: skip
    assert (work.name, work.attributes, links(work)) == (
        "river.work",
        attributes | {"status": "ok"},
        [INSERTED],
    )
    assert (failed.attributes, failed.status.is_ok) == (attributes | {"status": "error"}, False)


async def test_nothing_is_traced_until_the_application_sets_a_provider() -> None:
    """Without a provider, inserts and attempts run as without the middleware."""
    traces = Traces()
    traces.middleware = OpenTelemetry()

    [metadata] = await traces.insert(inserted())
    await traces.work()

    assert (metadata, traces.spans()) == ("{}", ())
    assert otel_context.get_current() == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"propagation": "links"},
            "propagation of OpenTelemetry must be one of 'link', 'child', 'none', got 'links'",
        ),
        ({"style": "go"}, "style of OpenTelemetry must be one of 'semconv', 'otelriver', got 'go'"),
    ],
)
def test_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    """An error names the option, its values and what was given."""
    with pytest.raises(ConfigError) as caught:
        OpenTelemetry(**options)

    assert str(caught.value) == message
