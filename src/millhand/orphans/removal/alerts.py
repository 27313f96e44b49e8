"""
The alert: somebody asks for what was taken away.

It should never ring. When it does, a reference was not declared, a clock or a grace was wrong, or an application deleted a
row too soon; what lies in quarantine is back in its place by then, and what was destroyed is named.

    log (warning: put back, error: destroyed) + event + finding + the action in the ledger, once for each action
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from millhand.driver.protocol import Executor
from millhand.orphans.event import OnEvent, OrphanEvent, OrphanEventKind
from millhand.orphans.ledger import (
    Action,
    ActionState,
    Finding,
    action_get_by_key,
    finding_get_due,
    finding_put_many,
    parse_actions,
)
from millhand.orphans.rules import MISSING, Kind, Reference
from millhand.orphans.scan.context import RunContext, RunState
from millhand.store.query import Query

BATCH = 1_000
TAKEN = (ActionState.QUARANTINED, ActionState.PURGED)

logger = logging.getLogger(__name__)


async def raise_alerts(
    executor: Executor, reasons: Mapping[int, str], *, now: datetime, on_event: OnEvent | None = None
) -> list[Action]:
    """
    Raise the alert about actions, by id, each once; return those for which it had not rung yet.

    Raises: DriverError.
    """
    if not reasons:
        return []
    params = {"ids": list(reasons), "alerts": list(reasons.values()), "now": now}
    raised = await executor.run(Query("orphan_action_raise_alert", params, parse_actions))
    for action in raised:
        _tell(action, on_event)
    return raised


async def raise_recalled_alerts(context: RunContext, state: RunState, actions: Sequence[Action]) -> None:
    """Raise the alert about objects that a row referred to again and that were put back by this run."""
    reason = "a row refers to it again; it was put back"
    raised = await raise_alerts(
        context.executor,
        {action.id: reason for action in actions},
        now=context.now,
        on_event=context.on_event,
    )
    state.count_alerts(len(raised))
    state.remember_recalled(raised)


async def record_recalled(context: RunContext, state: RunState) -> None:
    """Make findings of what was put back, after the scan, which strikes off what no longer is."""
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
            note=f"run {action.run_id} took it away; a row refers to it again, and it was put back",
        )
        for action in {action.key: action for action in state.recalled}.values()
    ]
    if findings:
        await context.executor.run(
            finding_put_many(context.run.bucket, context.run.id, findings, now=context.now)
        )


async def raise_missing_alerts(context: RunContext, state: RunState) -> None:
    """Look whether what is missing was taken away by us, say so in its finding, and raise the alert."""
    after = 0
    while True:
        query = finding_get_due(context.run.id, rules=[MISSING.number], after=after, limit=BATCH)
        findings = [one for one in await context.executor.run(query) if one.kind == Kind.MISSING]
        if not findings:
            return
        after = findings[-1].id
        gone = await _taken_away(context, [finding.key for finding in findings])
        noted = [replace(one, note=how_lost(gone[one.key])) for one in findings if one.key in gone]
        if noted:
            await context.executor.run(
                finding_put_many(context.run.bucket, context.run.id, noted, now=context.now)
            )
        reasons = {action.id: f"a row refers to it; {how_lost(action)}" for action in gone.values()}
        raised = await raise_alerts(context.executor, reasons, now=context.now, on_event=context.on_event)
        state.count_alerts(len(raised))


async def _taken_away(context: RunContext, keys: Sequence[str]) -> dict[str, Action]:
    """Return the newest action that took the object of a key away, if it was the last word on it."""
    actions = await context.executor.run(action_get_by_key(context.run.bucket, keys, limit=10 * len(keys)))
    newest: dict[str, Action] = {}
    for action in actions:
        newest.setdefault(action.key, action)
    return {key: action for key, action in newest.items() if action.state in TAKEN}


def how_lost(action: Action) -> str:
    """Say where the object of an action is, to somebody who misses it."""
    when = f"{action.updated_at:%Y-%m-%d %H:%M} UTC" if action.updated_at else "?"
    if action.state == ActionState.PURGED:
        return f"run {action.run_id} took it away, and its bytes were destroyed at {when}"
    return f"run {action.run_id} took it away at {when}; it is kept as {action.quarantine_key}"


def _tell(action: Action, on_event: OnEvent | None) -> None:
    is_lost = action.state == ActionState.PURGED
    logger.log(
        logging.ERROR if is_lost else logging.WARNING,
        "orphan cleanup alert",
        extra={"bucket": action.bucket, "key": action.key, "reason": action.alert, "run_id": action.run_id},
    )
    if on_event is not None:
        on_event(
            OrphanEvent(
                bucket=action.bucket,
                key=action.key,
                kind=OrphanEventKind.ALERT,
                reason=action.alert or "",
                run_id=action.run_id,
            )
        )
