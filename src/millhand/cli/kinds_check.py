"""
Whether a configuration could work what is queued.

Rule 1: nothing is written, and all pages are of one instant: a job that changes its state meanwhile is neither missed
        nor counted twice.
Rule 2: memory does not grow with the number of jobs: pages are let go, and findings are counted by kind and message.
Rule 3: nothing of a job's args is told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence

import msgspec

from millhand.args.schema import redacted_decode_error
from millhand.cli.worked import WorkedArgs
from millhand.driver.protocol import Executor
from millhand.job import FINALIZED_STATES, JobId, JobState, Json
from millhand.settings.decode import guess
from millhand.store.job_kinds import BEFORE_ALL, UnfinishedJob, before_queue, job_list_unfinished

PAGE = 500
STATES = tuple(state for state in JobState if state not in FINALIZED_STATES)
# So many sorts of what is wrong with the args of one kind are told apart; a message may name a field of the sender's.
FAULTS_MAX = 20
MORE_FAULTS = "refused in further ways"

_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"


class Finding(msgspec.Struct, kw_only=True):
    """What is wrong with some jobs of a kind: `problem` is `no worker` or `args`, `example_id` the first of them."""

    kind: str
    problem: str
    message: str
    example_id: JobId
    num_jobs: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was read and what was found; `is_cut` says that a limit was met before the end."""

    findings: Sequence[Finding]
    is_cut: bool
    num_jobs: int
    num_kinds: int

    @property
    def num_bad(self) -> int:
        """How many jobs could not be worked."""
        return sum(finding.num_jobs for finding in self.findings)

    def to_json(self) -> dict[str, Json]:
        """Return the report as JSON shows it."""
        return {
            "jobs": self.num_jobs,
            "kinds": self.num_kinds,
            "is_cut": self.is_cut,
            "findings": [
                {
                    "kind": finding.kind,
                    "problem": finding.problem,
                    "jobs": finding.num_jobs,
                    "example_id": finding.example_id,
                    "message": finding.message,
                }
                for finding in self.findings
            ],
        }


async def check_queued(
    executor: Executor,
    workers: Sequence[WorkedArgs],
    *,
    elsewhere: Collection[str] = (),
    limit: int | None = None,
    queues: Collection[str] = (),
) -> Report:
    """
    Read all jobs that are not finished, or `limit` of each state, and report those that `workers` could not work.

    Kinds `elsewhere` are left out, and so are all queues but `queues`, if any are named.
    """
    desk = _Desk(workers, elsewhere)
    is_cut = False
    async with executor.begin() as snapshot:
        await snapshot.execute_script(_SNAPSHOT)
        for state in STATES:
            left = limit
            async for job in _queued(snapshot, state, desk.known_kinds, sorted(queues)):
                if left == 0:
                    is_cut = True
                    break
                if desk.look_at(job) and left is not None:
                    left -= 1
    return Report(
        findings=desk.findings, is_cut=is_cut, num_jobs=desk.num_jobs, num_kinds=len(desk.seen_kinds)
    )


async def _queued(
    executor: Executor, state: JobState, kinds: Sequence[str], queues: Sequence[str]
) -> AsyncIterator[UnfinishedJob]:
    for queue in queues or (None,):
        after = BEFORE_ALL if queue is None else before_queue(queue)
        while True:
            page = await executor.run(job_list_unfinished(state, after=after, kinds=kinds, limit=PAGE))
            for job in page:
                if queue is None or job.queue == queue:
                    yield job
            if len(page) < PAGE or queue not in (None, page[-1].queue):
                break
            after = page[-1]


class _Desk:
    """Looks at one job after the other, and keeps count of what is wrong."""

    def __init__(self, workers: Sequence[WorkedArgs], elsewhere: Collection[str]) -> None:
        self._by_kind = {kind: worker for worker in workers for kind in worker.kinds}
        self._elsewhere = frozenset(elsewhere)
        self._found: dict[str, dict[str, Finding]] = {}
        self.known_kinds = sorted(self._by_kind)
        self.num_jobs = 0
        self.seen_kinds: set[str] = set()

    @property
    def findings(self) -> list[Finding]:
        """What was found, by kind, the most frequent first."""
        return [
            finding
            for _, by_message in sorted(self._found.items())
            for finding in sorted(by_message.values(), key=lambda one: (-one.num_jobs, one.message))
        ]

    def look_at(self, job: UnfinishedJob) -> bool:
        """Take note of a job; False if it is none of our business."""
        if job.kind in self._elsewhere:
            return False
        self.num_jobs += 1
        self.seen_kinds.add(job.kind)
        worker = self._by_kind.get(job.kind)
        if worker is None:
            self._note(job, "no worker", f"no worker is registered{guess(job.kind, self.known_kinds)}")
        elif (fault := _fault(worker, job.encoded_args or "")) is not None:
            self._note(job, "args", fault)
        return True

    def _note(self, job: UnfinishedJob, problem: str, message: str) -> None:
        found = self._found.setdefault(job.kind, {})
        if message not in found and len(found) >= FAULTS_MAX:
            message = MORE_FAULTS
        if message not in found:
            found[message] = Finding(kind=job.kind, problem=problem, message=message, example_id=job.id)
        found[message].num_jobs += 1


def _fault(worker: WorkedArgs, encoded_args: str) -> str | None:
    try:
        worker.decode(encoded_args)
    except Exception as error:  # noqa: BLE001 - whatever a user's class raises: an attempt would fail of it
        return redacted_decode_error(error, worker.args_type)
    return None
