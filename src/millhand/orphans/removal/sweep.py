"""
Take away what nobody refers to, in an order in which nothing can be lost.

Rule 1: nothing is destroyed in its place. An object is moved to `.millhand/quarantine/<run>/<key>`, and only there,
        after `quarantine_for`, do its bytes end; a deleted row lies in the ledger as JSON.
Rule 2: what is to be done is written down before it is done, and what was done after it.
Rule 3: the references are read again right before the move, and once more right after it. Whoever refers to an object
        while it is on its way gets it back; whoever comes later finds it gone, as after any deletion.
Rule 4: an object that is not the one that was seen (etag, size, time) stays.
Rule 5: a row goes first: locked, read again, written into the ledger and deleted in one transaction.
Rule 6: waves grow from 10 to 100 to 1,000 keys; the first failure of the store ends the sweep with its wave.

    row: lock ─▶ judge ─▶ delete ┐
                                 ├▶ intended │ references ─▶ move ─▶ references ─▶ quarantined │ … ─▶ purged
    object: ─────────────────────┘           └ a crash here is settled at the next run
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat

from millhand.errors import DriverError
from millhand.orphans.evaluate import Observation, evaluate
from millhand.orphans.ledger import (
    Action,
    ActionState,
    Finding,
    action_insert_many,
    action_set_state_many,
    finding_delete_many,
    finding_get_due,
    run_beat,
)
from millhand.orphans.removal.quarantine import LONG_AGO, Move, move_many, put_back_many, quarantine_key
from millhand.orphans.removal.versions import HIDDEN
from millhand.orphans.rules import REMOVING, REMOVING_NUMBERS
from millhand.orphans.scan.context import RunContext, RunState
from millhand.orphans.sources.references import LockedRow
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import ObjectInfo

WAVES = (10, 100, 1_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFailed:
    """Why a sweep ended before its time."""

    key: str
    reason: str


async def sweep(context: RunContext, state: RunState) -> SweepFailed | None:
    """
    Take away all that is due, wave by wave, and return why it stopped if it did not come to the end.

    Raises: SourceFailed; RunLost; DriverError. What was begun is then settled by the next run.
    """
    after = 0
    for size in chain(WAVES, repeat(WAVES[-1])):
        query = finding_get_due(context.run.id, rules=REMOVING_NUMBERS, after=after, limit=size)
        due = await context.executor.run(query)
        if not due:
            break
        after = due[-1].id
        began = time.monotonic()
        failed = await _wave(context, state, [finding for finding in due if context.is_removable(finding)])
        context.report_progress("sweep", due[-1].key, state.totals)
        if failed is not None:
            return failed
        pause = began + len(due) / context.config.max_keys_per_second - time.monotonic()
        await asyncio.sleep(max(0.0, pause))
    return None


async def carry_out(context: RunContext, state: RunState, actions: Sequence[Action]) -> Mapping[int, Move]:
    """
    Move the objects of actions into quarantine, unless a row refers to them before or after; answers by action id.

    Raises: SourceFailed; DriverError. The objects that were moved are then still known as intended.
    """
    naming = await context.holding([action.key for action in actions])
    moves = dict(await move_many(context.store, [action for action in actions if action.key not in naming]))
    for action in actions:
        if action.key in naming:
            spared = ActionState.ROW_DELETED if action.row_json is not None else ActionState.KEPT
            moves[action.id] = Move(reason="a row refers to it again", state=spared)
    moved = [action for action in actions if moves[action.id].state is ActionState.QUARANTINED]
    moves |= await put_back_needed(context, moved)
    await record(context, state, moves)
    return moves


async def put_back_needed(context: RunContext, moved: Sequence[Action]) -> Mapping[int, Move]:
    """Put back what a row has come to refer to since it was moved; answers by action id for those alone."""
    naming = await context.holding([action.key for action in moved])
    return await put_back_many(context.store, [action for action in moved if action.key in naming])


async def record(context: RunContext, state: RunState, moves: Mapping[int, Move]) -> None:
    """Write down what became of actions. Raises: DriverError."""
    if not moves:
        return
    # A failed move leaves its object in place. That is no decision to keep it.
    state.count_moves(move.state for move in moves.values() if not (move.is_failure and move.is_in_place))
    states = {id_: (move.state, move.reason) for id_, move in moves.items()}
    await context.executor.run(action_set_state_many(states, now=context.ledger_now))


async def _wave(context: RunContext, state: RunState, findings: Sequence[Finding]) -> SweepFailed | None:
    actions = await _claim_rows(context, state, [finding for finding in findings if finding.source])
    objects = [finding for finding in findings if not finding.source]
    intended = await _intend(context, objects)
    moves = await carry_out(context, state, [*actions, *intended])
    done = [
        finding.id
        for finding, action in zip(objects, intended, strict=True)
        if not moves[action.id].is_failure
    ]
    await context.executor.run(finding_delete_many(done))
    failed = [action for action in (*actions, *intended) if moves[action.id].is_failure]
    return SweepFailed(key=failed[0].key, reason=moves[failed[0].id].reason) if failed else None


async def _intend(context: RunContext, findings: Sequence[Finding]) -> list[Action]:
    """Write down which objects are to go. Shape: one action a finding, in order."""
    if not findings:
        return []
    actions = [_action(context, finding) for finding in findings]
    async with context.executor.begin() as tx:
        await tx.run(run_beat(context.run, now=context.ledger_now))
        return await tx.run(
            action_insert_many(context.run.bucket, context.run.id, actions, now=context.ledger_now)
        )


async def _claim_rows(context: RunContext, state: RunState, findings: Sequence[Finding]) -> list[Action]:
    """Delete the rows that are still due and return the actions on their objects."""
    intended = []
    for source in sorted({finding.source for finding in findings}):
        wave = [finding for finding in findings if finding.source == source]
        try:
            intended += await _claim_wave(context, state, source, wave)
        except DriverError:
            # One row that a constraint holds must not hold the others: each by itself.
            intended += await _claim_singly(context, state, source, wave)
    return intended


async def _claim_singly(
    context: RunContext, state: RunState, source: str, findings: Sequence[Finding]
) -> list[Action]:
    intended = []
    for finding in findings:
        try:
            intended += await _claim_wave(context, state, source, [finding])
        except DriverError as error:
            if error.retryable:
                raise
            kept = replace(_action(context, finding), state=ActionState.KEPT, quarantine_key=None)
            written = await context.executor.run(
                action_insert_many(context.run.bucket, context.run.id, [kept], now=context.ledger_now)
            )
            await record(
                context,
                state,
                {action.id: Move(reason=str(error), state=ActionState.KEPT) for action in written},
            )
    return intended


async def _claim_wave(
    context: RunContext, state: RunState, source: str, findings: Sequence[Finding]
) -> list[Action]:
    by_id = {finding.row_id: finding for finding in findings}
    references = context.references
    async with context.executor.begin() as tx:
        await tx.run(run_beat(context.run, now=context.ledger_now))
        await tx.fetch("SET LOCAL row_security = off")
        claimed = await references.lock_rows(tx, source, list(by_id))
        naming = await references.rows_by_key(sorted({claim.row.key for claim in claimed}), executor=tx)
        going = [claim for claim in claimed if _is_going(context, claim, by_id[claim.row.row_id], naming)]
        if not going:
            return []
        await references.delete_rows(tx, source, [claim.row.row_id for claim in going])
        actions = [_row_action(context, claim, by_id[claim.row.row_id]) for claim in going]
        written = await tx.run(
            action_insert_many(context.run.bucket, context.run.id, actions, now=context.ledger_now)
        )
        await tx.run(finding_delete_many([by_id[claim.row.row_id].id for claim in going]))
    state.count_deleted_rows(len(going))
    return [action for action in written if action.state == ActionState.INTENDED]


def _is_going(
    context: RunContext, claim: LockedRow, finding: Finding, naming: Mapping[str, Sequence[ReferenceRow]]
) -> bool:
    """Judge a row again, now that nobody can change it."""
    row = claim.row
    others = [
        other for other in naming.get(row.key, ()) if (other.source, other.row_id) != (row.source, row.row_id)
    ]
    observation = Observation(key=row.key, object=_seen(finding), row=row, is_shared=bool(others))
    rule, _ = evaluate(observation, finding, complete_run_id=None, config=context.config, now=context.now)
    return row.key == finding.key and rule.verdict in REMOVING


def _seen(finding: Finding) -> ObjectInfo | None:
    if not finding.is_present:
        return None
    modified_at = finding.modified_at or LONG_AGO
    return ObjectInfo(key=finding.key, size=finding.size, etag=finding.etag, modified_at=modified_at)


def _action(context: RunContext, finding: Finding) -> Action:
    return Action(
        key=finding.key,
        rule=finding.rule,
        state=ActionState.INTENDED if finding.is_present else ActionState.ROW_DELETED,
        size=finding.size,
        etag=finding.etag,
        modified_at=finding.modified_at,
        quarantine_key=_kept_at(context, finding),
        source=finding.source,
        row_id=finding.row_id,
    )


def _kept_at(context: RunContext, finding: Finding) -> str | None:
    if not finding.is_present:
        return None
    return HIDDEN if context.has_versions else quarantine_key(context.run.id, finding.key)


def _row_action(context: RunContext, claim: LockedRow, finding: Finding) -> Action:
    table = context.references.source(claim.row.source).table
    return replace(_action(context, finding), table_name=table, row_json=claim.row_json)
