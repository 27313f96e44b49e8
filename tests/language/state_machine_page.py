"""
Draws docs/reference/state_machine.md from the code that decides; `python tests/language/state_machine_page.py` writes it.

What becomes of a running job is asked of `settle`, case by case. The other arrows are those of statements, in words.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from language_values import row

from millhand.job import JobRow, JobState
from millhand.transition import (
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

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "state_machine.md"
NOW = datetime(2000, 1, 1, tzinfo=UTC)
NOTHING = "\N{EN DASH}"
SECOND = timedelta(seconds=1)
FIRST = row(attempt=1, max_attempts=2)
LAST = row(attempt=2, max_attempts=2)

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

# What moves a job that is not running: from, to, and who does it.
OTHER_ARROWS = [
    ("[*]", "available", "insert"),
    ("[*]", "scheduled", "insert with scheduled_at"),
    ("[*]", "pending", "insert with pending"),
    ("available", "running", "fetch, when due; counts the attempt"),
    ("scheduled", "available", "scheduler, when due; job retry"),
    ("retryable", "available", "scheduler, when due; job retry"),
    ("pending", "available", "job retry"),
    ("scheduled", "discarded", "scheduler, when its unique key is taken"),
    ("retryable", "discarded", "scheduler, when its unique key is taken"),
    ("running", "retryable", "rescuer"),
    ("running", "discarded", "rescuer, after the last attempt"),
    ("running", "cancelled", "rescuer, when cancellation was asked for"),
    ("running", "available", "client rescuer, when its client is gone; the attempt counts"),
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
# The states of a job

<!-- Written by tests/language/state_machine_page.py from millhand.transition; a test compares. -->

A job is one row of `river_job`, and its `state` says what may happen to it next.

```mermaid
stateDiagram-v2
{arrows}
```

## How an attempt ends

One function decides, `millhand.transition.settle`: how the attempt ended goes in, what is written comes out.

| outcome | when | state | attempt | `errors` | `scheduled_at` | `finalized_at` | event |
|---|---|---|---|---|---|---|---|
{table}

- An attempt that is snoozed or interrupted is given back, so it does not count towards `max_attempts`.
- The scheduler passes every {soon} s; what is due sooner is made available at once, and the fetch holds it until then.
- Whatever the outcome, a job whose cancellation was asked for while it ran ends as cancelled; unless it completed.
- `job delete` takes a job out of any state but running.
- Only a row that still is running, for this very attempt, is changed.
  If somebody else ended the job meanwhile, or gave it to another attempt, that stays.
- Of a client that is gone, a job is discarded if its attempts are used up, and cancelled if that was asked for.
  One that was given back three times before is retryable, each of the others available at once.
  [Why](../decisions/0020-rescue-dead-clients.md).

## Who else moves jobs

| from | to | by |
|---|---|---|
{others}
"""


def page() -> str:
    """Return the text of the page."""
    changes = [
        (name, when, job, settle(job, outcome, now=NOW, started_at=NOW)) for name, when, job, outcome in CASES
    ]
    settled = [
        ("running", change.state.value, f"{name}, {when}" if when else name)
        for name, when, _, change in changes
    ]
    arrows = [
        f"    {source} --> {target}: {label}"
        for source, target, label in OTHER_ARROWS[:4] + settled + OTHER_ARROWS[4:]
    ]
    return TEXT.format(
        arrows="\n".join(arrows),
        table="\n".join(_table_line(*change) for change in changes),
        soon=SCHEDULER_INTERVAL.seconds,
        others="\n".join(f"| {_cell(one)} | {_cell(other)} | {by} |" for one, other, by in OTHER_ARROWS),
    )


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
