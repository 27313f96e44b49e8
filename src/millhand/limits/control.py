"""
Control of limits: `client.limits`.

The methods work on the database alone. No client needs to run; running Millhand clients are informed by NOTIFY.
`tx` is a connection of yours: the method is then part of its transaction, and until that ends no other call can change the
same limit.
"""

from __future__ import annotations

import builtins
import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from millhand.core.errors import ConfigError, NotFound
from millhand.core.insert_opts import queue_name_error
from millhand.core.job import Json
from millhand.core.limit import COUNT_MAX, PER_MAX, Limit, PartitionStatus, QueueLimit, Rate
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.db.tx_control import TxControl
from millhand.limits.form import limit_in_force, unwritten
from millhand.limits.store import (
    PARTITIONS_DEFAULT,
    SEARCHED_MAX,
    ListedLimit,
    limit_list,
    limit_lock,
    limit_partition_hold,
    limit_partition_list,
    limit_partition_list_halted,
    limit_partition_release,
    limit_partition_resume,
    limit_partition_set,
    limit_remove,
    limit_set,
)

if TYPE_CHECKING:
    from millhand.core.tx_types import AnyTx

WEIGHT_MAX = 1_000
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class LimitControl(TxControl):
    """
    Reads and changes the limits of queues, and their partitions, for all clients; `client.limits`.

    A limit that is set here holds until the limit in the code of a client changes, or until `reset`.

    A `key` names a partition by the values that make it: `"acme"` or `["acme"]`, and `["push", "acme"]` for a limit by kind
    and one field. The `key` of a `PartitionStatus` is accepted too.
    """

    async def get(self, queue: str, *, tx: AnyTx | None = None) -> QueueLimit:
        """Return the limit of a queue. Raises: NotFound."""
        return await _get(self._executor(tx), queue)

    async def list(self, *, tx: AnyTx | None = None) -> Sequence[QueueLimit]:
        """Return the limits of all queues, by name."""
        found = [in_force(one) for one in await self._executor(tx).run(limit_list())]
        return [limit for limit in found if limit is not None]

    async def set(
        self,
        queue: str,
        *,
        at_once: int | UnsetType | None = UNSET,
        at_once_per_client: int | UnsetType | None = UNSET,
        total: int | UnsetType | None = UNSET,
        by_args: Sequence[str] | UnsetType = UNSET,
        by_kind: bool | UnsetType = UNSET,
        rate: Rate | UnsetType | None = UNSET,
        in_order: bool | UnsetType = UNSET,
        halt: bool | UnsetType = UNSET,
        shared: bool | UnsetType = UNSET,
        note: str | UnsetType | None = UNSET,
        tx: AnyTx | None = None,
    ) -> QueueLimit:
        """
        Change values of a queue's limit now, in all clients, and return the limit; a queue without one gets one.

        A value that is left out stays, and None removes a bound. `millhand.Limit` explains the values.

        Raises: ConfigError if the limit would be invalid, and then nothing is changed.
        """
        named: dict[str, Any] = {
            "at_once": at_once,
            "at_once_per_client": at_once_per_client,
            "total": total,
            "by_args": by_args,
            "by_kind": by_kind,
            "rate": rate,
            "in_order": in_order,
            "halt": halt,
            "shared": shared,
            "note": note,
        }
        values = {name: value for name, value in named.items() if value is not UNSET}
        async with self._begin(tx) as executor:
            return await set_limit(executor, queue, values)

    async def reset(self, queue: str, *, tx: AnyTx | None = None) -> QueueLimit:
        """
        Return a queue's limit to what the code of a client declared last.

        Raises: NotFound; ConfigError if no code declared it.
        """
        async with self._begin(tx) as executor:
            return await reset_limit(executor, queue)

    async def remove(self, queue: str, *, tx: AnyTx | None = None) -> None:
        """
        Remove the limit of a queue; its waiting jobs become available. The next start of a client may declare it again.

        What River UI's form says of the queue is removed too. Raises: NotFound.
        """
        await self._executor(tx).run(limit_remove(queue))

    async def partitions(
        self, queue: str, *, limit: int = PARTITIONS_DEFAULT, tx: AnyTx | None = None
    ) -> Sequence[PartitionStatus]:
        """
        Return up to `limit` partitions of a queue's limit, those with most running and waiting jobs first.

        Idle ones without settings of their own are left out. Waiting jobs are counted up to 10,000; 10,001 are more.

        Raises: NotFound for a queue without a limit; ConfigError for a `limit` that is not between 1 and 1,000.
        """
        _check_limit(limit)
        executor = self._executor(tx)
        await _get(executor, queue)
        return await executor.run(limit_partition_list(queue, limit=limit))

    async def halted(
        self, queue: str | None = None, *, limit: int = PARTITIONS_DEFAULT, tx: AnyTx | None = None
    ) -> Sequence[PartitionStatus]:
        """
        Return up to `limit` halted partitions, of one queue's limit or of all, those that were halted first.

        Raises: NotFound for a queue without a limit; ConfigError for a `limit` that is not between 1 and 1,000.
        """
        _check_limit(limit)
        executor = self._executor(tx)
        if queue is not None:
            await _get(executor, queue)
        return await executor.run(limit_partition_list_halted(queue, limit=limit))

    async def set_partition(
        self,
        queue: str,
        key: str | Sequence[Json],
        *,
        at_once: int | UnsetType | None = UNSET,
        weight: int | UnsetType = UNSET,
        tx: AnyTx | None = None,
    ) -> PartitionStatus:
        """
        Change the settings of one partition, and return it.

        Args:
            queue: The queue of the limit.
            key: The values that make the partition.
            at_once: How many of its jobs run at once, in place of the limit's `at_once`; None is for that of the limit.
            weight: How many of its jobs start in each turn, 1 to 1,000; 1 by default.

        Raises: NotFound for a queue without a limit; ConfigError for an invalid key or value.
        """
        if at_once is UNSET and weight is UNSET:
            raise ConfigError("set_partition must change something, got neither at_once nor weight")
        _check_number("at_once", None if at_once is UNSET else at_once, COUNT_MAX)
        _check_number("weight", None if weight is UNSET else weight, WEIGHT_MAX)
        executor = self._executor(tx)
        limit = await _get(executor, queue)
        if limit.limit.in_order and at_once not in (UNSET, None, 1):
            raise ConfigError(f"at_once must be 1 with in_order, got {at_once!r}")
        checked = checked_key(limit, key)
        number = None if weight is UNSET else weight
        return await executor.run(limit_partition_set(queue, checked, at_once=at_once, weight=number))

    async def hold(
        self, queue: str, key: str | Sequence[Json], duration: timedelta, *, tx: AnyTx | None = None
    ) -> PartitionStatus:
        """
        Start no job of one partition for a time, and return the partition. Running jobs continue. A halt stays as it is.

        A worker holds the partition of its own job with `JobSnooze(delay, hold_partition=True)`.

        Raises: NotFound for a queue without a limit; ConfigError for an invalid key, or a duration that is not positive.
        """
        if not isinstance(duration, timedelta) or not timedelta(0) < duration <= PER_MAX:
            raise ConfigError(f"duration must be a positive timedelta of at most 100 years, got {duration!r}")
        executor = self._executor(tx)
        checked = checked_key(await _get(executor, queue), key)
        return await executor.run(limit_partition_hold(queue, checked, duration))

    async def release(
        self, queue: str, key: str | Sequence[Json], *, tx: AnyTx | None = None
    ) -> PartitionStatus:
        """
        End the hold of one partition, and return it. A halt stays: `resume` ends it.

        `key` may be of the limit before `by_args` or `by_kind` changed.

        Raises: NotFound for a queue without a limit, or a partition that had no job lately; ConfigError for an invalid key.
        """
        return await self._change_known(queue, key, limit_partition_release, tx)

    async def resume(
        self, queue: str, key: str | Sequence[Json], *, tx: AnyTx | None = None
    ) -> PartitionStatus:
        """
        End the halt of one partition, and return it: its next job starts, and the job that halted it is skipped.

        To run that job again first, retry it instead, which ends the halt too. `key` may be of the limit before `by_args`
        or `by_kind` changed.

        Raises: NotFound for a queue without a limit, or a partition that is not halted; ConfigError for an invalid key.
        """
        return await self._change_known(queue, key, limit_partition_resume, tx)

    async def _change_known(
        self,
        queue: str,
        key: str | Sequence[Json],
        change: Callable[[str, str | Sequence[Json]], Query[PartitionStatus]],
        tx: AnyTx | None,
    ) -> PartitionStatus:
        """Change a partition that has a row; after a change of `by_args` its key may have another number of values."""
        executor = self._executor(tx)
        limit = await _get(executor, queue)
        try:
            return await executor.run(change(queue, _digest_or_values(key)))
        except NotFound:
            checked_key(limit, key)
            raise


