"""
Abort multipart uploads that were never completed. No listing of objects shows their bytes, but storage bills them.

Rule 1: an upload is kept while a row waits for it. That is a row with its upload id, or a pending row with its key and no
        upload id. A pending row past its grace no longer waits. Its grace is that of rule 3: it begins when a run first sees
        the row pending, and an update of the row restarts it.
Rule 2: its age counts from its newest part, because a large file takes days, and from the first run that saw it. Two
        complete runs must have seen it.
Rule 3: row and newest part are read again before the abort, and the abort checks that the upload is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from millhand.core.log.logger import logger_of
from millhand.core.orphans import OrphansConfig
from millhand.orphans.evaluate import Observation, evaluate
from millhand.orphans.ledger import (
    Action,
    ActionState,
    Finding,
    action_insert_many,
    action_set_state_many,
    finding_delete_many,
    finding_get_due,
    finding_get_many,
)
from millhand.orphans.removal.quarantine import recorded_object
from millhand.orphans.rules import UPLOAD_DUE, Kind, Reference, Scope, Situation, find_rule
from millhand.orphans.scan.compare import KeyScope
from millhand.orphans.scan.context import RunContext, RunState
from millhand.orphans.scan.lookup import batches, gather_all
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import ObjectNotFound, StoreError, Upload

logger = logger_of(__name__)

BATCH = 100  # each upload needs one request for its parts
ABORTED = "a multipart upload"


async def scan_uploads(context: RunContext) -> tuple[int, int]:
    """
    Write a finding for each open upload that no row waits for. Return their number, and how many of them are due.

    This precedes the scan of objects, which deletes findings that no longer hold. If the store denies the listing of
    uploads, it counts none.
    """
    try:
        return await _scan(context)
    except StoreError as error:
        if not error.is_denied and "NotImplemented" not in error.reason:
            raise
        logger.info(
            "multipart uploads cannot be listed", extra={"bucket": context.run.bucket, "reason": error.reason}
        )
        return 0, 0


async def sweep_uploads(context: RunContext, state: RunState) -> None:
    run = context.run
    async for findings in batches(
        context.executor,
        lambda after: finding_get_due(run.id, rules=[UPLOAD_DUE.number], after=after, limit=BATCH),
    ):
        async with context.executor.begin() as tx:
            await context.beat(tx)
            intended = [
                Action(key=one.key, rule=one.rule, row_id=one.row_id, modified_at=one.modified_at)
                for one in findings
            ]
            actions = await tx.run(action_insert_many(run.bucket, run.id, intended, now=context.ledger_now))
        ended = {action.id: await _abort(context, action) for action in actions}
        await context.executor.run(
            action_set_state_many(ended, was=ActionState.INTENDED, now=context.ledger_now)
        )
        await context.executor.run(finding_delete_many([finding.id for finding in findings]))
        state.add(aborted_uploads=sum(one is ActionState.ABORTED for one, _ in ended.values()))


async def _scan(context: RunContext) -> tuple[int, int]:
    scope_of = KeyScope.of(context.config)
    found = due = 0
    async for page in context.store.list_uploads(prefix=context.config.prefix):
        in_scope = [
            upload for upload in page if scope_of(upload.key) is Scope.IN_SCOPE and "\0" not in upload.key
        ]
        for start in range(0, len(in_scope), BATCH):
            findings = await _evaluate_batch(context, in_scope[start : start + BATCH])
            found += len(findings)
            due += sum(finding.rule == UPLOAD_DUE.number for finding in findings)
        await context.beat()
    return found, due


async def _evaluate_batch(context: RunContext, uploads: Sequence[Upload]) -> list[Finding]:
    keys = sorted({upload.key for upload in uploads})
    rows = await context.references.rows_by_key(keys)
    touched = await gather_all([_touched_if_told(context, upload) for upload in uploads])
    known = await _known(context, keys)
    findings = []
    for upload, touched_at in zip(uploads, touched, strict=True):
        if touched_at is not None:
            is_awaited = _is_awaited(
                context, upload, rows.get(upload.key, ()), known, context.complete_run_id
            )
            prior = known.get((upload.key, "", upload.upload_id))
            finding = _evaluate(context, upload, touched_at, is_awaited, prior)
            findings += [finding] if finding is not None else []
    await context.put_findings(findings)
    return findings


async def _known(context: RunContext, keys: Sequence[str]) -> dict[tuple[str, str, str], Finding]:
    """Return what the ledger has about uploads, objects and rows of these keys, by identity."""
    known = await context.executor.run(finding_get_many(context.run.bucket, keys))
    return {finding.identity: finding for finding in known}


def _is_awaited(
    context: RunContext,
    upload: Upload,
    rows: Sequence[ReferenceRow],
    known: Mapping[tuple[str, str, str], Finding],
    complete_run_id: int | None,
) -> bool:
    return any(
        waits_for(
            row,
            upload,
            known.get((row.key, row.source, row.row_id)),
            complete_run_id=complete_run_id,
            config=context.config,
            now=context.now,
        )
        for row in rows
    )


def _evaluate(
    context: RunContext, upload: Upload, touched_at: datetime, is_awaited: bool, prior: Finding | None
) -> Finding | None:
    first_seen_at, sightings = context.now, 0
    # A new part restarts its age, as an overwrite does for an object.
    if prior is not None and prior.modified_at == touched_at:
        first_seen_at = prior.first_seen_at
        sightings = prior.sightings + (prior.run_id == context.complete_run_id)
    since = max(first_seen_at, touched_at)
    rule = find_rule(
        Situation(
            is_due=context.now - since >= context.config.grace,
            is_present=False,
            is_seen_twice=sightings >= 1,
            is_upload=True,
            reference=Reference.READY if is_awaited else Reference.NONE,
        )
    )
    if rule.kind is None:
        return None
    return Finding(
        key=upload.key,
        row_id=upload.upload_id,
        kind=rule.kind,
        reference=Reference.NONE,
        rule=rule.number,
        is_present=False,
        modified_at=touched_at,
        first_seen_at=first_seen_at,
        last_seen_at=context.now,
        sightings=sightings,
        note=f"begun {upload.initiated_at:%Y-%m-%d %H:%M} UTC, newest part {touched_at:%Y-%m-%d %H:%M} UTC",
    )


def waits_for(
    row: ReferenceRow,
    upload: Upload,
    prior: Finding | None,
    *,
    complete_run_id: int | None,
    config: OrphansConfig,
    now: datetime,
) -> bool:
    """
    Return whether a row may still complete an upload of its key. A pending row without an upload id may.

    `prior` is what the ledger has about the row. Without it, a pending row is new, and waits.
    """
    if row.upload_id not in (None, upload.upload_id):
        return False
    if row.reference is not Reference.PENDING:
        return row.upload_id is not None and row.reference is Reference.READY
    seen = recorded_object(prior) if prior is not None and prior.is_present else None
    observation = Observation(key=row.key, object=seen, row=row)
    rule, _ = evaluate(observation, prior, complete_run_id=complete_run_id, config=config, now=now)
    return rule.kind is Kind.WAITING


async def _abort(context: RunContext, action: Action) -> tuple[ActionState, str]:
    """Abort one upload, unless a row waits for it or a part arrived since the scan."""
    upload = Upload(key=action.key, upload_id=action.row_id, initiated_at=action.modified_at or context.now)
    rows = (await context.references.rows_by_key([action.key])).get(action.key, ())
    # The scan has counted the sighting of this run.
    if _is_awaited(context, upload, rows, await _known(context, [action.key]), complete_run_id=None):
        return ActionState.KEPT, "a row waits for it again"
    try:
        touched_at = await _touched_at(context, upload)
        if touched_at is not None and touched_at != action.modified_at:
            return ActionState.KEPT, "a part arrived since the scan"
        was_there = await context.store.abort_upload(upload)
    except StoreError as error:
        return ActionState.KEPT, str(error)
    return ActionState.ABORTED, ABORTED if was_there else f"{ABORTED} that was gone before"


async def _touched_if_told(context: RunContext, upload: Upload) -> datetime | None:
    """Return when its newest part arrived; None if the upload is gone, or the store declines to describe it."""
    try:
        return await _touched_at(context, upload)
    except StoreError as error:
        if error.is_refusal:
            return None
        raise


async def _touched_at(context: RunContext, upload: Upload) -> datetime | None:
    """Return when its newest part arrived; None if the upload is gone."""
    try:
        return await context.store.upload_touched_at(upload)
    except ObjectNotFound:
        return None
