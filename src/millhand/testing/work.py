"""
Inserts and works one job as a client does, without queue and fetch.

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
    Insert a job and work it at once, with hooks, middleware, decoding, timeout, error handlers and retry.

    An error of the worker is returned in the result and not raised. A scheduled job is worked at once, too.

    Args:
        client: It need not be started if `tx` is given, and must not work jobs itself.
        args: The args of the job.
        opts: Options of the insert.
        tx: A transaction of the test, for the attempt and for the worker's use of `job.client`. A rollback then leaves
            nothing behind.
        after_step: The last step that an earlier attempt completed, for a worker with resumable steps.
        cursors: The cursors of steps that an earlier attempt left unfinished.

    Raises:
        AssertionError: If the job is a duplicate of an existing one.
        Exception: What an insert raises.

    Source: River v0.51.2, rivertest `ResumableStepAfter, ResumableStepAtCursor`, for the last two parameters.
    """
    with await ensure_override(client, tx):
        inserted = await client.insert(args, opts)
        if inserted.unique_skipped_as_duplicate:
            raise AssertionError(
                f"job must be a new one to be worked, got a duplicate of job {inserted.job.id}"
            )
        return await _work(client, inserted.job, _progress(after_step, cursors))


async def work_again(client: Client, job: JobRow, *, tx: object | None = None) -> Worked:
    """
    Work an existing job in any state, for example the next attempt after `work`.

    The parameters are those of `work`. Raises: AssertionError if the job no longer exists after the attempt.
    """
    with await ensure_override(client, tx):
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
