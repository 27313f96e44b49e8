"""
The numbers that one client counts: attempts, inserts, fetches, passes of services and outages.

They are plain numbers, added to where a batch was written, so no metrics library is on the path of a job.

Concurrency: belongs to one event loop; `collect` may be called by any thread. Nothing is locked: a reader takes copies, and
each copy is one operation of the interpreter. The buckets of a histogram may then be a job ahead of its total.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter

from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertParams, InsertResult
from millhand.core.job import JobState
from millhand.core.metrics import definitions
from millhand.core.metrics.points import Durations, Point, Points, number, numbers
from millhand.engine.attempt import Attempt

# The label of everything beyond the limit. Tables may name any number of queues and kinds, and a page must stay small.
OTHER = "_OTHER"
NAMES_MAX = 100

# Called by `map`, they run no instruction of Python.
_BUCKET = partial(bisect_left, definitions.BOUNDS)
_IS_SKIPPED = attrgetter("unique_skipped_as_duplicate")
_JOB = attrgetter("row.queue", "row.kind")
_LABELS = attrgetter("queue", "kind")
_QUEUE_WAIT_SECONDS = attrgetter("queue_wait_seconds")
_RUN_SECONDS = attrgetter("run_seconds")

# An application with many kinds must not take the label of the heartbeat, which an alert needs.
BUILT_IN_KINDS = ("heartbeat", "orphan_cleanup", "orphan_restore")

_OUTCOMES = {
    EventKind.JOB_CANCELLED: "cancelled",
    EventKind.JOB_COMPLETED: "completed",
    EventKind.JOB_FAILED: "errored",
    EventKind.JOB_INTERRUPTED: "interrupted",
    EventKind.JOB_SNOOZED: "snoozed",
}


class Histogram:
    """Counts durations by bucket, and their sum in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(definitions.BOUNDS) + 1)
        self.total = 0.0

    def add(self, durations: Sequence[float]) -> None:
        counts = self.counts
        for bucket, num in Counter(map(_BUCKET, durations)).items():  # counts in C
            counts[bucket] += num
        # Of two clocks, a duration may be below 0; the sum must not decrease.
        self.total += max(sum(durations), 0.0)


class Names:
    """The `reserved` names, and the first `NAMES_MAX` others that were seen; every later one is `OTHER`."""

    __slots__ = ("_num_max", "_seen")

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._seen: set[tuple[str, ...]] = {(name,) for name in reserved}
        self._num_max = len(self._seen) + NAMES_MAX

    def capped(self, *name: str) -> tuple[str, ...]:
        """Return the name, or `OTHER` in each of its places."""
        if name not in self._seen:
            if len(self._seen) >= self._num_max:
                return (OTHER,) * len(name)
            self._seen.add(name)
        return name


