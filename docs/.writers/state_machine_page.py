"""
Write docs/reference/state_machine.md and its drawing: `python docs/.writers/state_machine_page.py`.

`settle` gives the outcome of a running job, case by case. The other transitions are SQL statements and are listed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from millhand.core.job import JobRow, JobState
from millhand.core.transition import (
    SCHEDULER_INTERVAL,
    Cancelled,
    Completed,
    Failed,
    Interrupted,
    Outcome,
    Snoozed,
    StateChange,
    settle,
)
from state_diagram import state_svg

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "reference" / "state_machine.md"
DRAWING = DOCS / "assets" / "states.svg"
NOW = datetime(2000, 1, 1, tzinfo=UTC)
NOTHING = "\N{EN DASH}"
SECOND = timedelta(seconds=1)
FIRST = JobRow(
    id=1,
    state=JobState.RUNNING,
    attempt=1,
    max_attempts=2,
    attempted_at=NOW,
    created_at=NOW,
    finalized_at=None,
    scheduled_at=NOW,
    priority=1,
    encoded_args="{}",
    attempted_by=("client",),
    errors=(),
    kind="kind",
    metadata={},
    queue="default",
    tags=(),
    unique_key=None,
    unique_states=None,
)
LAST = msgspec.structs.replace(FIRST, attempt=2)

CASES: list[tuple[str, str, JobRow, Outcome]] = [
    ("Completed", "", FIRST, Completed()),
    ("Cancelled", "by the worker, an error handler, or from outside", FIRST, Cancelled("")),
    ("Failed", "last attempt", LAST, Failed("", NOW + SECOND)),
    (
        "Failed",
        f"due again within {SCHEDULER_INTERVAL.seconds} s",
        FIRST,
        Failed("", NOW + SCHEDULER_INTERVAL),
    ),
    ("Failed", "due again later", FIRST, Failed("", NOW + SCHEDULER_INTERVAL + SECOND)),
    ("Snoozed", f"for up to {SCHEDULER_INTERVAL.seconds} s", FIRST, Snoozed(SCHEDULER_INTERVAL)),
    ("Snoozed", "for longer", FIRST, Snoozed(SCHEDULER_INTERVAL + SECOND)),
    ("Interrupted", "the client stops", FIRST, Interrupted()),
]

# Transitions of other statements: from, to, and what makes them.
OTHER_ARROWS = [
    ("[*]", "available", "insert"),
    ("[*]", "scheduled", "insert with scheduled_at"),
    ("[*]", "pending", "insert with pending"),
    ("available", "running", "fetch, when due; counts the attempt"),
    ("scheduled", "available", "scheduler, when due; job retry"),
    ("retryable", "available", "scheduler, when due; job retry"),
    ("pending", "available", "job retry"),
    ("scheduled", "discarded", "scheduler, if another job holds its unique key"),
    ("retryable", "discarded", "scheduler, if another job holds its unique key"),
    ("running", "retryable", "rescuer"),
    ("running", "discarded", "rescuer, after the last attempt"),
    ("running", "cancelled", "rescuer, if a cancel was requested"),
    ("running", "available", "client rescuer, after its client died; the attempt counts"),
    ("available", "cancelled", "job cancel"),
    ("scheduled", "cancelled", "job cancel"),
    ("retryable", "cancelled", "job cancel"),
    ("pending", "cancelled", "job cancel"),
    ("completed", "available", "job retry"),
    ("cancelled", "available", "job retry"),
    ("discarded", "available", "job retry"),
    ("completed", "[*]", "cleaner"),
    ("cancelled", "[*]", "cleaner"),
    ("discarded", "[*]", "cleaner"),
]

TEXT = """\
# Job states

<!-- Written by docs/.writers/state_machine_page.py from millhand.core.transition; a test compares. -->

For developers and operators who want to know how a job can change.

A job is one row of `river_job` with a `state`.

![States of a job, and what leads from one to another](../assets/states.svg)

A dashed frame is a group: its arrow is an arrow of each state in it.
"Retry" and "cancel" are your commands `millhand job retry` and `millhand job cancel`.

## How an attempt ends

`millhand.core.transition.settle` takes the outcome of an attempt and returns the change of the row. \
"Kept" means that the column does not change.

| outcome | when | state | attempt | `errors` | `scheduled_at` | `finalized_at` | event |
|---|---|---|---|---|---|---|---|
{table}

- A snoozed or interrupted attempt does not count towards `max_attempts`.
- The scheduler runs every {soon} s. A job that is due sooner becomes available at once, and clients fetch it when it is due.
- If a cancel was requested while the job ran, the job ends as cancelled, unless it completed.
- `job delete` deletes a job in any state except running.
- An outcome changes the row only if the row still runs this attempt.
- If a client dies, the leader rescues its jobs ([why](../decisions/running_jobs.md#decision-20)). The new state is:
  cancelled if a cancel was requested, discarded if no attempt is left, retryable after three rescues, otherwise available.

## Other transitions

| from | to | by |
|---|---|---|
{others}

## In a queue with a limit

Jobs that wait for a slot of a [limit](../explanation/limits.md) are `pending`. The drawing leaves these transitions out.

| from | to | by |
|---|---|---|
| {nothing} | `pending` | insert, of a client that knows the limit |
| `available` | `pending` | collect: a fetch lets the job wait |
| `pending` | `running` | admission, when the job has a slot; counts the attempt |
| `pending` | `available` | the limit is removed; or admission, in a queue that Go workers share |
| `running`, `retryable`, `scheduled` | `pending` | waits for its next attempt, in a queue that Go workers share |
"""


def page() -> str:
    """Return the text of the page."""
    changes = [
        (name, when, job, settle(job, outcome, now=NOW, started_at=NOW)) for name, when, job, outcome in CASES
    ]
    return TEXT.format(
        table="\n".join(_table_line(*change) for change in changes),
        nothing=NOTHING,
        soon=SCHEDULER_INTERVAL.seconds,
        others="\n".join(_other_lines()),
    )


def _other_lines() -> Iterator[str]:
    """Yield a line for each way to a state, with all states that it leaves."""
    for by, target in dict.fromkeys((by, target) for _, target, by in OTHER_ARROWS):
        sources = [_cell(one) for one, other, way in OTHER_ARROWS if (way, other) == (by, target)]
        yield f"| {', '.join(sources)} | {_cell(target)} | {by} |"


def transitions() -> set[tuple[str, str]]:
    """Return each pair of states that a job can go from and to."""
    ends = {settle(job, outcome, now=NOW, started_at=NOW).state.value for _, _, job, outcome in CASES}
    return {("running", end) for end in ends} | {(source, target) for source, target, _ in OTHER_ARROWS}


def _table_line(name: str, when: str, job: JobRow, change: StateChange) -> str:
    cells = [
        name,
        when or "always",
        f"`{change.state}`",
        "kept"
        if change.attempt is None
        else f"{change.attempt - job.attempt:+d}".replace("-", "\N{MINUS SIGN}"),
        "one more" if change.error else "kept",
        "set" if change.scheduled_at else "kept",
        "set" if change.finalized_at else NOTHING,
        f"`{change.event_kind}`",
    ]
    return f"| {' | '.join(cells)} |"


def _cell(state: str) -> str:
    return NOTHING if state == "[*]" else f"`{JobState(state)}`"


if __name__ == "__main__":
    PAGE.write_text(page())
    DRAWING.write_text(state_svg())
