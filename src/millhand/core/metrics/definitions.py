"""Every metric that Millhand exposes: its name, type, labels and meaning."""

from __future__ import annotations

import enum

import msgspec

# The upper bounds of the histograms' buckets, in seconds. One more bucket has no bound.
BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
)  # fmt: skip


class MetricType(enum.StrEnum):
    """How a metric's value changes: only up, up and down, or as counts of durations."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(msgspec.Struct, frozen=True):
    """One metric. The name of a counter ends in `_total`, and every other name in its unit, if it has one."""

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"millhand_{name}", MetricType.COUNTER, help, labels)


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"millhand_{name}", MetricType.GAUGE, help, labels)


def _histogram(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"millhand_{name}", MetricType.HISTOGRAM, help, labels)


# Of one client, which is one process of a worker.
INFO = _gauge("info", "always 1; the labels describe the client", "client_id", "version", "python")
JOBS_FINISHED = _counter(
    "jobs_finished_total", "attempts whose outcome was written", "queue", "kind", "outcome"
)
JOB_ERRORS = _counter("job_errors_total", "failed attempts by the class of their error", "kind", "error_type")
JOB_COMPLETED_AT = _gauge(
    "job_completed_timestamp_seconds", "when an attempt of the kind last completed", "kind"
)
JOB_QUEUE_WAIT = _histogram(
    "job_queue_wait_seconds", "the time from when a job was due until its attempt began", "queue"
)
JOB_RUN = _histogram("job_run_seconds", "the duration of attempts", "kind")
JOB_COMPLETE = _histogram(
    "job_complete_seconds", "the time from the end of an attempt until its outcome was written"
)
JOBS_INSERTED = _counter("jobs_inserted_total", "jobs that this client inserted", "queue", "kind")
JOBS_SKIPPED = _counter(
    "jobs_skipped_total", "inserts that returned an earlier job, because the job is unique", "queue", "kind"
)
INSERT = _histogram("insert_seconds", "the duration of the statement that inserts jobs")
JOBS_FETCHED = _counter("jobs_fetched_total", "jobs that this client fetched", "queue")
FETCH = _histogram("fetch_seconds", "the duration of fetches", "queue")
JOBS_RUNNING = _gauge("jobs_running", "attempts that run now", "queue")
SLOTS = _gauge("slots", "how many attempts may run at once", "queue")
JOBS_STUCK = _gauge("jobs_stuck", "attempts that still run although their timeout has passed", "queue")
THREADS_RUNNING = _gauge("threads_running", "plain functions that run in a thread or wait for one")
COMPLETIONS_PENDING = _gauge("completions_pending", "outcomes that wait to be written")
STATEMENTS_RUNNING = _gauge(
    "statements_running", "Millhand's own statements that run or wait for a connection of the pool"
)
POOL_SIZE = _gauge(
    "pool_size", "how many connections Millhand's own pool may have; absent for a pool of the application"
)
DATABASE_UP = _gauge("database_up", "1 if the database answers, 0 during an outage")
LISTENER_UP = _gauge("listener_up", "1 if notifications arrive, 0 while the listener's connection is lost")
DATABASE_OUTAGES = _counter("database_outages_total", "outages of the database")
LEADER = _gauge("leader", "1 if this client holds the leader role", "leader_role")
JOBS_RESCUED = _counter("jobs_rescued_total", "jobs that this client rescued, by the service", "service")
CLIENTS_DECLARED_DEAD = _counter("clients_declared_dead_total", "clients that this client declared dead")
PASS = _histogram("pass_seconds", "the duration of the passes of services", "service")
PASS_FAILURES = _counter("pass_failures_total", "passes of services that failed", "service")
PERIODIC_INSERTED_AT = _gauge(
    "periodic_inserted_timestamp_seconds",
    "when this client last inserted a run of a periodic job",
    "periodic_job_id",
)
CLOCK_OFFSET = _gauge("clock_offset_seconds", "how far this machine's clock is ahead of the database's")

CLIENT_METRICS = (
    INFO,
    JOBS_FINISHED,
    JOB_ERRORS,
    JOB_COMPLETED_AT,
    JOB_QUEUE_WAIT,
    JOB_RUN,
    JOB_COMPLETE,
    JOBS_INSERTED,
    JOBS_SKIPPED,
    INSERT,
    JOBS_FETCHED,
    FETCH,
    JOBS_RUNNING,
    SLOTS,
    JOBS_STUCK,
    THREADS_RUNNING,
    COMPLETIONS_PENDING,
    STATEMENTS_RUNNING,
    POOL_SIZE,
    DATABASE_UP,
    LISTENER_UP,
    DATABASE_OUTAGES,
    LEADER,
    JOBS_RESCUED,
    CLIENTS_DECLARED_DEAD,
    PASS,
    PASS_FAILURES,
    PERIODIC_INSERTED_AT,
    CLOCK_OFFSET,
)

# Of a worker process.
EVENT_LOOP_LAG = _gauge(
    "event_loop_lag_seconds", "the longest time in the last minute by which the event loop was late"
)

PROCESS_METRICS = (EVENT_LOOP_LAG,)

# Of the database, read by the leader of role `periodic`.
QUEUE_JOBS = _gauge(
    "queue_jobs", "unfinished jobs; 10,001 stands for any number above 10,000", "queue", "state"
)
QUEUE_OLDEST = _gauge(
    "queue_oldest_available_seconds", "for how long the oldest available job has been due", "queue"
)
QUEUE_PAUSED = _gauge("queue_paused", "1 if the queue is paused", "queue")
QUEUE_UNWORKED = _gauge(
    "queue_unworked_jobs",
    "due jobs of a kind that no client of the queue works, among the first 200 due jobs of the queue",
    "queue",
    "kind",
)
CLIENTS = _gauge(
    "clients", "clients of the last day; an unregistered one has no language", "language", "state"
)
TABLE_ROWS = _gauge("table_rows", "rows, as PostgreSQL estimates them", "table", "liveness")
TABLE_BYTES = _gauge("table_bytes", "size on disk, without indexes and with them", "table", "part")
INDEX_BYTES = _gauge("index_bytes", "size on disk of each index of river_job", "index")
TABLE_VACUUMED_AT = _gauge("table_vacuumed_timestamp_seconds", "when a vacuum last finished", "table")
OLDEST_TRANSACTION = _gauge(
    "oldest_transaction_seconds",
    "how long the oldest transaction has been open; absent if the role may not see all sessions",
)
ORPHAN_OBJECTS = _gauge("orphan_objects", "objects without a row, in the last finished run", "bucket")
ORPHAN_BYTES = _gauge("orphan_bytes", "bytes of objects without a row, in the last finished run", "bucket")
ORPHAN_REMOVED = _gauge("orphan_removed", "objects and rows that the last finished run removed", "bucket")
ORPHAN_ALERTS = _gauge("orphan_alerts", "alerts of the last finished run", "bucket")
ORPHAN_FINISHED_AT = _gauge("orphan_finished_timestamp_seconds", "when the last finished run ended", "bucket")
ORPHAN_COMPLETED_AT = _gauge(
    "orphan_completed_timestamp_seconds",
    "when the last completed run ended; 0 if none of the last 1,000 runs completed",
    "bucket",
)

FLEET_METRICS = (
    QUEUE_JOBS,
    QUEUE_OLDEST,
    QUEUE_PAUSED,
    QUEUE_UNWORKED,
    CLIENTS,
    TABLE_ROWS,
    TABLE_BYTES,
    INDEX_BYTES,
    TABLE_VACUUMED_AT,
    OLDEST_TRANSACTION,
    ORPHAN_OBJECTS,
    ORPHAN_BYTES,
    ORPHAN_REMOVED,
    ORPHAN_ALERTS,
    ORPHAN_FINISHED_AT,
    ORPHAN_COMPLETED_AT,
)
METRICS = CLIENT_METRICS + PROCESS_METRICS + FLEET_METRICS
