"""Makes the life of each job from a run's evidence, and reports those that are not linearizable: `chaos_history.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from chaos_evidence import Evidence
from chaos_history import INFINITY, Call, History, is_linearizable
from chaos_journal import Execution
from chaos_plan import ChaosJob
from chaos_rows import Row

# The database tells the beginning of a transaction by its own clock, which differs by less.
APART_SECONDS = 0.05
# The events that a client emits when it has stored an outcome. Another event is another call's: nothing is certain then.
STORED_AS: Mapping[str, tuple[str, ...]] = {
    "complete": ("job_completed",),
    "fail": ("job_failed",),
    "panic": ("job_failed",),
    "snooze": ("job_snoozed",),
    "cancel": ("job_cancelled",),
    "give_way": ("job_interrupted", "job_cancelled"),
}


def wrong_histories(evidence: Evidence, by_job: Mapping[int, Sequence[Execution]]) -> Iterator[str]:
    """Yield the jobs whose calls no order explains, with their calls."""
    rows = {row.args["n"]: row for row in evidence.rows}
    num_calls = 0
    for job in evidence.plan:
        row = rows.get(job.n)
        history = _history_of(evidence, job, row, by_job[row.id] if row else ())
        num_calls += len(history.calls)
        try:
            if is_linearizable(history):
                continue
            fault = "no order of its calls explains them"
        except OverflowError:
            fault = "its calls have too many orders"
        calls = ", ".join(map(str, sorted(history.calls, key=lambda call: call.sent_at)))
        yield f"job {job.n} of the plan ({row.id if row else 'no row'}): {fault}: {calls}; {history.state} in the end"
    evidence.figures["histories checked"] = len(evidence.plan)
    evidence.figures["calls in histories"] = num_calls


def _history_of(
    evidence: Evidence, job: ChaosJob, row: Row | None, executions: Sequence[Execution]
) -> History:
    inserts = evidence.inserts.get(job.n, ())
    if row is None:
        return History(calls=inserts, state="absent")
    changes = evidence.job_changes.get(row.id, ())
    calls = [*inserts, *changes, *_attempts(evidence, executions), *_rescues(evidence, row)]
    settled = evidence.settled.get(row.id)
    return History(
        calls=calls,
        state=row.state,
        attempt=row.attempt,
        token=settled.token if settled else None,
        max_attempts=job.max_attempts,
        num_unseen=max(0, len(row.attempted_by) - len(executions)),
    )


def _attempts(evidence: Evidence, executions: Sequence[Execution]) -> Iterator[Call]:
    """Yield the fetch of each execution, and its outcome if it ended."""
    for one in executions:
        fetched_at = min(one.token / 1e6 - evidence.epoch - APART_SECONDS, one.began_at)
        yield Call(
            name="fetch", sent_at=fetched_at, answered_at=one.began_at, attempt=one.attempt, token=one.token
        )
        if one.ended_at is not None and one.ended_by:
            yield _outcome(one, one.ended_at)


def _outcome(one: Execution, ended_at: float) -> Call:
    is_certain = one.stored_at is not None and one.stored_as in STORED_AS.get(one.ended_by, ())
    return Call(
        name={"cancel": "cancel itself", "hold": "give_way"}.get(one.ended_by, one.ended_by),
        sent_at=ended_at,
        answered_at=one.stored_at if is_certain and one.stored_at is not None else INFINITY,
        attempt=one.attempt,
        is_certain=is_certain,
        token=one.token,
    )


def _rescues(evidence: Evidence, row: Row) -> Iterator[Call]:
    for attempt in row.rescued:
        at = evidence.rescued_at[row.id, attempt]
        yield Call(name="rescue", sent_at=at - APART_SECONDS, attempt=attempt)
