"""The statement that finds who holds a lock for which a statement of Millhand waits."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from millhand.db.query import Query


class LockHolder(msgspec.Struct, frozen=True):
    """
    A session for which others wait.

    `seconds` is how long its transaction has been open, and None for a role that may not see it.
    """

    pid: int
    application_name: str | None
    seconds: float | None

    def __str__(self) -> str:
        name = f" of {self.application_name}" if self.application_name else ""
        age = "" if self.seconds is None else f" in a transaction of {self.seconds:.0f} s"
        return f"pid {self.pid}{name}{age}"


def lock_list_holders(names: Collection[str]) -> Query[list[LockHolder]]:
    """Return the sessions for which statements with one of the names wait."""
    headers = [f"-- name: {name}" for name in names]
    return Query("lock_list_holders", {"headers": headers}, lambda rows: [LockHolder(*row) for row in rows])
