"""The audit: who changed what on the web page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from millhand.core.job import Json
from millhand.db.query import Query, Row, parse_none
from millhand.engine.store.job_row import encode_json, parse_object

LIMIT_MAX = 200


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """
    One change.

    `subject` is what was changed, such as `job 7` or `queue mail`. `detail` never has args of a job.
    """

    id: int
    at: datetime
    actor: str
    role: str
    address: str
    action: str
    subject: str
    detail: dict[str, Json]
    num_jobs: int


def audit_get_shape() -> Query[bool]:
    """Return whether the audit table is there."""
    return Query("audit_get_shape", {}, lambda rows: bool(rows[0][0]))


def audit_insert(
    *,
    actor: str,
    role: str,
    address: str,
    action: str,
    subject: str,
    detail: Mapping[str, Json],
    num_jobs: int,
) -> Query[None]:
    """Record a change, in the transaction that makes it."""
    params = {
        "action": action,
        "actor": actor,
        "address": address,
        "detail": encode_json(dict(detail)),
        "num_jobs": num_jobs,
        "role": role,
        "subject": subject,
    }
    return Query("audit_insert", params, parse_none)


def audit_list(
    *, before_id: int | None = None, actor: str | None = None, limit: int = LIMIT_MAX
) -> Query[list[AuditEntry]]:
    """Return up to `limit` changes, newest first, before `before_id`; of one user, or of all for None."""
    return Query("audit_list", {"actor": actor, "before_id": before_id, "limit": limit}, _parse)


def _parse(rows: Sequence[Row]) -> list[AuditEntry]:
    return [
        AuditEntry(
            id=id,
            at=at,
            actor=actor,
            role=role,
            address=address,
            action=action,
            subject=subject,
            detail=parse_object(detail),
            num_jobs=num_jobs,
        )
        for id, at, actor, role, address, action, subject, detail, num_jobs in rows
    ]
