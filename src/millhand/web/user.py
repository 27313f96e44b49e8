"""Users of the web page: what each may see and do."""

from __future__ import annotations

import enum

import msgspec


class Role(enum.IntEnum):
    """What a user may do. Each role includes the roles before it."""

    VIEWER = 1  # sees everything that no rule hides
    OPERATOR = 2  # retries, cancels and snoozes jobs; pauses and resumes queues
    ADMIN = 3  # inserts and deletes jobs

    @property
    def label(self) -> str:
        return self.name.lower()


class User(msgspec.Struct, frozen=True, kw_only=True):
    """
    A user of the web page.

    `queues` and `kinds` limit what the user sees and changes; None is no limit.
    """

    name: str
    role: Role = Role.VIEWER
    queues: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None

    def sees(self, *, queue: str, kind: str) -> bool:
        """Return whether jobs of this queue and kind are within the user's limits."""
        return (self.queues is None or queue in self.queues) and (self.kinds is None or kind in self.kinds)