class ClientMetrics:
    """
    Counts for one client, from its creation on.

    `fleet` are the points that a leader read from the database. It replaces them as a whole, and removes them when it stops.
    `gauges` returns what is read at the moment of a collection, such as the running attempts; the client's engine sets it.
    """

    def __init__(self) -> None:
        self._complete = Histogram()
        self._completed_at: dict[tuple[str, ...], float] = {}
        self._errors: dict[tuple[str, ...], int] = defaultdict(int)
        self._error_names = Names()
        self._fetch: dict[tuple[str, ...], Histogram] = defaultdict(Histogram)
        self._fetched: dict[tuple[str, ...], int] = defaultdict(int)
        self._finished: dict[tuple[str, ...], int] = defaultdict(int)
        self._insert = Histogram()
        self._inserted: dict[tuple[str, ...], int] = defaultdict(int)
        self._kinds = Names(BUILT_IN_KINDS)
        self._pass: dict[tuple[str, ...], Histogram] = defaultdict(Histogram)
        self._pass_failures: dict[tuple[str, ...], int] = defaultdict(int)
        self._periodic_inserted_at: dict[tuple[str, ...], float] = {}
        self._queue_wait: dict[tuple[str, ...], Histogram] = defaultdict(Histogram)
        self._periodic_ids = Names()
        self._queues = Names()
        self._rescued: dict[tuple[str, ...], int] = defaultdict(int)
        self._run: dict[tuple[str, ...], Histogram] = defaultdict(Histogram)
        self._skipped: dict[tuple[str, ...], int] = defaultdict(int)
        self.collected_at = -math.inf
        self.fleet: Sequence[Points] = ()
        self.gauges: Callable[[], Sequence[Points]] = tuple
        self.num_declared_dead = 0

    # The path of every job.

    def add_completed(self, attempts: Sequence[Attempt], complete_seconds: Sequence[float]) -> None:
        """Add a batch of successes that was written. Without an instruction of Python for each, if all are of one kind."""
        now = time.time()
        for (queue, kind), group in by_job(attempts).items():
            self._add_attempts(queue, kind, "completed", group)
            self._completed_at[self._kinds.capped(kind)] = now
        self._complete.add(complete_seconds)

    def add_finished(self, attempt: Attempt, event: EventKind, state: JobState, seconds: float) -> None:
        """Add an attempt whose job was written as `state`; `seconds` is the time until then."""
        outcome = "discarded" if state is JobState.DISCARDED else _OUTCOMES[event]
        self._add_attempts(attempt.row.queue, attempt.row.kind, outcome, [attempt])
        if event is EventKind.JOB_COMPLETED:
            self._completed_at[self._kinds.capped(attempt.row.kind)] = time.time()
        self._complete.add([seconds])

    def add_fetched(self, queue: str, num_jobs: int, seconds: float) -> None:
        label = self._queues.capped(queue)
        self._fetched[label] += num_jobs
        self._fetch[label].add([seconds])

    def add_inserted(
        self, params: Sequence[InsertParams], results: Sequence[InsertResult], seconds: float
    ) -> None:
        """Add the jobs of an insert; those that another job's unique key prevented are skipped ones."""
        jobs = jobs_of(params)
        if any(map(_IS_SKIPPED, results)):  # seldom
            pairs = zip(params, results, strict=True)
            skipped = jobs_of(one for one, result in pairs if result.unique_skipped_as_duplicate)
            jobs.subtract(skipped)
            self._add(self._skipped, skipped)
        self.add_jobs(jobs, seconds)

    def add_jobs(self, jobs: Mapping[tuple[str, str], int], seconds: float) -> None:
        """Add inserted jobs, as their numbers by queue and kind."""
        self._add(self._inserted, jobs)
        self._insert.add([seconds])

    # Everything else is rare.

    def add_discarded(self, queue: str, kind: str) -> None:
        """Add a job that was discarded without an attempt that ended, as by a rescue."""
        self._finished[(*self._queues.capped(queue), *self._kinds.capped(kind), "discarded")] += 1

    def add_error(self, kind: str, error_type: str) -> None:
        self._errors[self._error_names.capped(kind, error_type)] += 1

    def add_pass(self, service: str, seconds: float, *, has_failed: bool) -> None:
        self._pass[service,].add([seconds])
        if has_failed:
            self._pass_failures[service,] += 1

    def add_periodic(self, periodic_job_id: str) -> None:
        self._periodic_inserted_at[self._periodic_ids.capped(periodic_job_id)] = time.time()

    def add_rescued(self, service: str, num_jobs: int) -> None:
        self._rescued[service,] += num_jobs

    def collect(self) -> list[Points]:
        """Return the points of this moment."""
        self.collected_at = time.monotonic()
        return [
            numbers(definitions.JOBS_FINISHED, self._finished),
            numbers(definitions.JOB_ERRORS, self._errors),
            numbers(definitions.JOB_COMPLETED_AT, self._completed_at),
            _durations(definitions.JOB_QUEUE_WAIT, self._queue_wait),
            _durations(definitions.JOB_RUN, self._run),
            _durations(definitions.JOB_COMPLETE, {(): self._complete}),
            numbers(definitions.JOBS_INSERTED, self._inserted),
            numbers(definitions.JOBS_SKIPPED, self._skipped),
            _durations(definitions.INSERT, {(): self._insert}),
            numbers(definitions.JOBS_FETCHED, self._fetched),
            _durations(definitions.FETCH, self._fetch),
            numbers(definitions.JOBS_RESCUED, self._rescued),
            number(definitions.CLIENTS_DECLARED_DEAD, self.num_declared_dead),
            _durations(definitions.PASS, self._pass),
            numbers(definitions.PASS_FAILURES, self._pass_failures),
            numbers(definitions.PERIODIC_INSERTED_AT, self._periodic_inserted_at),
            *self.gauges(),
            *self.fleet,
        ]

    def _add(self, counts: dict[tuple[str, ...], int], jobs: Mapping[tuple[str, str], int]) -> None:
        for (queue, kind), num_jobs in jobs.items():
            counts[self._queues.capped(queue) + self._kinds.capped(kind)] += num_jobs

    def _add_attempts(self, queue: str, kind: str, outcome: str, attempts: Sequence[Attempt]) -> None:
        queue_label, kind_label = self._queues.capped(queue), self._kinds.capped(kind)
        self._finished[(*queue_label, *kind_label, outcome)] += len(attempts)
        # Prometheus sees no increase in a series that begins above 0.
        self._finished[(*queue_label, *kind_label, "discarded")] += 0
        self._run[kind_label].add([*map(_RUN_SECONDS, attempts)])
        self._queue_wait[queue_label].add([*map(_QUEUE_WAIT_SECONDS, attempts)])


def by_job(attempts: Sequence[Attempt]) -> Mapping[tuple[str, str], Sequence[Attempt]]:
    """Return the attempts by queue and kind."""
    keys = [*map(_JOB, attempts)]
    if keys.count(keys[0]) == len(keys):
        return {keys[0]: attempts}
    groups: defaultdict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for key, attempt in zip(keys, attempts, strict=True):
        groups[key].append(attempt)
    return groups


def jobs_of(params: Iterable[InsertParams]) -> Counter[tuple[str, str]]:
    """Return the number of jobs by queue and kind."""
    return Counter(map(_LABELS, params))


def _durations(metric: definitions.Metric, histograms: Mapping[tuple[str, ...], Histogram]) -> Points:
    """Return the points of a histogram."""
    found = list(histograms.items())
    return Points(metric, [Point(labels, Durations(list(one.counts), one.total)) for labels, one in found])
