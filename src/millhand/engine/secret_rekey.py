"""
Encrypts the secret args of waiting jobs again, with the newest key.

Rule 1: a step reads and writes at most `PAGE_SIZE` jobs, in a transaction of its own. A stop loses nothing: the next call
        continues, because jobs that have the newest key are left alone.
Rule 2: jobs move between states meanwhile, and programs with an older configuration insert more. So a count in one
        snapshot follows each pass, and passes follow each other until it finds nothing to do.
Rule 3: the row of a running job is not changed. It is counted, because it may wait again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from millhand.core.args.secret_fields import reencrypt_args
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.errors import InvalidSecret
from millhand.core.job import JobId, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job_args import NewArgs, job_update_args_many
from millhand.engine.store.job_list import BEFORE_ALL, UnfinishedJob, job_list_unfinished

PAGE_SIZE = 500
# More passes than jobs change states in the meantime; a fleet that still inserts with an old key would never end.
NUM_PASSES_MAX = 10
# In the order in which jobs pass through them, so that one pass meets nearly every job.
_WAITING = (JobState.PENDING, JobState.SCHEDULED, JobState.RETRYABLE, JobState.AVAILABLE)
_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"


class Unreadable(msgspec.Struct, kw_only=True):
    """Jobs of one kind whose secret fields do not decrypt, by the first one's error."""

    kind: str
    message: str
    example_id: JobId
    num_jobs: int = msgspec.field(default=0, name="jobs")


class Rekeyed(msgspec.Struct, kw_only=True):
    """
    What a rekey did.

    Attributes:
        num_rekeyed: How many jobs have the newest key now that had another one, or none.
        num_left: How many waiting jobs still have another key, because other transactions held them in each pass.
        num_running: How many running jobs have another key.
        unreadable: The jobs that do not decrypt.
    """

    num_rekeyed: int = msgspec.field(default=0, name="rekeyed")
    num_left: int = msgspec.field(default=0, name="left")
    num_running: int = msgspec.field(default=0, name="running")
    unreadable: tuple[Unreadable, ...] = ()


async def rekey_jobs(
    pool: Executor,
    names_by_kind: Mapping[str, Sequence[str]],
    keys: SecretKeys,
    *,
    page_size: int = PAGE_SIZE,
) -> Rekeyed:
    """Encrypt the fields `names_by_kind` of all waiting jobs with the newest key. Safe to run beside workers and itself."""
    rekey = _Rekey(pool, names_by_kind, keys, page_size)
    found, num_rekeyed = Rekeyed(), 0
    for _ in range(NUM_PASSES_MAX):
        num_rekeyed += await rekey.run_pass()
        found = await rekey.count()
        if not found.num_left:
            break
    return msgspec.structs.replace(found, num_rekeyed=num_rekeyed)


class _Rekey:
    def __init__(
        self, pool: Executor, names_by_kind: Mapping[str, Sequence[str]], keys: SecretKeys, page_size: int
    ) -> None:
        self._keys = keys
        self._kinds = sorted(names_by_kind)
        self._names_by_kind = names_by_kind
        self._page_size = page_size
        self._pool = pool
        self._unreadable: dict[str, Unreadable] = {}

    async def run_pass(self) -> int:
        """Encrypt the waiting jobs that have another key than the newest, and return how many were."""
        num_rekeyed = 0
        for state in _WAITING:
            async for changes in self._due(self._pool, state):
                ids = await self._pool.run(job_update_args_many(changes))
                num_rekeyed += len(ids)
        return num_rekeyed

    async def count(self) -> Rekeyed:
        """Return how many jobs have another key than the newest. A job that changes its state is counted once, too."""
        self._unreadable.clear()
        async with self._pool.begin() as tx:
            await tx.execute_script(_SNAPSHOT)
            nums = {state: await self._count(tx, state) for state in (*_WAITING, JobState.RUNNING)}
        return Rekeyed(
            num_left=sum(nums[state] for state in _WAITING),
            num_running=nums[JobState.RUNNING],
            unreadable=tuple(sorted(self._unreadable.values(), key=lambda one: one.kind)),
        )

    async def _count(self, tx: Executor, state: JobState) -> int:
        return sum([len(changes) async for changes in self._due(tx, state)])

    async def _due(self, executor: Executor, state: JobState) -> AsyncIterator[list[NewArgs]]:
        """Yield, page by page, the changes of the jobs in a state that have another key than the newest."""
        after = BEFORE_ALL
        while True:
            query = job_list_unfinished(state, after=after, kinds=self._kinds, limit=self._page_size)
            page = await executor.run(query)
            if changes := [change for job in page if (change := self._change(job)) is not None]:
                yield changes
            if len(page) < self._page_size:
                return
            after = page[-1]

    def _change(self, job: UnfinishedJob) -> NewArgs | None:
        if job.encoded_args is None:
            return None
        try:
            changed = reencrypt_args(job.encoded_args, self._names_by_kind[job.kind], job.kind, self._keys)
        except InvalidSecret as error:
            found = self._unreadable.setdefault(
                job.kind, Unreadable(kind=job.kind, message=str(error), example_id=job.id)
            )
            found.num_jobs += 1
            return None
        return None if changed is None else NewArgs(job.id, job.encoded_args, changed)
