"""
Fields of a log line that come from where it is logged: the database, the attempt of a job, and the span of a trace.

They belong to the task or thread that logs. A formatter that runs in another thread, behind a `QueueHandler`, has none.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextvars import Context, ContextVar

JOB_FIELDS = ("job_id", "kind", "queue", "attempt")
# The attempt in which a task or thread runs: the values of JOB_FIELDS. The executor sets it in the task of each attempt,
# without a function, because each attempt pays for it.
# Not the row: a task that the worker starts may outlive the attempt, and would keep its args.
current_attempt: ContextVar[tuple[int, str, str, int] | None] = ContextVar("millhand_attempt", default=None)

# The name of the database in whose client a task or thread runs; empty without a name.
current_database: ContextVar[str] = ContextVar("millhand_database", default="")


@contextlib.contextmanager
def database_named(name: str) -> Iterator[None]:
    """Name the database in the log lines of the block, and of the tasks that it starts."""
    token = current_database.set(name or current_database.get())
    try:
        yield
    finally:
        current_database.reset(token)


def database_context() -> Context:
    """Return an empty context but for the name of the database, for what outlives the attempt that starts it."""
    context = Context()
    context.run(current_database.set, current_database.get())
    return context


def database_fields() -> dict[str, object]:
    """Return the name of the database in whose client the caller runs, or none."""
    name = current_database.get()
    return {"database": name} if name else {}


def job_fields() -> dict[str, object]:
    """Return the fields of the attempt in which the caller runs, or none."""
    attempt = current_attempt.get()
    return {} if attempt is None else dict(zip(JOB_FIELDS, attempt, strict=True))


def trace_fields() -> dict[str, object]:
    """Return the ids of the span in which the caller runs, or none."""
    # A program that has not imported OpenTelemetry has no spans, and does not import it for its log.
    trace = sys.modules.get("opentelemetry.trace")
    current = getattr(trace, "get_current_span", None)
    if current is None:
        return {}
    context = current().get_span_context()
    if not context.is_valid:
        return {}
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "trace_flags": f"{context.trace_flags:02x}",
    }
