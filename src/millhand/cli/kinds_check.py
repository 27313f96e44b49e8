"""
Check whether a configuration can work the queued jobs.

Rule 1: the check writes nothing and reads one snapshot, so that no job is missed or counted twice.
Rule 2: memory does not grow with the number of jobs: findings are counted by kind and message.
Rule 3: a report never contains args.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence

import msgspec

from millhand.cli.worked_kinds import WorkedArgs
from millhand.core.args.decode_errors import redacted_decode_error
from millhand.core.job import FINALIZED_STATES, JobId, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job_list import BEFORE_ALL, UnfinishedJob, before_queue, job_list_unfinished
from millhand.shells.settings.decode import guess

PAGE_SIZE = 500
STATES = tuple(state for state in JobState if state not in FINALIZED_STATES)
# Distinct messages of one kind. A message may contain a field name that a sender chose, so there may be many more.
MESSAGES_MAX = 20
MORE_MESSAGES = "further errors"

_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"


class Finding(msgspec.Struct, kw_only=True):
    """One problem of jobs of one kind: `problem` is `no worker` or `args`, `example_id` the first job with it."""

    kind: str
    problem: str
    num_jobs: int = msgspec.field(default=0, name="jobs")
    example_id: JobId
    message: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check, as the command prints it in JSON. `is_cut` means that the limit left out jobs."""

    num_jobs: int = msgspec.field(name="jobs")
    num_kinds: int = msgspec.field(name="kinds")
    is_cut: bool
    findings: Sequence[Finding]


async def check_queued(
    executor: Executor,
    workers: Sequence[WorkedArgs],
    *,
    elsewhere: Collection[str] = (),
    limit: int | None = None,
    queues: Collection[str] = (),
) -> Report:
    """
    Read all unfinished jobs, or `limit` of each state, and report those that `workers` cannot work.

    Skip the kinds in `elsewhere`, which other programs work. Read only `queues`, unless it is empty.
    """
    checker = _Checker(workers, elsewhere)
    is_cut = False
    async with executor.begin() as snapshot:
        await snapshot.execute_script(_SNAPSHOT)
        for state in STATES:
            num_left = limit
            async for job in _queued(snapshot, state, checker.known_kinds, sorted(queues)):
                if num_left == 0:
                    is_cut = True
                    break
                if checker.check(job) and num_left is not None:
                    num_left -= 1
    return Report(
        findings=checker.findings, is_cut=is_cut, num_jobs=checker.num_jobs, num_kinds=len(checker.seen_kinds)
    )


async def _queued(
    executor: Executor, state: JobState, kinds: Sequence[str], queues: Sequence[str]
) -> AsyncIterator[UnfinishedJob]:
    for queue in queues or (None,):
        after = BEFORE_ALL if queue is None else before_queue(queue)
        while True:
            page = await executor.run(job_list_unfinished(state, after=after, kinds=kinds, limit=PAGE_SIZE))
            for job in page:
                if queue is None or job.queue == queue:
                    yield job
            if len(page) < PAGE_SIZE or queue not in (None, page[-1].queue):
                break
            after = page[-1]


class _Checker:
    """Checks one job after the other, and counts the jobs of each problem."""

    def __init__(self, workers: Sequence[WorkedArgs], elsewhere: Collection[str]) -> None:
        self._by_kind = {kind: worker for worker in workers for kind in worker.kinds}
        self._elsewhere = frozenset(elsewhere)
        self._found: dict[str, dict[str, Finding]] = {}
        self.known_kinds = sorted(self._by_kind)
        self.num_jobs = 0
        self.seen_kinds: set[str] = set()

    @property
    def findings(self) -> list[Finding]:
        """The findings by kind, the most frequent first."""
        return [
            finding
            for _, by_message in sorted(self._found.items())
            for finding in sorted(by_message.values(), key=lambda one: (-one.num_jobs, one.message))
        ]

    def check(self, job: UnfinishedJob) -> bool:
        """Check a job; return False if its kind is worked elsewhere."""
        if job.kind in self._elsewhere:
            return False
        self.num_jobs += 1
        self.seen_kinds.add(job.kind)
        worker = self._by_kind.get(job.kind)
        if worker is None:
            self._record(job, "no worker", f"no worker is registered{guess(job.kind, self.known_kinds)}")
        elif (message := _decode_error(worker, job.kind, job.encoded_args or "")) is not None:
            self._record(job, "args", message)
        return True

    def _record(self, job: UnfinishedJob, problem: str, message: str) -> None:
        found = self._found.setdefault(job.kind, {})
        if message not in found and len(found) >= MESSAGES_MAX:
            message = MORE_MESSAGES
        if message not in found:
            found[message] = Finding(kind=job.kind, problem=problem, message=message, example_id=job.id)
        found[message].num_jobs += 1


def _decode_error(worker: WorkedArgs, kind: str, encoded_args: str) -> str | None:
    try:
        worker.decode[kind](encoded_args)
    except Exception as error:  # noqa: BLE001 - an attempt would fail at any error
        return redacted_decode_error(error, worker.args_type)
    return None