def checked_key(limit: QueueLimit, key: str | Sequence[Json]) -> str | builtins.list[Json]:
    """Return a partition's digest or its values. Raises: ConfigError if the limit has no such partitions."""
    values = _digest_or_values(key)
    if isinstance(values, str):
        return values
    names = [*(["kind"] if limit.limit.by_kind else []), *limit.limit.by_args]
    if len(values) == len(names):
        return values
    got = "none" if not values else json.dumps(values, ensure_ascii=False, default=str)
    if not names:
        raise ConfigError(f"key must be [] for the one partition of queue {limit.queue!r}, got {got}")
    noun = "value" if len(names) == 1 else "values"
    raise ConfigError(
        f"key must have {len(names)} {noun} for a partition of queue {limit.queue!r}, {', '.join(names)}, got {got}"
    )


def _digest_or_values(key: str | Sequence[Json]) -> str | builtins.list[Json]:
    """Return a partition's digest or its values; another text is one value, or the JSON array of them."""
    if not isinstance(key, str):
        return [*key]
    if _DIGEST.fullmatch(key):
        return key
    try:
        values = msgspec.json.decode(key) if key.startswith("[") else key
    except msgspec.DecodeError:
        values = key
    return values if isinstance(values, list) else [key]


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= SEARCHED_MAX:
        raise ConfigError(f"limit must be between 1 and {SEARCHED_MAX:,}, got {limit!r}")


