"""
The concurrency setting that River UI's form writes into a queue's metadata, read as a limit.

    {"concurrency": {"global_limit": 3, "local_limit": 0, "partition": {"by_args": ["tenant_id"], "by_kind": null}}}

Rule 1: 0 is for no limit, and a `by_kind` that is not null is for a partition by kind, also an empty list.
Rule 2: the form replaces `at_once`, `at_once_per_client`, `by_args` and `by_kind`, and leaves the other values of a limit.
        If nothing is limited then, it is as if the form was cleared. An empty object is a cleared form.
Rule 3: it was set at run time. What is set later, by code, command or form, replaces it.

Source: riverui, src/components/QueueDetail.tsx.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import msgspec

from millhand.core.errors import ConfigError
from millhand.core.job import Json
from millhand.core.limit import Limit, QueueLimit
from millhand.limits.store import ListedLimit

# When a limit changed that has no row yet.
_NEVER = datetime(1, 1, 1, tzinfo=UTC)


class _Partition(msgspec.Struct):
    by_args: list[str] | None = None
    by_kind: bool | list[str] | None = None


class _Form(msgspec.Struct):
    global_limit: int | None = None
    local_limit: int | None = None
    partition: _Partition | None = None


def has_news(listed: ListedLimit) -> bool:
    """Return whether the form says something else than when the row was last changed."""
    return bool(listed.form != listed.obeyed_form)


def limit_in_force(listed: ListedLimit) -> Limit | None:
    """Return the limit with what the form says now; None for no limit. Raises: ConfigError for a form that is invalid."""
    limit = None if listed.row is None else listed.row.limit
    if not has_news(listed):
        return limit
    described = None if listed.form is None else limit_of_form(listed.form, limit)
    if described is None:  # the form was cleared, or limits nothing
        return None if listed.row is None else listed.row.declared
    return described


def limit_of_form(form: Json, others: Limit | None = None) -> Limit | None:
    """
    Return the limit that a form describes, with the other values of a limit; None if it limits nothing.

    Raises: ConfigError.
    """
    try:
        parsed = msgspec.convert(form, _Form)
    except msgspec.ValidationError as error:
        raise ConfigError(f"concurrency must have the form of River UI's, got {error}") from None
    keeps_more = others is not None and bool(others.total or others.rate or others.in_order)
    if not (parsed.global_limit or parsed.local_limit or keeps_more):
        return None
    partition = parsed.partition or _Partition()
    if partition.by_args == []:
        raise ConfigError("by_args must name fields of the args, got none; write the names into the form")
    if isinstance(partition.by_kind, list) and partition.by_kind:
        raise ConfigError(f"by_kind must be for all kinds, got {partition.by_kind!r}")
    values: dict[str, Any] = {
        "at_once": parsed.global_limit or None,
        "at_once_per_client": parsed.local_limit or None,
        "by_args": partition.by_args or (),
        "by_kind": isinstance(partition.by_kind, list) or bool(partition.by_kind),
    }
    return Limit(**values) if others is None else dataclasses.replace(others, **values)


def unwritten(listed: ListedLimit, limit: Limit | None) -> QueueLimit | None:
    """Return a limit that no worker has written yet."""
    if limit is None:
        return None
    row = listed.row
    return QueueLimit(
        queue=listed.queue,
        limit=limit,
        declared=None if row is None else row.declared,
        num_running=0 if row is None else row.num_running,
        updated_at=_NEVER if row is None else row.updated_at,
    )
