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
    Kind,
    action_get_by_key,
    finding_get_due,
    finding_put_many,
    parse_actions,
)
from millhand.orphans.rules import Reference
from millhand.orphans.scan.scan import Pass
from millhand.store.query import Query

MISSING_NUMBER = 18
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


async def raise_recalled_alerts(pass_: Pass, actions: Sequence[Action]) -> None:
    """Raise the alert about objects that a row referred to again and that were put back by this run."""
    reason = "a row refers to it again; it was put back"
    raised = await raise_alerts(
        pass_.executor, {action.id: reason for action in actions}, now=pass_.now, on_event=pass_.on_event
    )
    pass_.run.totals.alerts += len(raised)
    pass_.recalled.extend(raised)


async def record_recalled(pass_: Pass) -> None:
    """Make findings of what was put back, after the scan, which strikes off what no longer is."""
    findings = [
        Finding(
            key=action.key,
            kind=Kind.RECALLED,
            reference=Reference.READY,
            rule=MISSING_NUMBER,
            is_present=True,
            size=action.size,
            etag=action.etag,
            first_seen_at=pass_.now,
            last_seen_at=pass_.now,
            note=f"run {action.run_id} took it away; a row refers to it again, and it was put back",
        )
        for action in {action.key: action for action in pass_.recalled}.values()
    ]
    if findings:
        await pass_.executor.run(finding_put_many(pass_.run.bucket, pass_.run.id, findings, now=pass_.now))


async def raise_missing_alerts(pass_: Pass) -> None:
    """Look whether what is missing was taken away by us, say so in its finding, and raise the alert."""
    after = 0
    while True:
        query = finding_get_due(pass_.run.id, rules=[MISSING_NUMBER], after=after, limit=BATCH)
        findings = [one for one in await pass_.executor.run(query) if one.kind == Kind.MISSING]
        if not findings:
            return
        after = findings[-1].id
        gone = await _taken_away(pass_, [finding.key for finding in findings])
        noted = [replace(one, note=how_lost(gone[one.key])) for one in findings if one.key in gone]
        if noted:
            await pass_.executor.run(finding_put_many(pass_.run.bucket, pass_.run.id, noted, now=pass_.now))
        reasons = {action.id: f"a row refers to it; {how_lost(action)}" for action in gone.values()}
        raised = await raise_alerts(pass_.executor, reasons, now=pass_.now, on_event=pass_.on_event)
        pass_.run.totals.alerts += len(raised)


async def _taken_away(pass_: Pass, keys: Sequence[str]) -> dict[str, Action]:
    """Return the newest action that took the object of a key away, if it was the last word on it."""
    actions = await pass_.executor.run(action_get_by_key(pass_.run.bucket, keys, limit=10 * len(keys)))
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
