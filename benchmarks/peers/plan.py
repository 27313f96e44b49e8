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


@dataclass(frozen=True)
class Variant:
    """One system with one set of settings. `jobs` is the number of jobs of a drain, some seconds of work."""

    system: str
    kind: str
    jobs: int
    settings: dict[str, Any] = field(default_factory=dict)
    what: tuple[str, ...] = ("drain",)
    is_on_redis: bool = False

    @property
    def name(self) -> str:
        return f"{self.system}, {self.kind}"


# Inserts, pickup and idle cost are measured with default settings, except for systems whose throughput settings also
# affect latency.
ALL = ("insert", "drain", "pickup", "idle")
EVENT_LOOP = {"uvloop": True}

VARIANTS = (
    Variant("millhand", DEFAULTS, 50_000, {}, (*ALL, "pickup at more rates", "imports")),
    Variant("millhand", TUNED, 50_000, {"workers": 4_000}, ("drain", "pickup")),
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
IN_SCENES = (("millhand", TUNED), ("river", TUNED), ("river_rust", TUNED), ("pgqueuer", TUNED))

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

RATES = (50.0, 500.0)
MORE_RATES = (10.0, 200.0, 1_000.0)
PICKUP_SECONDS = 4.0
# A worker is not at rest in its first minute, and an idle backend may hold back its
# statistics for ten seconds. PostgreSQL, pgstat.c.
IDLE_REST_SECONDS = 75.0
NUM_INSERTS = 1_000

# The packages whose versions are shown.
PACKAGES = {
    "millhand": ("Python", "millhand", "asyncpg"),
    "baseline": ("Python", "asyncpg"),
    "river": ("Go", "river", "pgx/v5"),
    "river_rust": ("Rust", "riverqueue", "sqlx"),
    "pgqueuer": ("Python", "pgqueuer", "asyncpg", "uvloop"),
    "chancy": ("Python", "chancy", "psycopg", "uvloop"),
    "oban": ("Python", "oban", "psycopg", "uvloop"),
    "procrastinate": ("Python", "procrastinate", "psycopg", "uvloop"),
    "celery": ("Python", "celery", "kombu", "redis"),
    "dramatiq": ("Python", "dramatiq", "redis"),
    "arq": ("Python", "arq", "redis", "uvloop"),
}
SOURCES = {
    "millhand": "[How to size](../explanation/performance.md#how-to-size): 1,000 to 4,000 workers for a queue of tiny jobs",
    "baseline": "the best known settings; fetches of 1,000",
    "river": "*tuned*: its own benchmark, `river bench`; *tuned further*: the fastest found; `MaxWorkers` "
    "has no default, its first page shows 100",
    "river_rust": "as River in Go; its documentation says that the cooldown limits throughput, without numbers",
    "pgqueuer": "`pgq run --batch-size`, 10 by default; its command line runs on uvloop",
    "chancy": "`Queue`: concurrency is the number of cores by default, polled every 5 s; `eager_polling` polls again as "
    "soon as a job has completed",
    "oban": "a queue's limit, 10 in its guide; its command line runs on uvloop",
    "procrastinate": "`--concurrency`, 1 by default, 30 in its page on concurrency, with a pool of connections to match",
    "celery": "its guide to optimizing: a larger prefetch multiplier for short tasks; one process, which needs no gossip",
    "dramatiq": "`--processes`, by default as many as cores, and `--threads`, 8 each by default",
    "arq": "`Worker`: `max_jobs`, 10 by default, and `poll_delay`, 0.5 s by default",
}

PROBES = """\
Settings we tried: pgqueuer batches of 50, 300, 1,000, 2,000 and 5,000; chancy concurrency 300, 3,000, 10,000;
oban limits 100, 1,000, 3,000; procrastinate concurrency and pool 10/10, 30/20, 100/10; arq 10, 100, 1,000 jobs; dramatiq
2 to 64 threads; celery's pools solo, threads and prefork; River 100, 2,000 and 5,000 workers with cooldowns of 100, 2
and 1 ms; Millhand 100, 1,000 and 4,000 workers."""
