"""
Restores of removed objects from the page.

The page has no keys of the store. So it inserts a job, which a worker with the settings of the cleanup works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from millhand.core.args.codec import RawArgs
from millhand.core.client_row import ClientState
from millhand.core.config import built_in_queue
from millhand.core.errors import MillhandError, NotFound
from millhand.core.insert_opts import InsertOpts, insert_params_many
from millhand.core.job import JobId, JobState
from millhand.core.unique import REQUIRED_STATES, UniqueOpts
from millhand.engine.fleet import Fleet, load_fleet
from millhand.engine.store.job_insert import job_insert_many
from millhand.orphans.report.ledger_report import LedgerRestore, ledger_get_shape, restore_list, store_list
from millhand.shells.web.change import Changed, ChangeRequest, record
from millhand.shells.web.form import ID_MAX, whole_number
from millhand.shells.web.hiding import Hiding
from millhand.shells.web.page import PageRequest

# Of the job `millhand.jobs.OrphanRestore`, which is not imported here: it brings the cleanup with it. A test compares.
KIND = "orphan_restore"
MAX_ATTEMPTS = 5
STATES = REQUIRED_STATES | {JobState.RETRYABLE}
SELECTORS = ("key", "prefix", "run")
NUM_RESTORES = 10
KEY_MAX = 2_048  # S3 takes 1,024 bytes
NO_CLIENT = "no client works kind orphan_restore; start a worker with the settings [storage] and [orphans]"


class OrphanRestoreLine(msgspec.Struct, frozen=True, kw_only=True):
    """
    A job that restores removed objects: all of a run, all below a prefix, or one key.

    The counts are None until it has ended. `num_failed` is of keys that could not be restored, at most 100.
    """

    job_id: JobId
    state: JobState
    created_at: datetime
    what: str
    restored: int | None = None
    rows: int | None = None
    num_failed: int | None = None
    error: str | None = None


class _Output(msgspec.Struct, frozen=True):
    restored: int | None = None
    rows: int | None = None
    failed: list[msgspec.Raw] | None = None


class _Args(msgspec.Struct, frozen=True):
    store: str = ""
    run: int | None = None
    prefix: str | None = None
    key: str | None = None


async def load_restores(request: PageRequest, store: str) -> tuple[OrphanRestoreLine, ...]:
    """Return the newest restores of a store, newest first."""
    found = await request.database.run(restore_list(KIND, limit=NUM_RESTORES))
    lines = (restore_line(one, store, request.hide) for one in found)
    return tuple(line for line in lines if line is not None)


def restore_line(found: LedgerRestore, store: str, hide: Hiding) -> OrphanRestoreLine | None:
    """Return the line of a job, None if it is of another store or cannot be read."""
    output, args = found.output and hide.json("output", found.output), hide.json("args", found.args)
    try:
        asked = msgspec.json.decode(args, type=_Args)
        result = msgspec.json.decode(output, type=_Output) if output else _Output()
    except msgspec.MsgspecError:
        return None
    chosen = [f"{name} {value}" for name in SELECTORS if (value := getattr(asked, name)) is not None]
    if asked.store != store or len(chosen) != 1:
        return None
    return OrphanRestoreLine(
        job_id=found.id,
        state=JobState(found.state),
        created_at=found.created_at,
        what=chosen[0],
        restored=result.restored,
        rows=result.rows,
        num_failed=None if result.failed is None else len(result.failed),
        error=found.error if hide.is_empty else None,
    )


async def load_restore_queue(request: PageRequest | ChangeRequest) -> str | None:
    """Return the queue in which a client works restores now; None if there is none."""
    return restore_queue(await load_fleet(request.database, request.now))


def restore_queue(fleet: Fleet) -> str | None:
    """Return the queue of the built-in jobs of a client that works restores; None if there is none."""
    queues = [
        built_in_queue(client.queues)
        for client in fleet.clients
        if KIND in client.kinds and client.queues and client.state is ClientState.WORKING
    ]
    return min(queues, key=lambda queue: (queue != "default", queue), default=None)


async def restore_orphans(request: ChangeRequest) -> Changed:
    """
    Insert a job that restores what a `run` removed, all below a `prefix`, or one `key`, of a `store`.

    Raises: NotFound for a store without runs; ValueError; MillhandError if no client can work it, or such a job is there.
    """
    selector, value = selected(request.form)
    store = request.field("store")
    stores = [] if request.user.is_limited else await _stores(request)
    if store not in stores:
        raise NotFound("store", store)
    queue = await load_restore_queue(request)
    if queue is None:
        raise MillhandError(NO_CLIENT)
    args = {"store": store, selector: value}
    return await _insert(request, selector, msgspec.json.encode(args).decode(), queue)


def selected(form: Mapping[str, Sequence[str]]) -> tuple[str, str | int]:
    """Return what a form selects, and its value as it was sent: blanks are part of a key. Raises: ValueError."""
    chosen = {name: form[name][-1] for name in SELECTORS if form.get(name) and form[name][-1]}
    if len(chosen) != 1:
        raise ValueError(
            f"exactly one of key, prefix and run must be given, got {' and '.join(chosen) or 'none'}"
        )
    [(selector, value)] = chosen.items()
    if len(value) > KEY_MAX or "\0" in value:
        raise ValueError(
            f"{selector} must have up to {KEY_MAX:,} characters and no null, got {len(value):,} characters"
        )
    return selector, whole_number("run", value, maximum=ID_MAX) if selector == "run" else value


async def _stores(request: ChangeRequest) -> list[str]:
    if not await request.database.has(ledger_get_shape):
        return []
    return [one.bucket for one in await request.database.run(store_list())]


async def _insert(request: ChangeRequest, selector: str, args: str, queue: str) -> Changed:
    opts = InsertOpts(
        max_attempts=MAX_ATTEMPTS, queue=queue, unique=UniqueOpts(by_args=True, by_state=STATES)
    )
    [params] = insert_params_many([(RawArgs(KIND, args), opts)], now=request.now)
    async with request.database.driver.pool.begin() as tx:
        [result] = await tx.run(job_insert_many([params], notify_queues=[queue]))
        id = result.job.id
        if result.unique_skipped_as_duplicate:
            raise MillhandError(f"restore must not be requested twice, got job {id} {result.job.state}")
        done = Changed(action="restore", subject=f"job {id}", num_jobs=1, ids=(id,), path=f"/jobs/{id}")
        await record(tx, request, done, {"of": selector, "queue": queue})
    return done
