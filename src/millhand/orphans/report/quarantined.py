"""What is in quarantine, and when a run deletes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from millhand.core.orphans import Mode, OrphansConfig
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.orphans.ledger import Action, ActionState, action_get_open


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """
    An object in quarantine, and the run and rule that moved it.

    A run deletes it at `deleted_at` or soon after. That is None if the mode of the settings deletes nothing.
    """

    deleted_at: datetime | None
    key: str
    quarantine_key: str | None
    quarantined_at: datetime | None
    rule: int
    run_id: int
    size: int


async def list_quarantined(
    executor: Executor, config: OrphansConfig, *, bucket: str, limit: int = 100
) -> list[Quarantined]:
    """Return what is in quarantine. Shape: oldest first, at most `limit`."""
    actions = await executor.run(action_get_open(bucket, state=ActionState.QUARANTINED, after=0, limit=limit))
    return [_quarantined(action, config) for action in actions]


async def quarantined_bytes(executor: Executor, bucket: str) -> int:
    """Return how many bytes of a bucket are in quarantine."""
    query = Query("orphan_action_sum_quarantined", {"bucket": bucket}, lambda rows: int(rows[0][0]), 60.0)
    return await executor.run(query)


def deleted_at(begins: datetime, config: OrphansConfig) -> datetime | None:
    """Return when a run deletes an object that has been in quarantine since `begins`."""
    return begins + config.quarantine_for if config.mode is Mode.DELETE else None


def _quarantined(action: Action, config: OrphansConfig) -> Quarantined:
    begins = action.updated_at
    return Quarantined(
        deleted_at=None if begins is None else deleted_at(begins, config),
        key=action.key,
        quarantine_key=action.quarantine_key,
        quarantined_at=begins,
        rule=action.rule,
        run_id=action.run_id,
        size=action.size,
    )
