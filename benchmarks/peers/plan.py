"""
The systems and their settings, fixed before the first measurement.

Each system runs with its defaults and with the settings that its documentation recommends for throughput. SOURCES has the
links; where a documentation names no number, PROBES has the ones we tried.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DEFAULTS = "defaults"
TUNED = "tuned"
FURTHER = "tuned further"
NO_ROWS = "no rows kept"
NO_SEARCH = "no search indexes"
NEITHER = "no rows kept, no search indexes"


@dataclass(frozen=True)
class Variant:
    """One system with one set of settings. `jobs` is the number of jobs of a drain, some seconds of work."""

    system: str
    kind: str
    jobs: int
    settings: dict[str, Any] = field(default_factory=dict)
    what: tuple[str, ...] = ("drain",)
    is_on_redis: bool = False
    python: str = ""

    @property
    def name(self) -> str:
        return f"{self.system}, {self.kind}"

    @property
    def place(self) -> str:
        """Return the name of the environment: a system, or ours on another Python."""
        return f"{self.system} on Python {self.python}" if self.python else self.system


# Inserts, pickup and idle cost are measured with default settings, except for systems whose throughput settings also
# affect latency.
ALL = ("insert", "drain", "pickup", "idle")
EVENT_LOOP = {"uvloop": True}
WIDE = {"workers": 4_000}

# What an operator may choose for Millhand, each beside its tuned row.
OURS = (
    Variant("millhand", NO_ROWS, 50_000, {**WIDE, "keep_completed": False}, ("drain", "pickup")),
    Variant("millhand", NO_SEARCH, 50_000, {**WIDE, "search_indexes": False}, ("insert", "drain")),
    Variant(
        "millhand",
        NEITHER,
        50_000,
        {**WIDE, "keep_completed": False, "search_indexes": False},
        ("insert", "drain"),
    ),
    Variant("millhand", "tuned, Python 3.12", 50_000, WIDE, python="3.12"),
    Variant("millhand", "tuned, Python 3.13", 50_000, WIDE, python="3.13"),
    Variant("millhand", "tuned, Python 3.13, uvloop", 50_000, {**WIDE, **EVENT_LOOP}, python="3.13"),
    Variant("millhand", "tuned, Python 3.14, free-threaded", 50_000, WIDE, python="3.14t"),
)

VARIANTS = (
    Variant("millhand", DEFAULTS, 50_000, {}, (*ALL, "pickup at more rates", "imports")),
    Variant("millhand", TUNED, 50_000, WIDE, ("drain", "pickup")),
    *OURS,
    Variant("baseline", "inline", 50_000, {"is_inline": True}),
    Variant("baseline", TUNED, 50_000, {"workers": 4_000}, (*ALL, "pickup at more rates")),
    Variant("river", DEFAULTS, 5_000, {}, ALL),
    Variant("river", TUNED, 50_000, {"workers": 2_000, "cooldown_ms": 2, "poll_ms": 20}, ("drain", "pickup")),
    Variant("river", FURTHER, 50_000, {"workers": 5_000, "cooldown_ms": 1, "poll_ms": 20}),
    Variant("river_rust", DEFAULTS, 5_000, {}, ALL),
    Variant(
        "river_rust", TUNED, 50_000, {"workers": 2_000, "cooldown_ms": 2, "poll_ms": 20}, ("drain", "pickup")
    ),
    Variant("river_rust", FURTHER, 50_000, {"workers": 5_000, "cooldown_ms": 1, "poll_ms": 20}),
    Variant("pgqueuer", DEFAULTS, 10_000, {}, ALL),
    Variant("pgqueuer", TUNED, 50_000, {"batch_size": 1_000, **EVENT_LOOP}, ("drain", "pickup")),
    Variant("chancy", DEFAULTS, 100, {}, ALL),
    Variant(
        "chancy",
        TUNED,
        10_000,
        {"concurrency": 3_000, "eager_polling": True, "polling_interval": 1, **EVENT_LOOP},
        ("drain", "pickup"),
    ),
    Variant("oban", DEFAULTS, 5_000, {}, ALL),
    Variant("oban", TUNED, 10_000, {"limit": 1_000, **EVENT_LOOP}, ("drain", "pickup")),
    Variant("procrastinate", DEFAULTS, 2_000, {}, ALL),
    Variant(
        "procrastinate", TUNED, 3_000, {"concurrency": 30, "pool": 20, **EVENT_LOOP}, ("drain", "pickup")
    ),
    Variant("graphile_worker", DEFAULTS, 3_000, {}, ALL),
    Variant(
        "graphile_worker",
        TUNED,
        50_000,
        {"concurrentJobs": 24, "maxPoolSize": 25, "localQueueSize": 500, "completeJobBatchDelay": 0},
        ("drain", "pickup"),
    ),
    Variant(
        "graphile_worker",
        FURTHER,
        50_000,
        {"concurrentJobs": 24, "maxPoolSize": 25, "localQueueSize": 2_000, "completeJobBatchDelay": 0},
        ("drain", "pickup"),
    ),
    Variant(
        "graphile_worker",
        "tuned further, 5,000",
        50_000,
        {"concurrentJobs": 24, "maxPoolSize": 25, "localQueueSize": 5_000, "completeJobBatchDelay": 0},
    ),
    Variant("pg_boss", DEFAULTS, 10, {}, ("insert", "drain", "idle")),
    Variant(
        "pg_boss",
        TUNED,
        50_000,
        {"batchSize": 1_000, "burstWhenBatchFull": True, "notify": True},
        ("drain", "pickup"),
    ),
    Variant(
        "pg_boss",
        FURTHER,
        50_000,
        {"batchSize": 5_000, "burstWhenBatchFull": True, "localConcurrency": 2, "notify": True},
    ),
    Variant("awa", DEFAULTS, 5_000, {}, ALL),
    Variant("awa", TUNED, 20_000, {"max_workers": 200, **EVENT_LOOP}, ("drain", "pickup")),
    Variant("absurd", DEFAULTS, 500, {}, ALL),
    Variant("absurd", TUNED, 2_000, {"concurrency": 10, **EVENT_LOOP}, ("drain", "pickup")),
    Variant("dbos", DEFAULTS, 1_000, {}, ALL),
    Variant(
        "dbos", TUNED, 1_000, {"worker_concurrency": 100, "polling_interval_sec": 0.01}, ("drain", "pickup")
    ),
    Variant("celery", DEFAULTS, 3_000, {}, ALL, is_on_redis=True),
    Variant(
        "celery",
        TUNED,
        5_000,
        {
            "prefetch": 100,
            "options": ["--pool", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat"],
        },
        is_on_redis=True,
    ),
    Variant("dramatiq", DEFAULTS, 10_000, {}, ALL, is_on_redis=True),
    Variant("dramatiq", TUNED, 10_000, {"options": ["-p", "1", "-t", "16"]}, is_on_redis=True),
    Variant("arq", DEFAULTS, 1_000, {}, ALL, is_on_redis=True),
    Variant(
        "arq",
        TUNED,
        5_000,
        {"max_jobs": 100, "poll_delay": 0.02, **EVENT_LOOP},
        ("drain", "pickup"),
        is_on_redis=True,
    ),
)

# Also measured once a round, for selected systems. The million rows are created once per run, in a database that is copied.
SCENES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one million finished rows beside", {"finished": 1_000_000}),
    ("one million waiting rows behind", {"waiting": 1_000_000}),
    ("two processes", {"processes": 2}),
    ("four processes", {"processes": 4}),
)
IN_SCENES = (
    ("millhand", TUNED),
    ("millhand", NO_ROWS),
    ("river", TUNED),
    ("river_rust", TUNED),
    ("pgqueuer", TUNED),
    ("graphile_worker", FURTHER),
    ("pg_boss", TUNED),
    ("awa", TUNED),
)
# Scenes that a system cannot have: graphile-worker keeps no finished rows, and awa's rows are spread over partitions.
WITHOUT = {"awa": ("finished", "waiting"), "graphile_worker": ("finished",)}

# Jobs that wait for 10 ms, 1,000 at a time: coroutines, and functions in threads.
WAITING_TITLE = "10 ms each"
WAITING = (
    Variant("millhand", "coroutines", 30_000, {"workers": 1_000, "wait_ms": 10}),
    Variant("baseline", "coroutines", 30_000, {"workers": 1_000, "fetch": 250, "wait_ms": 10}),
    Variant(
        "river", "goroutines", 30_000, {"workers": 1_000, "cooldown_ms": 2, "poll_ms": 20, "wait_ms": 10}
    ),
    Variant(
        "river_rust", "tasks", 30_000, {"workers": 1_000, "cooldown_ms": 2, "poll_ms": 20, "wait_ms": 10}
    ),
    Variant("pgqueuer", "coroutines", 30_000, {"batch_size": 1_000, "wait_ms": 10, **EVENT_LOOP}),
    Variant("oban", "coroutines", 10_000, {"limit": 1_000, "wait_ms": 10, **EVENT_LOOP}),
    Variant(
        "millhand",
        "coroutines, no rows kept",
        30_000,
        {"workers": 1_000, "keep_completed": False, "wait_ms": 10},
    ),
    Variant(
        "graphile_worker",
        "promises",
        30_000,
        {
            "concurrentJobs": 1_000,
            "maxPoolSize": 25,
            "localQueueSize": 2_000,
            "completeJobBatchDelay": 0,
            "wait_ms": 10,
        },
    ),
    Variant(
        "pg_boss",
        "promises in a batch",
        30_000,
        {"batchSize": 1_000, "burstWhenBatchFull": True, "notify": True, "wait_ms": 10},
    ),
    Variant("awa", "coroutines", 10_000, {"max_workers": 1_000, "claimers": 2, "wait_ms": 10, **EVENT_LOOP}),
    Variant("millhand", "threads", 10_000, {"workers": 100, "wait_ms": 10, "is_plain": True}),
    Variant(
        "procrastinate", "threads", 1_000, {"concurrency": 30, "pool": 20, "wait_ms": 10, "is_plain": True}
    ),
    Variant(
        "dramatiq", "threads", 5_000, {"options": ["-p", "1", "-t", "100"], "wait_ms": 10}, is_on_redis=True
    ),
)

# Measured once, in the first round: the memory after a long drain.
LONG_TITLE = "one million jobs"
LONG = Variant("millhand", DEFAULTS, 1_000_000)

# Measured once, side by side and in turns: bursts beside a transaction that stays open.
OPEN_TITLE = "beside an open transaction"
IN_OPEN = IN_SCENES
OPEN_BURST = 10_000
OPEN_BURST_REST_SECONDS = 5.0

COST_CHART, GROWTH_CHART = "peers_cost.svg", "peers_growth.svg"

RATES = (50.0, 500.0)
MORE_RATES = (10.0, 200.0, 1_000.0)
PICKUP_SECONDS = 4.0
# A worker is not at rest in its first minute, and an idle backend may hold back its
# statistics for ten seconds. PostgreSQL, pgstat.c.
IDLE_REST_SECONDS = 75.0
NUM_INSERTS = 1_000

# The packages whose versions are shown.
PACKAGES = {
    "millhand": ("Python", "millhand", "asyncpg", "uvloop"),
    "baseline": ("Python", "asyncpg"),
    "river": ("Go", "river", "pgx/v5"),
    "river_rust": ("Rust", "riverqueue", "sqlx"),
    "pgqueuer": ("Python", "pgqueuer", "asyncpg", "uvloop"),
    "chancy": ("Python", "chancy", "psycopg", "uvloop"),
    "oban": ("Python", "oban", "psycopg", "uvloop"),
    "procrastinate": ("Python", "procrastinate", "psycopg", "uvloop"),
    "graphile_worker": ("Node", "graphile-worker"),
    "pg_boss": ("Node", "pg-boss"),
    "awa": ("Python", "awa-pg", "uvloop"),
    "absurd": ("Python", "absurd-sdk", "psycopg", "uvloop"),
    "dbos": ("Python", "dbos", "SQLAlchemy", "psycopg"),
    "celery": ("Python", "celery", "kombu", "redis"),
    "dramatiq": ("Python", "dramatiq", "redis"),
    "arq": ("Python", "arq", "redis", "uvloop"),
}
SOURCES = {
    "millhand": (
        "[How to size](../docs/explanation/performance.md#how-to-size): 1,000 to 4,000 workers for a queue of tiny jobs"
    ),
    "baseline": "the best known settings; fetches of 1,000",
    "river": "*tuned*: its own benchmark, `river bench`; *tuned further*: the fastest found; `MaxWorkers` "
    "has no default, its first page shows 100",
    "river_rust": "as River in Go; its documentation says that the cooldown limits throughput, without numbers",
    "pgqueuer": "`pgq run --batch-size`, 10 by default; its command line runs on uvloop",
    "chancy": "`Queue`: concurrency is the number of cores by default, polled every 5 s; `eager_polling` polls again as "
    "soon as a job has completed",
    "oban": "a queue's limit, 10 in its guide; its command line runs on uvloop",
    "procrastinate": "`--concurrency`, 1 by default, 30 in its page on concurrency, with a pool of connections to match",
    "graphile_worker": "*tuned*: the settings of its page Performance; *tuned further*: a larger local queue. Its "
    "benchmark sets `NO_LOG_SUCCESS`, and so does every row here",
    "pg_boss": "its page Workers: `batchSize`, `burstWhenBatchFull`, `localConcurrency`, and the listener instead of a "
    "poll every 2 s. With defaults it works one job in 2 s, so its pickup with defaults is not measured",
    "awa": "`max_workers`, 50 by default in its page Configuration; 2 claimers, which `start` "
    "describes, were no faster",
    "absurd": "its page Python SDK: `concurrency`, 1 by default",
    "dbos": "its page Queues: `worker_concurrency` and `polling_interval_sec`, 1 s by default",
    "celery": "its guide to optimizing: a larger prefetch multiplier for short tasks; one process, which needs no gossip",
    "dramatiq": "`--processes`, by default as many as cores, and `--threads`, 8 each by default",
    "arq": "`Worker`: `max_jobs`, 10 by default, and `poll_delay`, 0.5 s by default",
}

# What each system does for the figure: the row of a job that succeeded, the handler, and what is written for a success.
CONTRACTS = {
    "millhand": ("kept for 24 hours", "one job", "a batch of updates"),
    f"millhand, {NO_ROWS}": ("**deleted**", "one job", "a batch of deletes"),
    "baseline": ("kept", "one job; no retries, leader or cancellation", "a batch of updates"),
    "river": ("kept for 24 hours", "one job", "a batch of updates"),
    "river_rust": ("kept for 24 hours", "one job", "a batch of updates"),
    "pgqueuer": ("**moved** to a log table", "one job", "a batch of deletes and inserts"),
    "chancy": ("kept until its pruner deletes it", "one job", "a batch of updates"),
    "oban": ("kept until its pruner deletes it", "one job", "a batch of updates"),
    "procrastinate": ("kept", "one job", "an update for each job"),
    "graphile_worker": ("**deleted**", "one job", "with a local queue, a batch of deletes"),
    "pg_boss": (
        "kept for 7 days",
        "**a batch**, which succeeds or fails as a whole",
        "one update for each batch",
    ),
    "awa": (
        "**truncated** with its partition after seconds; a count stays",
        "one job",
        "one row for a batch",
    ),
    "absurd": (
        "kept: a task and a run",
        "one task, which may have durable steps",
        "a function call for each task",
    ),
    "dbos": ("kept", "one workflow, which may have durable steps", "an update for each workflow"),
    "celery": ("**none**, Redis", "one job", "an acknowledgement"),
    "dramatiq": ("**none**, Redis", "one job", "an acknowledgement"),
    "arq": ("**none**, Redis", "one job", "a deletion"),
}

PROBES = """\
Settings we tried: pgqueuer batches of 50, 300, 1,000, 2,000 and 5,000; chancy concurrency 300, 3,000, 10,000;
oban limits 100, 1,000, 3,000; procrastinate concurrency and pool 10/10, 30/20, 100/10; graphile-worker local queues of
500, 2,000 and 5,000 with 24 and 100 jobs at once; pg-boss batches of 100, 1,000 and 5,000 with 1, 2 and 4 workers; awa
50, 200 and 1,000 workers with 1 and 2 claimers; absurd concurrency 10, 100 and 1,000; dbos polling every 0.01, 0.1 and
1 s; arq 10, 100, 1,000 jobs; dramatiq 2 to 64 threads; celery's pools solo, threads and prefork; River 100, 2,000 and
5,000 workers with cooldowns of 100, 2 and 1 ms; Millhand 100, 1,000 and 4,000 workers."""