def _check_number(name: str, number: object, most: int) -> None:
    if number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= most:
        raise ConfigError(f"{name} must be between 1 and {most:,}, got {number!r}")


async def _get(executor: Executor, queue: str) -> QueueLimit:
    for listed in await executor.run(limit_list(queue=queue)):
        limit = in_force(listed)
        if limit is not None:
            return limit
    raise NotFound("limit of queue", queue)


async def set_limit(tx: Executor, queue: str, values: Mapping[str, Any]) -> QueueLimit:
    """Change these values of a queue's limit within a transaction, as `LimitControl.set` says."""
    fault = queue_name_error(queue)
    if fault is not None:
        raise ConfigError(f"queue {fault}")
    listed = await lock_limit(tx, queue)
    found = in_force(listed)
    limit = Limit(**values) if found is None else dataclasses.replace(found.limit, **values)
    return await tx.run(limit_set(queue, limit, form=listed.form))


async def reset_limit(tx: Executor, queue: str) -> QueueLimit:
    """Return a queue's limit to what code declared, within a transaction, as `LimitControl.reset` says."""
    listed = await lock_limit(tx, queue)
    if listed.row is None:
        raise NotFound("limit of queue", queue)
    if listed.row.declared is None:
        raise ConfigError(
            f"limit of queue {queue!r} must be declared in code to be reset, got one that was only set at run time; "
            "remove it"
        )
    return await tx.run(limit_set(queue, listed.row.declared, form=listed.form))


async def lock_limit(executor: Executor, queue: str) -> ListedLimit:
    """Lock the limit of a queue, and return what the database says about it."""
    await executor.run(limit_lock(queue))
    found = await executor.run(limit_list(queue=queue))
    return found[0] if found else ListedLimit(queue=queue)


def in_force(listed: ListedLimit) -> QueueLimit | None:
    """Return the limit with what River UI's form says, if a worker will obey it."""
    try:
        return unwritten(listed, limit_in_force(listed))
    except ConfigError:
        return listed.row
