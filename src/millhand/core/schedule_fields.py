"""A schedule as single values: the fields that a command or a form changes, and the texts that people read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from millhand.core.args.codec import RawArgs
from millhand.core.insert_opts import InsertOpts
from millhand.core.number_text import duration
from millhand.core.schedule import JobSchedule, ScheduleRow, encode_schedule

_SHARED = ("timezone", "catch_up", "overlap", "jitter")
_OPTS = ("queue", "priority", "max_attempts")


def changed_schedule(id: str, found: JobSchedule | None, given: Mapping[str, Any]) -> JobSchedule:
    """
    Return the schedule with the given values; those that are missing stay.

    The names are those of `JobSchedule`, `kind`, `args` as JSON text, `queue`, `priority` and `max_attempts`. A schedule
    that is not found must have a `kind`; `cron` and `interval` are not given together.

    Raises: ConfigError or InvalidJob if a value is invalid.
    """
    values = {name: given[name] for name in _SHARED if name in given}
    if "cron" in given or "interval" in given:
        values |= {"cron": given.get("cron"), "interval": given.get("interval")}
    old = found.args if found is not None and isinstance(found.args, RawArgs) else None
    kind: str = given["kind"] if old is None else given.get("kind", old.kind)
    values["args"] = RawArgs(kind, given.get("args", "{}" if old is None else old.encoded))
    opts = {name: given[name] for name in _OPTS if name in given}
    if found is None:
        return JobSchedule(id=id, opts=InsertOpts(**opts), **values)
    values["opts"] = dataclasses.replace(found.opts or InsertOpts(), **opts)
    return dataclasses.replace(found, **values)


def is_as_declared(row: ScheduleRow) -> bool:
    """Return whether a schedule is as the code of a client declared it last."""
    return row.declared is not None and encode_schedule(row.declared) == encode_schedule(row.schedule)


def when_text(schedule: JobSchedule) -> str:
    """Return when a schedule is due: `every 6 h`, `0 3 * * * Europe/Berlin`."""
    if schedule.interval is not None:
        return f"every {duration(schedule.interval)}"
    return f"{schedule.cron} {schedule.timezone}"
