"""
Works one job, the whole way but for queue and fetch, in a transaction of the test's or on a database of its own.

Source: River v0.51.2, rivertest/worker.go `Worker.Work`.
"""

from __future__ import annotations

from collections.abc import Mapping

from millhand.args.codec import JobArgs
from millhand.client import Client
from millhand.insert_opts import InsertOpts
from millhand.job import JobRow, Json
from millhand.step import CURSOR_KEY, STEP_KEY
from millhand.store.job_testing import job_begin
from millhand.testing.attempt import Worked, work_row
from millhand.testing.client_override import ensure_override


async def work(
    client: Client,
    args: JobArgs,
    opts: InsertOpts | None = None,
    *,
    tx: object | None = None,
    after_step: str | None = None,
    cursors: Mapping[str, Json] | None = None,
) -> Worked:
    """
    Insert a job and work it at once, as the client would: hooks, middleware, decoding, timeout, error handlers, retry.

    With `tx` all of it happens in that transaction, and so does what the worker says by `job.client`; a test that rolls
    it back leaves nothing, and the client need not be started. What the worker raises is in the result, and is not
    raised. A scheduled job is worked as well.

    `after_step` and `cursors` are progress that an earlier attempt is to have made, of a worker that has steps: the last
    step that was done, and how far others had come.

    Raises: what an insert raises; AssertionError if the job is a duplicate of one that is there.
    Source: for the last two, River v0.51.2, rivertest `ResumableStepAfter, ResumableStepAtCursor`.
    """
    async with ensure_override(client, tx):
        inserted = await client.insert(args, opts)
        if inserted.unique_skipped_as_duplicate:
            raise AssertionError(
                f"job must be a new one to be worked, got a duplicate of job {inserted.job.id}"
            )
        return await _work(client, inserted.job, _progress(after_step, cursors))


async def work_again(client: Client, job: JobRow, *, tx: object | None = None) -> Worked:
    """
    Work a job that is there, whatever state it is in; its next attempt, after `work` for example.

    Raises: AssertionError if the job is gone when its attempt has ended.
    """
    async with ensure_override(client, tx):
        return await _work(client, job, {})


async def _work(client: Client, job: JobRow, metadata: Mapping[str, Json]) -> Worked:
    begin = job_begin(job.id, client_id=client.id, metadata=metadata, now=client.config.clock.now())
    return await work_row(client, await client._driver.pool.run(begin))  # noqa: SLF001 - as the client itself


def _progress(after_step: str | None, cursors: Mapping[str, Json] | None) -> dict[str, Json]:
    progress: dict[str, Json] = {}
    if after_step is not None:
        progress[STEP_KEY] = after_step
    if cursors is not None:
        progress[CURSOR_KEY] = dict(cursors)
    return progress
