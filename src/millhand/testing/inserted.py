"""
Asserts which jobs were inserted, in a test's own transaction or in the whole database.

Source: River v0.51.2, rivertest `RequireInserted, RequireManyInserted, RequireNotInserted`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import msgspec

from millhand.args import encode_args, kind_of
from millhand.client import Client
from millhand.errors import ConfigError
from millhand.job import JobRow
from millhand.store.job_list import LIMIT_MAX, JobFilters
from millhand.sync_client import SyncClient
from millhand.worker import JobFunction

# How many jobs are shown of those that there are instead.
NUM_SHOWN = 5

# What can be expected of a row: its columns, but for those of a past.
COLUMNS = frozenset(
    {"args", "max_attempts", "metadata", "priority", "queue", "scheduled_at", "state", "tags", "unique_key"}
)


async def require_inserted(
    client: Client | SyncClient, args: object, /, *, tx: object | None = None, **columns: object
) -> JobRow:
    """
    Return the one job that is there of a kind.

    `args` is a kind, an args class or a function that was made a worker; or args, and then the job must have these.
    `columns` are what the row must have beside: `queue="mail"`, `priority=1`, `tags=["a"]`.

    Raises: AssertionError if there are none or several, or if the one is another; ConfigError for no column.
    """
    kind, expected = _expected(args, columns)
    found = await _inserted(client, kind, tx)
    if len(found) != 1:
        raise AssertionError(f"one job of kind {kind!r} must be inserted, got {_summary(found)}")
    if differences := _differences(found[0], expected):
        raise AssertionError(f"job {found[0].id} of kind {kind!r} must have {'; '.join(differences)}")
    return found[0]


async def require_many_inserted(
    client: Client | SyncClient, *expected: object, tx: object | None = None
) -> Sequence[JobRow]:
    """
    Return all jobs of the kinds that are named, which must be these, in this order, and no others.

    Each is what `require_inserted` takes as `args`.
    Raises: AssertionError.
    """
    wanted = [_expected(one, {}) for one in expected]
    kinds = sorted({kind for kind, _ in wanted})
    found = await _inserted(client, kinds, tx)
    if [job.kind for job in found] != [kind for kind, _ in wanted]:
        raise AssertionError(
            f"jobs of kinds {[kind for kind, _ in wanted]!r} must be inserted in this order, got {_summary(found)}"
        )
    for job, (kind, columns) in zip(found, wanted, strict=True):
        if differences := _differences(job, columns):
            raise AssertionError(f"job {job.id} of kind {kind!r} must have {'; '.join(differences)}")
    return found


async def require_not_inserted(
    client: Client | SyncClient, args: object, /, *, tx: object | None = None, **columns: object
) -> None:
    """
    Return if no job is there of a kind, or none with these args and columns.

    Raises: AssertionError if there is one; ConfigError for no column.
    """
    kind, expected = _expected(args, columns)
    found = [job for job in await _inserted(client, kind, tx) if not _differences(job, expected)]
    if found:
        raise AssertionError(f"no such job of kind {kind!r} must be inserted, got {_summary(found)}")


def _expected(args: object, columns: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    if unknown := sorted(columns.keys() - COLUMNS):
        raise ConfigError(
            f"what is expected of a job must be among {', '.join(sorted(COLUMNS))}, got {unknown[0]!r}"
        )
    if isinstance(args, str):
        return args, dict(columns)
    if isinstance(args, type | JobFunction):
        return args.kind if isinstance(args, JobFunction) else kind_of(args), dict(columns)
    return kind_of(args), {"args": json.loads(encode_args(args)), **columns}


async def _inserted(
    client: Client | SyncClient, kinds: str | Sequence[str], tx: object | None
) -> Sequence[JobRow]:
    filters = JobFilters(kinds=[kinds] if isinstance(kinds, str) else kinds)
    control = client.jobs._control if isinstance(client, SyncClient) else client.jobs  # noqa: SLF001 - the same
    return (await control.list(filters, limit=LIMIT_MAX, tx=tx)).jobs


def _differences(job: JobRow, expected: Mapping[str, object]) -> list[str]:
    return [
        f"{name} {value!r}, got {found!r}"
        for name, value in expected.items()
        if (found := getattr(job, name)) != (tuple(value) if name == "tags" else value)  # type: ignore[arg-type]
    ]


def _summary(jobs: Sequence[JobRow]) -> str:
    """Name the first jobs of many: whoever reads this wants to know what it was instead."""
    if not jobs:
        return "none"
    listed = ", ".join(
        f"{job.kind!r} {msgspec.json.encode(job.args).decode():.100}" for job in jobs[:NUM_SHOWN]
    )
    return f"{len(jobs)}: {listed}{', …' if len(jobs) > NUM_SHOWN else ''}"
