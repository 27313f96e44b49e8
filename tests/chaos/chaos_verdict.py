"""
Checks the workers of a chaos run against docs/explanation/delivery_guarantees.md, from rows, journals and logs.

Rules:

- An acknowledged insert exists once. An insert without an answer exists as a whole batch or not at all.
- Every job is finalized, with the state, attempts, errors and snoozes that its plan and its rescued attempts demand. No two
  rows hold one unique key.
- A client that was declared dead was killed, or missed heartbeats for long enough.
- Two attempts of a job run at the same time only if the first one's process could not know, until it was back and had
  detected the loss. Tokens grow from each to the next.
- A successful attempt counts, unless its process was killed before the write, or had lost the job before.
- The life of each job is linearizable: `chaos_calls.py`.
- Limits hold, and nothing waits or counts in the end: `chaos_limit_audit.py`.
- Each discarded job has exactly one dead letter: `chaos_dead_jobs.py`.
- Tasks of flows run after those that they wait for, and all of them end: `chaos_flows.py`.
- Each due instant of a schedule has exactly one job: `chaos_schedules.py`.
- The runs of the periodic job are inserted once and in time: `chaos_terms.py`.
- Workers run until they are stopped, and stop gracefully: `chaos_stops.py`. Their logs have no trace of Millhand's code.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from chaos_calls import wrong_histories
from chaos_dead_jobs import wrong_dead_jobs
from chaos_evidence import Evidence
from chaos_faults import GIVEN_UP_SECONDS, SESSION_SECONDS
from chaos_fleet import Life, written_bytes
from chaos_flows import wrong_flows
from chaos_journal import Execution
from chaos_limit_audit import wrong_limits
from chaos_migrations import SCHEDULES_VERSION, lost
from chaos_plan import THREAD_KIND, ChaosJob
from chaos_rows import Row, shared_keys, wrong_outcome
from chaos_schedules import wrong_scheduled_runs
from chaos_stops import LEFT_BEHIND, wrong_abandonments, wrong_repeats, wrong_stops
from chaos_terms import wrong_runs

# From the return of its connection until a client has sent a heartbeat and cancelled its lost attempts.
LEARNED_SECONDS = 20.0
# From the return of the database until an outcome is written: a backoff delay of 8 s, and a statement.
WRITTEN_SECONDS = 22.0
# The least time until a client is declared dead: two heartbeats and two seconds, of which the first five may have passed.
PATIENCE_SECONDS = 5.0
# The most that a life may log: eight times what it logs without faults, and its start.
LOG_BYTES_A_SECOND = 20_000
LOG_BYTES = 1_000_000
# The difference between an attempt's end in its journal and in its row: a clock that is corrected, a busy machine.
APART_SECONDS = 10.0
# The database's clock and that of the journals.
ROUNDED_SECONDS = 0.05
INFINITY = float("inf")


def find_violations(evidence: Evidence) -> list[str]:
    """Return the violations, in sentences."""
    by_job: dict[int, list[Execution]] = defaultdict(list)
    for execution in evidence.executions:
        by_job[execution.job].append(execution)
    plan = {job.n: job for job in evidence.plan}
    found = [*evidence.faults, *_inserts(evidence), *shared_keys(evidence.rows)]
    for row in evidence.rows:
        job, executions = plan[row.args["n"]], sorted(by_job[row.id], key=lambda one: one.token)
        faults = [
            *wrong_outcome(job, row, executions),
            *_rescues(evidence, row),
            *_overlaps(evidence, job, executions),
            *_results(evidence, row, executions),
            *_settled(evidence, row, executions),
            *wrong_abandonments(evidence, job, row, executions),
            *wrong_repeats(executions),
        ]
        found += [f"job {row.id} ({row.state}): {fault}" for fault in faults]
    if evidence.scheduled_runs is not None:
        lost_at = [
            datetime.fromtimestamp(one.down_at + evidence.epoch, UTC)
            for one in lost(evidence.resets, SCHEDULES_VERSION)
        ]
        found += wrong_scheduled_runs(evidence.scheduled_runs, evidence.next_runs, evidence.figures, lost_at)
    found += wrong_histories(evidence, by_job)
    found += wrong_dead_jobs(evidence.dead_jobs, evidence.num_dead_jobs_copied, evidence.figures)
    if evidence.flows is not None:
        found += wrong_flows(evidence.flows, evidence.executions, evidence.figures)
    return [*found, *wrong_limits(evidence), *wrong_runs(evidence), *wrong_stops(evidence), *_lives(evidence)]


def _inserts(evidence: Evidence) -> Iterator[str]:
    counts = Counter(row.args["n"] for row in evidence.rows)
    for job in evidence.plan:
        answers, num = Counter(evidence.answers[job.n]), counts[job.n]
        if answers["inserted"] > 1:
            yield f"job {job.n} of the plan was inserted twice: {dict(answers)}"
        if answers["inserted"] and num != 1:
            yield f"job {job.n} of the plan was acknowledged, and exists {num} times"
        # The second insert of a unique job finds the first one's row, because a completed job keeps its key.
        if answers["skipped"] and num != 1:
            yield f"job {job.n} of the plan was skipped as a duplicate, and exists {num} times"
        if num > 1:
            yield f"job {job.n} of the plan exists {num} times: {dict(answers)}"
    for answer, numbers in evidence.batches:
        num = sum(counts[n] for n in numbers)
        if num not in ((0, len(numbers)) if answer == "none" else (len(numbers),)):
            yield f"of the batch {numbers}, answered {answer!r}, {num} exist"


def _rescues(evidence: Evidence, row: Row) -> Iterator[str]:
    """Yield the attempts that were rescued although their client lived and sent heartbeats."""
    for attempt, error in row.errors:
        if "ClientRescuer" not in error and attempt in row.rescued:
            yield f"attempt {attempt} was rescued for its age"
            continue
        if attempt not in row.rescued or "started again" in error:
            continue
        client_id = error.split("client '")[1].split("'")[0]
        at = evidence.rescued_at[row.id, attempt]
        lives = [life for life in evidence.lives if life.client_id == client_id]
        if LEFT_BEHIND in error and any(
            life.stop_sent_at is not None and life.stop_sent_at < at for life in lives
        ):
            continue
        if not any(_is_excuse(evidence, life, at) for life in lives):
            yield f"attempt {attempt} was rescued although {client_id} was well: {error!r} at {at:.1f}"


def _is_excuse(evidence: Evidence, life: Life, at: float) -> bool:
    """Return whether a life had ended by then, or was held up for long enough to be declared dead."""
    if life.ended_at is not None and life.ended_at < at:
        return True
    longest = SESSION_SECONDS + 2 * GIVEN_UP_SECONDS
    near = [
        one for one in evidence.troubles_of(life.who) if at - longest < one.ended_at and one.began_at < at
    ]
    return any(
        min(last.ended_at + LEARNED_SECONDS, at) - first.began_at >= PATIENCE_SECONDS
        for first in near
        for last in near
        if last.began_at >= first.began_at
    )


def _overlaps(evidence: Evidence, job: ChaosJob, executions: Sequence[Execution]) -> Iterator[str]:
    tokens = Counter(one.token for one in executions)
    for token, num in tokens.items():
        if num > 1:
            yield f"the fetch {token} was executed {num} times"
    for first, second in pairwise(executions):
        life = evidence.life(first.client)
        ended_at = first.ended_at if first.ended_at is not None else (life.ended_at or INFINITY)
        seconds = ended_at - second.began_at
        if seconds <= 0:
            continue
        excused_until = _learned_until(evidence, life, first, second)
        if job.kind == THREAD_KIND:
            excused_until += job.work_ms / 1000  # a thread cannot be interrupted
        if ended_at > excused_until:
            yield (
                f"attempt {second.attempt} at {second.client} began {seconds:.3f} s before attempt {first.attempt} at "
                f"{first.client} ended"
            )
        evidence.figures["overlaps"] = evidence.figures.get("overlaps", 0) + 1


def _learned_until(evidence: Evidence, life: Life, first: Execution, second: Execution) -> float:
    """
    Return until when a client had to learn that it was declared dead, and to cancel the attempt.

    That counts from the rescue, or from the end of the trouble that the client had meanwhile.
    An attempt that began before the rescue has no excuse.
    """
    rescued_at = evidence.rescued_at.get((first.job, first.attempt), INFINITY)
    if second.began_at < rescued_at - ROUNDED_SECONDS:
        return 0.0
    return evidence.done_until(life.who, rescued_at, seconds=LEARNED_SECONDS, after=LEARNED_SECONDS)


def _results(evidence: Evidence, row: Row, executions: Sequence[Execution]) -> Iterator[str]:
    """Yield the ended attempts whose outcome was lost without a reason."""
    for one in executions:
        life = evidence.life(one.client)
        if one.ended_at is None:
            if life.is_killed or life.exit_code is None or one.attempt in row.rescued:
                continue  # `chaos_stops` checks abandoned attempts
            yield f"attempt {one.attempt} at {one.client} has no end, and its process was not killed"
            continue
        if one.ended_by == "give_way" and one.act != "hold":
            evidence.figures["gave way"] = evidence.figures.get("gave way", 0) + 1
        is_rescued = one.attempt in row.rescued and not any(
            later.attempt == one.attempt and later.token > one.token for later in executions
        )
        if not is_rescued or one.ended_by == "give_way":
            continue
        evidence.figures["ends lost"] = evidence.figures.get("ends lost", 0) + 1
        rescued_at = evidence.rescued_at[row.id, one.attempt]
        until = evidence.done_until(life.who, one.ended_at, seconds=WRITTEN_SECONDS, after=WRITTEN_SECONDS)
        if min(rescued_at, life.ended_at or INFINITY) > until:
            yield (
                f"attempt {one.attempt} at {one.client} had ended {rescued_at - one.ended_at:.1f} s before its "
                f"rescue, and was to be written {until - one.ended_at:.1f} s after its end"
            )


def _settled(evidence: Evidence, row: Row, executions: Sequence[Execution]) -> Iterator[str]:
    """Yield a completed job that another attempt than its last one completed, or deleted."""
    settled = evidence.settled.get(row.id)
    if settled is None:
        return
    last = executions[-1] if executions else None
    if last is None or last.token != settled.token or last.ended_by != "complete" or last.ended_at is None:
        yield f"is completed by the fetch {settled.token}, and its last execution was {last}"
    elif settled.ended_at is None:
        evidence.figures["deleted"] = evidence.figures.get("deleted", 0) + 1
    elif not -APART_SECONDS < settled.ended_at - last.ended_at < APART_SECONDS + _frozen(evidence, last):
        yield (
            f"is completed {settled.ended_at - last.ended_at:.1f} s after the end of its last execution: {last}"
        )


def _frozen(evidence: Evidence, one: Execution) -> float:
    """Return how long a process stood still after the end of an execution."""
    return sum(
        trouble.ended_at - max(trouble.began_at, one.ended_at)
        for trouble in evidence.troubles_of(evidence.life(one.client).who)
        if one.ended_at is not None
        and trouble.name == "frozen"
        and trouble.began_at < one.ended_at + APART_SECONDS
        and trouble.ended_at > one.ended_at
    )


def _lives(evidence: Evidence) -> Iterator[str]:
    for life in evidence.lives:
        seconds = (life.ended_at or evidence.ended_at) - life.began_at
        if (size := written_bytes(life)) > LOG_BYTES + LOG_BYTES_A_SECOND * seconds:
            yield f"{life.name} must not log more than a job's lines and its troubles', got {size:,} bytes"
        if life.says("worker started") or life.is_stopping:
            yield from _log_faults(life)


def _log_faults(life: Life) -> Iterator[str]:
    """Yield what a log must not have: a trace of anything but the jobs' own errors, and uncaught errors."""
    counted: Counter[str] = Counter()
    for line in life.lines():
        text = str(line.get("exception", ""))
        if "level" not in line:
            counted[f"invalid log line: {line['message'][:200]!r}"] += 1
        elif text and "Boom" not in text:
            counted[f"a trace below {line['message']!r}: {text[-300:]!r}"] += 1
        elif line["message"] in ("service crashed", "worker crashed", "completion refused"):
            counted[f"{line['message']!r}: {line}"] += 1
    for what, num in counted.items():
        yield f"{life.name} logged {num} times {what}"
