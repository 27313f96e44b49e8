"""
Raise an alert if a removed object is needed again.

Its causes are an undeclared reference, a wrong clock or grace, or an application that deleted a row too early. The run
restores the object from quarantine first. If the object is purged, the alert names the run.

    log (warning: restored, error: purged) + event + finding + the action in the ledger, once for each action
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.orphans.event import OnEvent, OrphanEvent, OrphanEventKind
from millhand.orphans.ledger import (
    Action,
    ActionState,
    Finding,
    action_get_by_key,
    finding_get_due,
    parse_actions,
)
from millhand.orphans.rules import MISSING, Kind, Reference
from millhand.orphans.scan.context import RunContext, RunState
from millhand.orphans.scan.lookup import batches

BATCH = 1_000
REMOVED = (ActionState.QUARANTINED, ActionState.PURGED)

logger = logger_of(__name__)


async def raise_alerts(
    executor: Executor, reasons: Mapping[int, str], *, now: datetime, on_event: OnEvent | None = None
) -> list[Action]:
    """Raise an alert for actions, by id, once for each. Return the actions that had none before."""
    if not reasons:
        return []
    params = {"ids": list(reasons), "alerts": list(reasons.values()), "now": now}
    raised = await executor.run(Query("orphan_action_raise_alert", params, parse_actions))
    for action in raised:
        level = logging.ERROR if action.state == ActionState.PURGED else logging.WARNING
        fields: dict[str, Any] = {
            "bucket": action.bucket, "key": action.key, "reason": action.alert or "", "run_id": action.run_id
        }  # fmt: skip
        logger.log(level, "orphan cleanup alert", extra=fields)
        if on_event is not None:
            on_event(OrphanEvent(kind=OrphanEventKind.ALERT, **fields))
    return raised


async def raise_recalled_alerts(context: RunContext, state: RunState, actions: Sequence[Action]) -> None:
    """Raise alerts for objects that this run restored because a row references them again."""
    reasons = {action.id: "a row references it again; it was restored" for action in actions}
    raised = await raise_alerts(context.executor, reasons, now=context.now, on_event=context.on_event)
    state.add(alerts=len(raised))
    state.remember_recalled(raised)


async def record_recalled(context: RunContext, state: RunState) -> None:
    """Write findings for restored objects. This follows the scan, which deletes findings that no longer hold."""
    findings = [
        Finding(
            key=action.key,
            kind=Kind.RECALLED,
            reference=Reference.READY,
            rule=MISSING.number,
            is_present=True,
            size=action.size,
            etag=action.etag,
            first_seen_at=context.now,
            last_seen_at=context.now,
            note=f"run {action.run_id} removed it; a row references it again, and it was restored",
        )
        for action in {action.key: action for action in state.recalled}.values()
    ]
    await context.put_findings(findings)


async def raise_missing_alerts(context: RunContext, state: RunState) -> None:
    """Raise alerts for missing objects that Millhand removed, and note the removal in their findings."""
    run = context.run
    async for batch in batches(
        context.executor,
        lambda after: finding_get_due(run.id, rules=[MISSING.number], after=after, limit=BATCH),
    ):
        missing = [finding for finding in batch if finding.kind == Kind.MISSING]
        removals = await _last_removals(context, [finding.key for finding in missing])
        noted = [replace(one, note=removal_text(removals[one.key])) for one in missing if one.key in removals]
        await context.put_findings(noted)
        reasons = {action.id: f"a row references it; {removal_text(action)}" for action in removals.values()}
        raised = await raise_alerts(context.executor, reasons, now=context.now, on_event=context.on_event)
        state.add(alerts=len(raised))


async def _last_removals(context: RunContext, keys: Sequence[str]) -> dict[str, Action]:
    """Return the last action on each key, if that action removed the object."""
    actions = await context.executor.run(action_get_by_key(context.run.bucket, keys, limit=10 * len(keys)))
    newest: dict[str, Action] = {}
    for action in actions:
        newest.setdefault(action.key, action)
    return {key: action for key, action in newest.items() if action.state in REMOVED}


def removal_text(action: Action) -> str:
    if action.state == ActionState.PURGED:
        return f"run {action.run_id} removed it, and its bytes were deleted at {updated_text(action)}"
    return f"run {action.run_id} removed it at {updated_text(action)}; it is in quarantine, {action.quarantine_key}"


def updated_text(action: Action) -> str:
    return f"{action.updated_at:%Y-%m-%d %H:%M} UTC" if action.updated_at else "?"
