"""
Whether the workers of a chaos run kept what docs/reliability.md promises: from rows, journals, logs and what was done.

Rules:

- What was acknowledged as inserted is there once; a batch that was not is there as a whole or not at all.
- Every job is finalized, in the state that its plan and its rescued attempts demand, and so are its attempts, errors
  and snoozes; no two rows hold one unique key.
- Whoever was given up was killed, or was silent for long enough.
- Two attempts of a job are at work at a time only where the first one's process could not know: until it was back, and
  had learned of it. Tokens grow from each to the next.
- What ended well counts, unless its process was killed before the outcome was written, or had lost the job before.
- No run of the periodic job is there twice, and none is missing, but when nobody could insert it.
- Workers go on until they are told to stop, stop with exit code 0, and say so; no trace of ours is in their logs.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from chaos_faults import GIVEN_UP_SECONDS, SESSION_SECONDS
from chaos_fleet import Life, Trouble, written_bytes
from chaos_journal import Execution
from chaos_plan import THREAD_KIND, ChaosJob
from chaos_rows import Row, shared_keys, wrong_outcome

# From when its way is there again, a client has reported within this time and has cancelled what it has lost.
LEARNED_SECONDS = 20.0
# From when the database is there for its client, an outcome is written within this time: a pause of 8 s, and a statement.
WRITTEN_SECONDS = 22.0
# Nobody is given up for less: two reports and two seconds of silence, of which the first five may have been before it.
PATIENCE_SECONDS = 5.0
# Nobody leads for so long at most when a leader is gone: a term of ten seconds, and the next one's first look.
LEADERLESS_SECONDS = 25.0
# What a life may log: eight times what it does where nothing is wrong, and a start.
LOG_BYTES_A_SECOND = 20_000
LOG_BYTES = 1_000_000
# From the end of an attempt in its journal to the one in its row: a wrong clock that is put right, a busy machine.
APART_SECONDS = 10.0
INFINITY = float("inf")
SINCE = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A run of the periodic job: when it was due, and when its row was made, in seconds since 1970."""

    due_at: float
    created_at: float


