"""The rekey of waiting jobs, on rows in every state."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from factory import get_job, insert_job, qualified
from millhand.core.args.secret_fields import SECRET_KEY, decrypt_args, encrypt_args
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.job import JobId, JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.secret_rekey import Rekeyed, Unreadable, rekey_jobs
from millhand.engine.store.job_args import NewArgs, job_update_args_many

OLD = SecretKeys({"old": b"o" * 32})
NEW = SecretKeys({"new": b"n" * 32, "old": b"o" * 32})
NAMES = {"charge": ("card",), "old_charge": ("card",)}
WAITING = [JobState.AVAILABLE, JobState.PENDING, JobState.RETRYABLE, JobState.SCHEDULED]
PLAIN = '{"order": 1, "card": "4111", "more": [1.50, "ü"]}'


def older(kind: str = "charge") -> str:
    return encrypt_args(PLAIN, ["card"], kind, OLD)


def key_of(job: JobRow) -> object:
    card = job.args["card"]
    return card if isinstance(card, str) else card[SECRET_KEY]["key"]


async def test_rekey_changes_exactly_the_waiting_jobs_with_older_keys(schema_driver: AsyncpgDriver) -> None:
    """Older and plain values get the newest key, all else of a row stays, and running jobs are counted only."""
    pool = schema_driver.pool
    jobs = {
        state: [
            await insert_job(pool, state, kind=kind, args=args)
            for kind in NAMES
            for args in (older(kind), PLAIN)
        ]
        for state in JobState
    }
    newest = await insert_job(pool, kind="charge", args=encrypt_args(PLAIN, ["card"], "charge", NEW))
    other = await insert_job(pool, kind="other", args=older())

    done = await rekey_jobs(pool, NAMES, NEW, page_size=3)
    again = await rekey_jobs(pool, NAMES, NEW)

    assert done == Rekeyed(num_rekeyed=16, num_left=0, num_running=4, unreadable=())
    assert again == Rekeyed(num_rekeyed=0, num_left=0, num_running=4, unreadable=())
    for state, before in jobs.items():
        for job in before:
            after = await get_job(pool, job.id)
            assert key_of(after) == ("new" if state in WAITING else key_of(job))
            plain = decrypt_args(after.encoded_args, ["card"], job.kind, NEW)
            assert json.loads(plain) == json.loads(PLAIN)
            assert (after.state, after.scheduled_at, after.metadata) == (
                job.state,
                job.scheduled_at,
                job.metadata,
            )
    assert [(await get_job(pool, job.id)).encoded_args for job in (newest, other)] == [
        newest.encoded_args,
        other.encoded_args,
    ]


async def test_stopped_rekey_is_continued_by_the_next(schema_driver: AsyncpgDriver) -> None:
    """After a step that was the last of a stopped call, the next call changes the rest, and no job twice."""
    pool = schema_driver.pool
    jobs = [await insert_job(pool, kind="charge", args=older()) for _ in range(5)]
    changes = [
        NewArgs(job.id, job.encoded_args, encrypt_args(PLAIN, ["card"], "charge", NEW)) for job in jobs[:2]
    ]
    await pool.run(job_update_args_many(changes))
    first = [(await get_job(pool, job.id)).encoded_args for job in jobs[:2]]

    done = await rekey_jobs(pool, NAMES, NEW)

    assert done.num_rekeyed == 3
    assert [(await get_job(pool, job.id)).encoded_args for job in jobs[:2]] == first
    assert {key_of(await get_job(pool, job.id)) for job in jobs} == {"new"}


async def test_jobs_that_do_not_decrypt_are_counted_by_kind(schema_driver: AsyncpgDriver) -> None:
    """They stay as they are, and stop neither the step nor the other jobs."""
    pool = schema_driver.pool
    lost = SecretKeys({"lost": b"l" * 32})
    bad = [
        await insert_job(pool, kind="charge", args=encrypt_args(PLAIN, ["card"], "charge", lost))
        for _ in range(2)
    ]
    good = await insert_job(pool, kind="charge", args=older())

    done = await rekey_jobs(pool, NAMES, NEW, page_size=2)

    message = (
        "secret field 'card' of kind 'charge' must be encrypted with a known key, got key 'lost'; known: 'new', 'old'; add "
        "the key to SecretKeys"
    )
    unreadable = (Unreadable(kind="charge", message=message, example_id=bad[0].id, num_jobs=2),)
    assert done == Rekeyed(num_rekeyed=1, unreadable=unreadable)
    assert key_of(await get_job(pool, good.id)) == "new"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE {schema}river_job SET args = '{{}}' WHERE id = {id}",
        "UPDATE {schema}river_job SET state = 'running' WHERE id = {id}",
    ],
)
async def test_job_that_changed_meanwhile_is_left(schema_driver: AsyncpgDriver, change: str) -> None:
    """Args that another program wrote between the read and the write are not overwritten, nor those of a fetched job."""
    pool = schema_driver.pool
    job = await insert_job(pool, kind="charge", args=older())
    await pool.fetch(change.format(schema=f"{schema_driver.schema}.", id=job.id))
    before = await get_job(pool, job.id)

    ids = await pool.run(job_update_args_many([NewArgs(job.id, job.encoded_args, PLAIN)]))

    assert ids == []
    assert (await get_job(pool, job.id)).encoded_args == before.encoded_args


async def test_locked_job_is_not_awaited(schema_driver: AsyncpgDriver, postgres_url: str) -> None:
    """A rekey waits for no transaction of another program: it reports the job as left, and the next call changes it."""
    pool = schema_driver.pool
    jobs = [await insert_job(pool, kind="charge", args=older()) for _ in range(2)]
    connection = await asyncpg.connect(postgres_url)
    try:
        async with connection.transaction():
            await connection.execute(
                f"SELECT FROM {schema_driver.schema}.river_job WHERE id = {jobs[0].id} FOR UPDATE"
            )
            done = await rekey_jobs(pool, NAMES, NEW)
    finally:
        await connection.close()

    assert done == Rekeyed(num_rekeyed=1, num_left=1)
    assert (await rekey_jobs(pool, NAMES, NEW)) == Rekeyed(num_rekeyed=1)


class Moving:
    """A pool that moves a running job to `retryable` after the n-th read of that state, as the end of an attempt may."""

    def __init__(self, pool: Executor, id: JobId, number: int) -> None:
        self._id = id
        self._left = number
        self._pool = pool

    async def run(self, query: Query[Any]) -> Any:
        return await self._run(self._pool, query)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        async with self._pool.begin() as tx:
            yield _MovingTransaction(self, tx)

    async def _run(self, executor: Executor, query: Query[Any]) -> Any:
        result = await executor.run(query)
        self._left -= ("state", "retryable") in query.fragments
        if self._left == 0:
            self._left = -1
            move = "UPDATE /* schema */river_job SET state = 'retryable' WHERE id = $1"
            await self._pool.fetch(qualified(move, self._pool), [self._id])
        return result


class _MovingTransaction:
    def __init__(self, moving: Moving, tx: Executor) -> None:
        self._moving = moving
        self._tx = tx

    async def run(self, query: Query[Any]) -> Any:
        return await self._moving._run(self._tx, query)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)


@pytest.mark.parametrize(
    ("number", "expected", "key"),
    [
        (1, Rekeyed(num_rekeyed=1), "new"),  # in the pass: the count finds it, and another pass encrypts it
        (2, Rekeyed(num_running=1), "old"),  # in the count, whose snapshot has it running
    ],
)
async def test_job_that_waits_again_during_a_rekey_is_not_missed(
    schema_driver: AsyncpgDriver, number: int, expected: Rekeyed, key: str
) -> None:
    """The states are read one after the other, but no job with an older key moves past all of the reads."""
    pool = schema_driver.pool
    job = await insert_job(pool, JobState.RUNNING, kind="charge", args=older())

    done = await rekey_jobs(Moving(pool, job.id, number), NAMES, NEW)  # type: ignore[arg-type]  # what a rekey uses

    assert done == expected
    assert key_of(await get_job(pool, job.id)) == key
