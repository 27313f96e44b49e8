"""
Checks that stopped workers stopped as docs/explanation/client.md describes, and left nothing behind.

- A worker ends within a minute, with exit code 0, and logs its stop.
- Its attempts have ended and count, or were interrupted and do not count. If the database was reachable, none of them is
  rescued. Only a thread, which cannot be interrupted, is abandoned after its time, and that is logged.
- An attempt is executed again only if it was interrupted or snoozed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from chaos_evidence import Evidence
from chaos_fleet import SOFT_STOP_SECONDS, STOP_SECONDS, Life
from chaos_journal import Execution
from chaos_plan import THREAD_KIND, ChaosJob
from chaos_rows import Row

from millhand.engine.engine import ABANDON_SECONDS

LEFT_BEHIND = "stopped and left the job running"
# The rescue errors of an abandoned job; the second if a new life had the client id before the rescue.
LEFT = (LEFT_BEHIND, "restarted")
# The least time from a signal to its effect, or from there to the log line.
MARGIN_SECONDS = 1.0


def wrong_stops(evidence: Evidence) -> Iterator[str]:
    """Yield the processes that did not stop gracefully."""
    for life in evidence.lives:
        if life.stop_sent_at is None or life.is_killed:
            continue
        evidence.figures["stops"] = evidence.figures.get("stops", 0) + 1
        if life.exit_code != 0:
            yield f"{life.name} must end with exit code 0 when it is stopped, got {life.exit_code}"
        if not life.says("worker stopped"):
            yield f"{life.name} must log that it stopped, got no such line"
        seconds = (life.ended_at or float("inf")) - life.stop_sent_at - _stood_still(evidence, life)
        if seconds > STOP_SECONDS:
            yield f"{life.name} must stop within {STOP_SECONDS:.0f} s, took {seconds:.1f} s"


def _stood_still(evidence: Evidence, life: Life) -> float:
    return sum(
        one.ended_at - one.began_at
        for one in evidence.troubles_of(life.who)
        if one.name == "frozen" and one.ended_at >= (life.stop_sent_at or 0.0)
    )


def wrong_repeats(executions: Sequence[Execution]) -> Iterator[str]:
    """Yield the attempts that were executed again although they had an outcome."""
    for first, second in pairwise(executions):
        if first.attempt == second.attempt and first.ended_by not in ("give_way", "snooze"):
            yield f"attempt {first.attempt} was executed again at {second.client}, and had ended: {first}"


def wrong_abandonments(
    evidence: Evidence, job: ChaosJob, row: Row, executions: Sequence[Execution]
) -> Iterator[str]:
    """Yield the attempts that a graceful stop lost, or abandoned without a reason."""
    last = {one.attempt: one for one in executions}
    for attempt, error in row.errors:
        if not any(text in error for text in LEFT):
            continue  # the missed heartbeats of a client that was declared dead before are checked elsewhere
        one = last.get(attempt)
        life = None if one is None else evidence.life(one.client)
        if one is None or life is None or life.stop_sent_at is None or life.is_killed:
            continue
        if life.ended_at is None or evidence.rescued_at[row.id, attempt] < life.stop_sent_at:
            continue
        if one.ended_at is None or one.ended_at > _abandoned_at(life.stop_sent_at):
            yield from _abandoned(evidence, job, one, life, life.stop_sent_at)
        elif not evidence.spoiled(
            life.who, min(one.ended_at, life.stop_sent_at) - MARGIN_SECONDS, life.ended_at
        ):
            yield f"attempt {attempt} was rescued, and {life.name}, which stopped gracefully, must write its end: {one}"


def _abandoned(
    evidence: Evidence, job: ChaosJob, one: Execution, life: Life, stop_sent_at: float
) -> Iterator[str]:
    """Yield an attempt that was abandoned and need not have been."""
    evidence.figures["attempts abandoned"] = evidence.figures.get("attempts abandoned", 0) + 1
    if job.kind != THREAD_KIND or one.began_at + job.work_ms / 1000 < _abandoned_at(stop_sent_at):
        yield f"attempt {one.attempt} was abandoned by {life.name}, and could have ended: {one}"
    if not life.says("attempts abandoned"):
        yield f"attempt {one.attempt} was abandoned by {life.name} without a log line"


def _abandoned_at(stop_sent_at: float) -> float:
    """Return the earliest time at which a running attempt is abandoned."""
    return stop_sent_at + SOFT_STOP_SECONDS + ABANDON_SECONDS - MARGIN_SECONDS