def tick_of(scheduled_at: float, created_at: float, *, num_fetches: int, step: float) -> Tick:
    """
    Return a run by its row.

    One that was given back is scheduled anew, for a time after its insert; when it was due is then lost, and was shortly
    before the insert, as with any run that was not in trouble.
    """
    was_given_back = num_fetches > 1 and scheduled_at > created_at
    due_at = created_at // step * step if was_given_back else scheduled_at
    return Tick(due_at=due_at, created_at=created_at)


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What a completed job's row says: the token of its last fetch, and when that attempt ended."""

    token: int
    ended_at: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that is judged. `epoch` is the instant since 1970 at which the monotonic clock was 0."""

    answers: Mapping[int, Sequence[str]]
    batches: Sequence[tuple[str, Sequence[int]]]
    began_at: float
    ended_at: float
    epoch: float
    executions: Sequence[Execution]
    faults: Sequence[str]
    lives: Sequence[Life]
    plan: Sequence[ChaosJob]
    rows: Sequence[Row]
    rescued_at: Mapping[tuple[int, int], float]
    ticks: Sequence[Tick]
    tick_seconds: float
    troubles: Sequence[Trouble]
    settled: Mapping[int, Settled] = field(default_factory=dict)
    figures: dict[str, int] = field(default_factory=dict)

    def life(self, name: str) -> Life:
        return next(life for life in self.lives if life.name == name)

    def troubles_of(self, who: int | None) -> list[Trouble]:
        """Return what was wrong for a worker, or None for all, by when it began."""
        return [one for one in self.troubles if one.who in (who, None)]


def judge(evidence: Evidence) -> list[str]:
    """Return what is wrong, in sentences; nothing if all is well."""
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
        ]
        found += [f"job {row.id} ({row.state}): {fault}" for fault in faults]
    return [*found, *_ticks(evidence), *_lives(evidence)]


def _inserts(evidence: Evidence) -> Iterator[str]:
    counts = Counter(row.args["n"] for row in evidence.rows)
    for job in evidence.plan:
        answers, num = Counter(evidence.answers[job.n]), counts[job.n]
        if answers["inserted"] > 1:
            yield f"job {job.n} of the plan was inserted twice: {dict(answers)}"
        if answers["inserted"] and num != 1:
            yield f"job {job.n} of the plan was acknowledged, and is there {num} times"
        # The second insert of a unique job finds the first one's row: whoever completes holds his key for good.
        if answers["skipped"] and num != 1:
            yield f"job {job.n} of the plan was skipped as a duplicate, and is there {num} times"
        if num > 1:
            yield f"job {job.n} of the plan is there {num} times: {dict(answers)}"
    for answer, numbers in evidence.batches:
        num = sum(counts[n] for n in numbers)
        if num not in ((0, len(numbers)) if answer == "none" else (len(numbers),)):
            yield f"of the batch {numbers}, answered {answer!r}, {num} are there"


def _rescues(evidence: Evidence, row: Row) -> Iterator[str]:
    """Tell of attempts that were given back although their client lived and was heard."""
    for attempt, error in row.errors:
        if "ClientRescuer" not in error and attempt in row.rescued:
            yield f"attempt {attempt} was rescued for its age"
            continue
        if attempt not in row.rescued or "started again" in error:
            continue
        client_id = error.split("client '")[1].split("'")[0]
        at = evidence.rescued_at[row.id, attempt]
        if not any(_is_excuse(evidence, life, at) for life in evidence.lives if life.client_id == client_id):
            yield f"attempt {attempt} was given back, {client_id} being well: {error!r} at {at:.1f}"


def _is_excuse(evidence: Evidence, life: Life, at: float) -> bool:
    """Whether a life was ended by then, or was held up for long enough for others to give it up."""
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
        excused_until = max(
            (
                one.ended_at + LEARNED_SECONDS
                for one in evidence.troubles_of(life.who)
                if one.began_at < second.began_at
            ),
            default=0.0,
        )
        if job.kind == THREAD_KIND:
            excused_until += job.work_ms / 1000  # nobody can interrupt a thread
        if ended_at > excused_until:
            yield (
                f"attempt {second.attempt} at {second.client} began {seconds:.3f} s before attempt {first.attempt} at "
                f"{first.client} ended"
            )
        evidence.figures["overlaps"] = evidence.figures.get("overlaps", 0) + 1


def _results(evidence: Evidence, row: Row, executions: Sequence[Execution]) -> Iterator[str]:
    """Tell of ends that came to nothing without a reason."""
    for one in executions:
        life = evidence.life(one.client)
        if one.ended_at is None:
            if life.is_killed or life.exit_code is None:
                continue
            yield f"attempt {one.attempt} at {one.client} has no end, and nobody killed that"
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
        until = _writable_until(evidence, life, one.ended_at)
        if min(rescued_at, life.ended_at or INFINITY) > until:
            yield (
                f"attempt {one.attempt} at {one.client} had ended {rescued_at - one.ended_at:.1f} s before it was given "
                f"back, and was to be written {until - one.ended_at:.1f} s after its end"
            )


def _settled(evidence: Evidence, row: Row, executions: Sequence[Execution]) -> Iterator[str]:
    """Tell of a completed job that was completed by another attempt than its last one."""
    settled = evidence.settled.get(row.id)
    if settled is None:
        return
    last = executions[-1] if executions else None
    if last is None or last.token != settled.token or last.ended_by != "complete" or last.ended_at is None:
        yield f"is completed by the fetch {settled.token}, and its last execution was {last}"
    elif not -APART_SECONDS < settled.ended_at - last.ended_at < APART_SECONDS + _frozen(evidence, last):
        yield (
            f"is completed {settled.ended_at - last.ended_at:.1f} s after the end of its last execution: {last}"
        )


def _frozen(evidence: Evidence, one: Execution) -> float:
    """Return how long its process stood still from the end of an execution on."""
    return sum(
        trouble.ended_at - max(trouble.began_at, one.ended_at)
        for trouble in evidence.troubles_of(evidence.life(one.client).who)
        if one.ended_at is not None
        and trouble.name == "frozen"
        and trouble.began_at < one.ended_at + APART_SECONDS
        and trouble.ended_at > one.ended_at
    )


def _writable_until(evidence: Evidence, life: Life, ended_at: float) -> float:
    """Return when an outcome was written at the latest."""
    until = ended_at + WRITTEN_SECONDS
    for trouble in sorted(evidence.troubles_of(life.who), key=lambda one: one.began_at):
        if trouble.began_at <= until and trouble.ended_at > ended_at - 1.0:
            until = max(until, trouble.ended_at + WRITTEN_SECONDS)
    return until


def _ticks(evidence: Evidence) -> Iterator[str]:
    """Tell of runs of the periodic job that are there twice, or missing without a reason."""
    counts = Counter(round(tick.due_at) for tick in evidence.ticks)
    for due_at, num in sorted(counts.items()):
        if num > 1:
            evidence.figures["ticks doubled"] = evidence.figures.get("ticks doubled", 0) + num - 1
            if not _is_troubled(evidence, due_at):
                yield f"the periodic run of {due_at} is there {num} times"
    step = round(evidence.tick_seconds)
    first = int(evidence.began_at + evidence.epoch) // step + 1
    last = int(evidence.ended_at + evidence.epoch) // step
    for due_at in range(first * step, last * step, step):
        if not counts[due_at]:
            evidence.figures["ticks missing"] = evidence.figures.get("ticks missing", 0) + 1
            if not _is_troubled(evidence, due_at):
                yield f"the periodic run of {due_at} is missing"
    for tick in evidence.ticks:
        if not -1.0 <= tick.created_at - tick.due_at <= 600.0:
            yield f"the periodic run of {tick.due_at:.0f} was inserted {tick.created_at - tick.due_at:.0f} s after it"


def _is_troubled(evidence: Evidence, due_at: float) -> bool:
    """Whether nobody may have led, or nobody may have known of an insert, when a run was due."""
    at = due_at - evidence.epoch
    deaths = [life.ended_at for life in evidence.lives if life.is_killed and life.ended_at is not None]
    return any(0 <= at - ended_at <= LEADERLESS_SECONDS for ended_at in deaths) or any(
        one.began_at - 1.0 <= at <= one.ended_at + LEADERLESS_SECONDS
        for one in evidence.troubles
        if one.name != "clock"
    )


def _lives(evidence: Evidence) -> Iterator[str]:
    for life in evidence.lives:
        if life.is_told_to_stop and not life.is_killed:
            if life.exit_code != 0:
                yield f"{life.name} must end with exit code 0 when it is told to stop, got {life.exit_code}"
            if not life.says("worker stopped"):
                yield f"{life.name} must say that it stopped, got no such line"
        seconds = (life.ended_at or evidence.ended_at) - life.began_at
        if (size := written_bytes(life)) > LOG_BYTES + LOG_BYTES_A_SECOND * seconds:
            yield f"{life.name} must not log more than a job's lines and its troubles', got {size:,} bytes"
        if life.says("worker started") or life.is_told_to_stop:
            yield from _log_faults(life)


def _log_faults(life: Life) -> Iterator[str]:
    """Tell of what a log must not hold: a trace other than of what the jobs raise, and what nobody caught."""
    told: Counter[str] = Counter()
    for line in life.lines():
        text = str(line.get("exception", ""))
        if "level" not in line:
            told[f"no line of the log: {line['message'][:200]!r}"] += 1
        elif text and "Boom" not in text:
            told[f"a trace below {line['message']!r}: {text[-300:]!r}"] += 1
        elif line["message"] in ("service crashed", "worker crashed", "completion refused"):
            told[f"{line['message']!r}: {line}"] += 1
    for what, num in told.items():
        yield f"{life.name} logged {num} times {what}"


def settled(record: Mapping[str, Any], epoch: float) -> Settled | None:
    """Return by what a row was completed; None if it was not."""
    if record["state"] != "completed":
        return None
    token = (record["attempted_at"] - SINCE) // timedelta(microseconds=1)
    return Settled(token=token, ended_at=record["finalized_at"].timestamp() - epoch)


def rescued_at(record: Mapping[str, Any], epoch: float) -> dict[tuple[int, int], float]:
    """Return when which attempt of a row was given back, by the monotonic clock."""
    errors = [json.loads(error) for error in record["errors"] or ()]
    return {
        (record["id"], error["attempt"]): datetime.fromisoformat(error["at"]).timestamp() - epoch
        for error in errors
        if "Rescuer" in error["error"]
    }
