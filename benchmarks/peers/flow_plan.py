"""
The systems of `flow_peers.py`, their settings and sources, fixed before the first measurement.

Each system has the settings that its documentation recommends for reliability. Where it lets a deployment choose how
soon the jobs of a killed worker return, the choice is some ten seconds, so that all systems can finish in the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plan import Variant


@dataclass(frozen=True)
class Way:
    """A system with one way to run a callback after many jobs."""

    system: str
    shown: str
    how: str
    settings: dict[str, Any]
    is_on_redis: bool = False

    @property
    def name(self) -> str:
        return f"{self.shown}, {self.how}"

    @property
    def variant(self) -> Variant:
        """Return what `environments.py` needs."""
        return Variant(self.system, self.how, 0, self.settings, is_on_redis=self.is_on_redis)


EVENT_LOOP = {"uvloop": True}
# A worker that is killed while it restores messages holds a lock: for 300 s by default.
REDIS = {
    "unacked_mutex_expire": 10,
    "unacked_restore_interval": 2,
    "unacked_restore_throttle": 1,
    "visibility_timeout": 10,
}
CELERY: dict[str, Any] = {"options": ["--concurrency", "2"], "transport": REDIS}
PROCRASTINATE: dict[str, Any] = {
    "concurrency": 30,
    "pool": 20,
    "stalled_cron": "* * * * * */5",
    "stalled_seconds": 10,
    "worker": {"update_heartbeat_interval": 3, "stalled_worker_timeout": 10},
    **EVENT_LOOP,
}
FIRST = "Millhand"
WAYS = (
    Way("millhand", FIRST, "`Flow`", {"workers": 100}),
    Way("celery", "Celery on Redis", "`chord`, defaults", CELERY, is_on_redis=True),
    Way(
        "celery",
        "Celery on Redis",
        "`chord`, `acks_late`",
        {**CELERY, "conf": {"task_acks_late": True, "task_reject_on_worker_lost": True}},
        is_on_redis=True,
    ),
    Way("dbos", "DBOS", "a workflow", {"polling_interval_sec": 0.1, "worker_concurrency": 100}),
    Way("absurd", "Absurd", "a task", {"claim_timeout": 10, "concurrency": 10, "max_attempts": 100, **EVENT_LOOP}),
    Way(
        "chancy",
        "chancy",
        "`Workflow`",
        {
            "leadership": {"poll_interval": 1, "timeout": 3},
            "queue": {"concurrency": 100, "eager_polling": True, "polling_interval": 1},
            "recovery": {"poll_interval": 5},
            "worker": {"heartbeat_poll_interval": 3, "heartbeat_timeout": 9},
            "workflow": {"polling_interval": 5},
            **EVENT_LOOP,
        },
    ),
    Way("procrastinate", "procrastinate", "a counter by hand", {**PROCRASTINATE, "count": "counter"}),
    Way("procrastinate", "procrastinate", "rows by hand", {**PROCRASTINATE, "count": "rows"}),
)  # fmt: skip

CONTRACT_HEADS = (
    "way", "where parts count", "who starts the callback", "a job of a killed worker runs again", "settings and source",
)  # fmt: skip
CELERY_COUNTS = ("in Redis, by a script of the result backend", "the worker of the last part")
STALLED = (
    "when a periodic task of yours finds it: 10 to 15 s here",
    (
        "its page on stalled jobs: a periodic task with `get_stalled_jobs` and `retry_job`; workers stalled for 10 s, 30 s "
        "by default; concurrency 30"
    ),
)
CONTRACTS: Mapping[str, tuple[str, ...]] = {
    "Millhand, `Flow`": (
        "in PostgreSQL, in the transaction that completes the part",
        "that transaction; for parts that ended otherwise, the leader",
        "when the leader declares the worker dead, within 20 s",
        "defaults: 100 workers in each process",
    ),
    "Celery on Redis, `chord`, defaults": (
        *CELERY_COUNTS,
        "**no**: a task is acknowledged before it runs",
        ("two prefork processes for each worker; a visibility timeout of 10 s for tasks that were fetched and had not "
        "begun, an hour by default"),
    ),
    "Celery on Redis, `chord`, `acks_late`": (
        *CELERY_COUNTS,
        ("after the visibility timeout: 10 s here, an hour by default; **not** if it was killed between the statement that "
        "takes the message and the one that records it"),
        ("its pages Tasks and Redis: `task_acks_late`, `task_reject_on_worker_lost`; a task longer than the visibility "
        "timeout runs twice"),
    ),
    "DBOS, a workflow": (
        "in the waiting workflow, which polls PostgreSQL",
        "the waiting workflow, in a step",
        "when a process with the same executor ID starts; otherwise Conductor, a service, recovers it",
        "the example of its page Queues; an executor ID for each place, polls each 0.1 s, 1 s by default",
    ),
    "Absurd, a task": (
        "in the waiting task, which polls PostgreSQL",
        "the waiting task, in a step",
        "after the claim timeout: 10 s here, 120 s by default",
        "its page Python SDK: concurrency 10; 100 attempts, 5 by default, because each kill uses one",
    ),
    "chancy, `Workflow`": (
        "in PostgreSQL, by the leader, which reads all steps",
        "the leader",
        "after heartbeats are missing: 9 to 14 s here, 90 to 150 s by default",
        ("`Leadership`, `Recovery`, `Worker`: a leader's term of 3 s, 120 s by default; without a leader, "
        "no workflow continues. Concurrency 100, polls again after each job"),
    ),
    "procrastinate, a counter by hand": (
        "in a table of yours, in a transaction of its own",
        "the last part, after that transaction",
        *STALLED,
    ),
    "procrastinate, rows by hand": (
        "in a table of yours with a row for each part, in a transaction of its own",
        "the last part, in that transaction",
        *STALLED,
    ),
}  # fmt: skip
NOT_MEASURED: Mapping[str, str] = {
    "Oban for Python": "workflows and batches need Oban Pro",
    "River": "workflows need River Pro",
    "Temporal": "`go install` of its server fails here, because its `go.mod` has replace directives",
    "Hatchet": "it needs a server of its own",
}
