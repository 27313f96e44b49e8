"""The statement that replaces the args of waiting jobs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from millhand.core.job import JobId
from millhand.db.query import Query
from millhand.engine.store.job_insert import seconds_for


class NewArgs(msgspec.Struct, frozen=True):
    """The JSON texts of a job's args: as they were read, and as they shall be."""

    id: JobId
    old: str
    new: str


def job_update_args_many(many: Sequence[NewArgs]) -> Query[list[JobId]]:
    """Replace the args of those jobs that wait and still have the old args, and return their ids."""
    params = {
        "ids": [one.id for one in many],
        "new_args": [one.new for one in many],
        "old_args": [one.old for one in many],
    }
    seconds = seconds_for(sum(len(one.old) + len(one.new) for one in many))
    return Query("job_update_args_many", params, lambda rows: [JobId(row[0]) for row in rows], seconds)
