"""
Assertions of inserted jobs, in a test's transaction or in the whole database.

Source: River v0.51.2, rivertest `RequireInserted, RequireManyInserted, RequireNotInserted`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

from millhand.client import Client
from millhand.core.args.codec import encode_args, kind_of
from millhand.core.args.secret_fields import decrypt_args, secret_field_names
from millhand.core.errors import ConfigError
from millhand.core.insert_opts import INSERT_COLUMNS
from millhand.core.job import JobRow
from millhand.core.worker import JobFunction
from millhand.engine.control import JobControl
from millhand.engine.store.job_list import LIMIT_MAX, JobFilters
from millhand.sync_client import SyncClient
from millhand.testing.job_diff import (
    NUM_SHOWN,
    ExpectedJob,
    diff_job,
    format_jobs,
    format_nearest,
    format_sequence_diff,
)

if TYPE_CHECKING:
    from millhand.core.tx_types import AnyTx

# The columns that a test can expect values of: those that an insert decides.
COLUMNS = frozenset({*INSERT_COLUMNS, "unique_key"} - {"created_at", "kind"})


async def require_inserted(
    client: Client | SyncClient, args: object, /, *, tx: AnyTx | None = None, **columns: object
) -> JobRow:
    """
    Return the one job that matches. Other jobs of its kind may exist.

    Args:
        args: The kind: as a text, an args class, or a worker function with plain parameters. Or an args value, which
            the job must have.
        tx: A transaction of the test.
        columns: Values of further columns: `queue="mail"`, `priority=1`, `tags=["a"]`.

    Raises:
        AssertionError: If no job matches, or several do. Lists the differences, the nearest job first.
        ConfigError: If a name is no column.
    """
    wanted = _wanted(args, columns)
    of_kind = await _inserted(client, [wanted.kind], tx, [args])
    found = _matching(of_kind, wanted)
    if len(found) == 1:
        return found[0]
    if found:
        raise AssertionError(f"one job {wanted} must be inserted, got {len(found):,}:\n{format_jobs(found)}")
    if of_kind:
        raise AssertionError(
            f"one job {wanted} must be inserted, got {len(of_kind):,} of that kind that are not so, nearest first:\n"
            f"{format_nearest(of_kind, wanted.columns)}"
        )
    raise AssertionError(
        f"one job {wanted} must be inserted, got none of that kind{await _others(client, tx)}"
    )


async def require_many_inserted(
    client: Client | SyncClient, *expected: object, tx: AnyTx | None = None
) -> Sequence[JobRow]:
    """
    Return all jobs of the expected kinds. They must be the expected ones, in this order, and no others.

    Args:
        expected: For each job, what `require_inserted` takes as `args`.
        tx: A transaction of the test.

    Raises:
        AssertionError: If they differ. Shows both sequences line by line.
    """
    wanted = [_wanted(one, {}) for one in expected]
    found = await _inserted(client, sorted({one.kind for one in wanted}), tx, expected)
    if [job.kind for job in found] != [one.kind for one in wanted] or any(
        diff_job(job, one.columns) for job, one in zip(found, wanted, strict=True)
    ):
        raise AssertionError(
            f"{len(wanted):,} jobs must be inserted, in this order, got {len(found):,} of their kinds; - is missing, + is "
            f"not wanted, ! is different:\n{format_sequence_diff(found, wanted)}"
        )
    return found


async def require_not_inserted(
    client: Client | SyncClient, args: object, /, *, tx: AnyTx | None = None, **columns: object
) -> None:
    """
    Return if no job matches. The parameters are those of `require_inserted`.

    Raises: AssertionError if a job matches; ConfigError if a name is no column.
    """
    wanted = _wanted(args, columns)
    if found := _matching(await _inserted(client, [wanted.kind], tx, [args]), wanted):
        raise AssertionError(f"no job {wanted} must be inserted, got {len(found):,}:\n{format_jobs(found)}")


def _wanted(args: object, columns: Mapping[str, object]) -> ExpectedJob:
    if unknown := sorted(columns.keys() - COLUMNS):
        raise ConfigError(
            f"what is expected of a job must be among {', '.join(sorted(COLUMNS))}, got {unknown[0]!r}"
        )
    if isinstance(args, str):
        return ExpectedJob(args, columns)
    if isinstance(args, type | JobFunction):
        return ExpectedJob(args.kind if isinstance(args, JobFunction) else kind_of(args), columns)
    return ExpectedJob(kind_of(args), {"args": json.loads(encode_args(args)), **columns})


def _matching(jobs: Sequence[JobRow], wanted: ExpectedJob) -> list[JobRow]:
    return [job for job in jobs if not diff_job(job, wanted.columns)]


async def _inserted(
    client: Client | SyncClient, kinds: Sequence[str], tx: AnyTx | None, expected: Sequence[object]
) -> Sequence[JobRow]:
    """Return the jobs of some kinds; secret fields of the expected args are plain in them, if the client has the keys."""
    filters = JobFilters(kinds=kinds)
    page = await _control(client).list(filters, limit=LIMIT_MAX, tx=tx)
    jobs = list(page.jobs)
    while page.cursor is not None:
        page = await _control(client).list(filters, after=page.cursor, limit=LIMIT_MAX, tx=tx)
        jobs += page.jobs
    keys, values = client.config.secret_keys, [one for one in expected if not isinstance(one, type | str)]
    names = {
        kind_of(one): secret_field_names(cast(Any, type(one)))
        for one in values
        if not isinstance(one, JobFunction)
    }
    return [
        replace(job, encoded_args=decrypt_args(job.encoded_args, names[job.kind], job.kind, keys))
        if keys is not None and names.get(job.kind)
        else job
        for job in jobs
    ]


def _control(client: Client | SyncClient) -> JobControl:
    return client.jobs.control if isinstance(client, SyncClient) else client.jobs


async def _others(client: Client | SyncClient, tx: AnyTx | None) -> str:
    """Return the end of an error text that lists the other kinds, since the kind or the database may be wrong."""
    page = await _control(client).list(limit=LIMIT_MAX, tx=tx)
    counts = Counter(job.kind for job in page.jobs)
    if not counts:
        return ", and no others"
    return (
        f"; there are {', '.join(f'{count:,} of {kind!r}' for kind, count in counts.most_common(NUM_SHOWN))}"
    )
