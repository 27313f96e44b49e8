"""
Whether workers that were told to stop did so in order, as docs/explanation/architecture.md says, and left nothing behind.

- They end within a minute, with exit code 0, and say so.
- What they were at has ended, and counts, or gave way, and is not counted: where the database was there, no attempt of
  theirs is rescued. Only a thread that nobody can interrupt is left behind, after its time, and that is said.
- An attempt is executed again only if it gave way, or was snoozed.
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

LEFT_BEHIND = "stopped, and left it behind"
# What is said of a job that a stop has left; the second if another life began under the name before anybody looked.
LEFT = (LEFT_BEHIND, "ended, and was started again")
# Nothing takes less than this from a signal to what it comes to, or from there to what is written of it.
MARGIN_SECONDS = 1.0


def wrong_stops(evidence: Evidence) -> Iterator[str]:
    """Tell of processes that were told to stop, and did not stop as they must."""
    for life in evidence.lives:
        if life.told_at is None or life.is_killed:
            continue
        evidence.figures["stops"] = evidence.figures.get("stops", 0) + 1
        if life.exit_code != 0:
            yield f"{life.name} must end with exit code 0 when it is told to stop, got {life.exit_code}"
        if not life.says("worker stopped"):
            yield f"{life.name} must say that it stopped, got no such line"
        seconds = (life.ended_at or float("inf")) - life.told_at - _stood_still(evidence, life)
        if seconds > STOP_SECONDS:
            yield f"{life.name} must stop within {STOP_SECONDS:.0f} s, took {seconds:.1f} s"


def _stood_still(evidence: Evidence, life: Life) -> float:
    return sum(
        one.ended_at - one.began_at
        for one in evidence.troubles_of(life.who)
        if one.name == "frozen" and one.ended_at >= (life.told_at or 0.0)
    )


def wrong_repeats(executions: Sequence[Execution]) -> Iterator[str]:
    """Tell of attempts that were executed again although they had come to something."""
    for first, second in pairwise(executions):
        if first.attempt == second.attempt and first.ended_by not in ("give_way", "snooze"):
            yield f"attempt {first.attempt} was executed again at {second.client}, and had ended: {first}"


def wrong_leavings(
    evidence: Evidence, job: ChaosJob, row: Row, executions: Sequence[Execution]
) -> Iterator[str]:
    """Tell of attempts that a stop in order has lost, or left behind without a reason."""
    last = {one.attempt: one for one in executions}
    for attempt, error in row.errors:
        if not any(text in error for text in LEFT):
            continue  # of whoever was given up before he had stopped, it is the silence that is judged
        one = last.get(attempt)
        life = None if one is None else evidence.life(one.client)
        if one is None or life is None or life.told_at is None or life.is_killed:
            continue
        if life.ended_at is None or evidence.rescued_at[row.id, attempt] < life.told_at:
            continue
        if one.ended_at is None or one.ended_at > _left_at(life.told_at):
            yield from _abandoned(evidence, job, one, life, life.told_at)
        elif not evidence.spoiled(life.who, min(one.ended_at, life.told_at) - MARGIN_SECONDS, life.ended_at):
            yield f"attempt {attempt} was rescued, and {life.name}, which stopped in order, was to write its end: {one}"


def _abandoned(
    evidence: Evidence, job: ChaosJob, one: Execution, life: Life, told_at: float
) -> Iterator[str]:
    """Tell of an attempt that was left behind and need not have been."""
    evidence.figures["attempts abandoned"] = evidence.figures.get("attempts abandoned", 0) + 1
    if job.kind != THREAD_KIND or one.began_at + job.work_ms / 1000 < _left_at(told_at):
        yield f"attempt {one.attempt} was left behind by {life.name}, and could have ended: {one}"
    if not life.says("attempts abandoned"):
        yield f"attempt {one.attempt} was left behind by {life.name}, which must say so, and does not"


def _left_at(told_at: float) -> float:
    """Return when what is still at work is given up, at the earliest."""
    return told_at + SOFT_STOP_SECONDS + ABANDON_SECONDS - MARGIN_SECONDS
