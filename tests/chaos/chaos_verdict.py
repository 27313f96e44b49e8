"""
Check the workers of a chaos run against docs/explanation/delivery_guarantees.md, from rows, journals and logs.

Rules:

- What was acknowledged as inserted is there once; a batch that was not is there as a whole or not at all.
- Every job is finalized, in the state that its plan and its rescued attempts demand, and so are its attempts, errors
  and snoozes; no two rows hold one unique key.
- Whoever was given up was killed, or was silent for long enough.
- Two attempts of a job are at work at a time only where the first one's process could not know: until it was back, and
  had learned of it. Tokens grow from each to the next.
- What ended well counts, unless its process was killed before the outcome was written, or had lost the job before.
- The runs of the periodic job are there, once, in time: `chaos_terms.py`.
- Workers go on until they are told to stop, and do that in order: `chaos_stops.py`. No trace of ours is in their logs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from chaos_evidence import Evidence
from chaos_faults import GIVEN_UP_SECONDS, SESSION_SECONDS
from chaos_fleet import Life, written_bytes
from chaos_journal import Execution
from chaos_plan import THREAD_KIND, ChaosJob
from chaos_rows import Row, shared_keys, wrong_outcome
from chaos_stops import LEFT_BEHIND, wrong_leavings, wrong_repeats, wrong_stops
from chaos_terms import wrong_runs

# From when its way is there again, a client has reported within this time and has cancelled what it has lost.
LEARNED_SECONDS = 20.0
# From when the database is there for its client, an outcome is written within this time: a pause of 8 s, and a statement.
WRITTEN_SECONDS = 22.0
# Nobody is given up for less: two reports and two seconds of silence, of which the first five may have been before it.
PATIENCE_SECONDS = 5.0
# What a life may log: eight times what it does where nothing is wrong, and a start.
LOG_BYTES_A_SECOND = 20_000
LOG_BYTES = 1_000_000
# From the end of an attempt in its journal to the one in its row: a wrong clock that is put right, a busy machine.
APART_SECONDS = 10.0
INFINITY = float("inf")


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
            *wrong_leavings(evidence, job, row, executions),
            *wrong_repeats(executions),
        ]
        found += [f"job {row.id} ({row.state}): {fault}" for fault in faults]
    return [*found, *wrong_runs(evidence), *wrong_stops(evidence), *_lives(evidence)]


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
        lives = [life for life in evidence.lives if life.client_id == client_id]
        if LEFT_BEHIND in error and any(life.told_at is not None and life.told_at < at for life in lives):
            continue
        if not any(_is_excuse(evidence, life, at) for life in lives):
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
            if life.is_killed or life.exit_code is None or one.attempt in row.rescued:
                continue  # what a stop leaves behind is another matter
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
        until = evidence.done_until(life.who, one.ended_at, seconds=WRITTEN_SECONDS, after=WRITTEN_SECONDS)
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


def _lives(evidence: Evidence) -> Iterator[str]:
    for life in evidence.lives:
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
