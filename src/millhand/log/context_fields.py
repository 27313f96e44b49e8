"""
Fields of a log line that come from where it is logged: the attempt of a job, and the span of a trace.

They belong to the task or thread that logs. A formatter that runs in another thread, behind a `QueueHandler`, has none.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar

JOB_FIELDS = ("job_id", "kind", "queue", "attempt")
# The attempt in which a task or thread runs: the values of JOB_FIELDS. The executor sets it in the task of each attempt,
# without a function, because each attempt pays for it.
# Not the row: a task that the worker starts may outlive the attempt, and would keep its args.
current_attempt: ContextVar[tuple[int, str, str, int] | None] = ContextVar("millhand_attempt", default=None)


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
