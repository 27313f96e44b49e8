"""
A change that a user makes on the page: one transaction with its audit entry.

Rule 1: the role is checked before the change runs, and the user's scope before anything is written.
Rule 2: an audit entry never has args, metadata or errors of a job, apart from the key of a partition.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

import msgspec

from millhand.core.job import JobId, Json
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Executor
from millhand.engine.store.audit import audit_get_shape, audit_insert
from millhand.shells.settings.web_user import Role, User
from millhand.shells.web.database import WebDatabase
from millhand.shells.web.hiding import Hiding

logger = logger_of(__name__)


class ChangeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a user asks to change.

    `form` has all values of each field. Times of a search are in `zone`. `wake_bulk` lets this process begin with a change
    of many jobs.
    """

    database: WebDatabase
    user: User
    hide: Hiding
    address: str
    now: datetime
    wake_bulk: Callable[[], Awaitable[None]]
    path: Mapping[str, Any] = {}
    form: Mapping[str, Sequence[str]] = {}
    zone: tzinfo = UTC

    def field(self, name: str) -> str:
        """Return the last value of a field, without blanks around it; an empty text if it is missing."""
        values = self.form.get(name, ())
        return values[-1].strip() if values else ""


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a change did.

    `num_jobs` and `ids` are of the jobs that it changed. `stopping` are those of them that are running: they were asked to
    stop. `skipped` has the reason for each job that it left. `path` is the page to show next; None is the page that the user
    came from.
    """

    action: str
    subject: str
    num_jobs: int = 0
    ids: tuple[JobId, ...] = ()
    stopping: tuple[JobId, ...] = ()
    skipped: dict[str, str] = {}
    path: str | None = None


class Change(msgspec.Struct, frozen=True):
    """
    A change: a POST to `path`, on the page and below `/api/v1`, by users who have at least `role`.

    Raises (of `run`): as `Page.load`; MillhandError for 409.
    """

    path: str
    role: Role
    run: Callable[[ChangeRequest], Awaitable[Changed]]

    @property
    def name(self) -> str:
        """The name of its function."""
        return self.run.__name__


async def make_change(change: Change, request: ChangeRequest) -> Changed:
    """Run a change for a user whose role allows it, and log it once it is committed."""
    done = await change.run(request)
    logger.info(
        "change made",
        extra={
            "action": done.action,
            "subject": done.subject,
            "user": request.user.name,
            "num_jobs": done.num_jobs,
            **request.database.log_fields,
        },
    )
    return done


async def record(tx: Executor, request: ChangeRequest, done: Changed, detail: Mapping[str, Json]) -> None:
    """Write the audit entry. Without the table, as for Go clients alone, the log line is the only record."""
    if await request.database.has(audit_get_shape, tx):
        await tx.run(
            audit_insert(
                actor=request.user.name,
                role=request.user.role.label,
                address=request.address,
                action=done.action,
                subject=done.subject,
                detail=detail,
                num_jobs=done.num_jobs,
            )
        )
