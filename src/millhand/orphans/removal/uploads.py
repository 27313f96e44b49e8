"""
Multipart uploads that were never completed: bytes that no listing shows and that somebody pays for.

Rule 1: an upload that a row waits for is kept: one that has its upload id, or a pending one that names its key and no
        id. A pending row past its grace waits no more.
Rule 2: its age is that of its newest part, not of its beginning: a large file is uploaded for days. It is also the time
        since we first saw it, and two complete runs must have seen it.
Rule 3: before the abort both are asked for again, and after it the store is asked whether it is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from millhand.orphans.config import OrphansConfig
from millhand.orphans.ledger import (
    Action,
    ActionState,
    Finding,
    Kind,
    action_insert_many,
    action_set_state_many,
    finding_delete_many,
    finding_get_due,
    finding_get_many,
    finding_put_many,
    run_beat,
)
from millhand.orphans.rules import ABORTING_NUMBER, Reference, Rule, Scope, Situation, judge
from millhand.orphans.scan.compare import KINDS, KeyScope
from millhand.orphans.scan.scan import Pass, gather_all
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import ObjectNotFound, StoreError, Upload

logger = logging.getLogger(__name__)

BATCH = 100  # each is asked for its parts, one word to the store
UPLOADED = "an upload in parts"


@dataclass(frozen=True, slots=True)
class Uploads:
    """How many uploads nobody waits for, and how many of them are due."""

    found: int = 0
    due: int = 0


async def scan_uploads(pass_: Pass) -> Uploads:
    """
    Judge the uploads that are not completed, write down those that nobody waits for, and count them.

    It comes before the scan of objects, which strikes off what no longer is. Where they may not be listed there are none.

    Raises: SourceFailed; StoreError; DriverError.
    """
    try:
        return await _scan(pass_)
    except StoreError as error:
        if not error.is_denied and "NotImplemented" not in error.reason:
            raise
        logger.info(
            "uploads in parts cannot be listed", extra={"bucket": pass_.run.bucket, "reason": error.reason}
        )
        return Uploads()


async def sweep_uploads(pass_: Pass) -> None:
    """Abort what is due. Raises: SourceFailed; StoreError; DriverError."""
    after = 0
    while True:
        query = finding_get_due(pass_.run.id, rules=[ABORTING_NUMBER], after=after, limit=BATCH)
        findings = await pass_.executor.run(query)
        if not findings:
            return
        after = findings[-1].id
        async with pass_.executor.begin() as tx:
            await tx.run(run_beat(pass_.run, now=pass_.brought_now))
            intended = [_action(finding) for finding in findings]
            actions = await tx.run(
                action_insert_many(pass_.run.bucket, pass_.run.id, intended, now=pass_.brought_now)
            )
        ended = {action.id: await _abort(pass_, action) for action in actions}
        await pass_.executor.run(action_set_state_many(ended, now=pass_.brought_now))
        await pass_.executor.run(finding_delete_many([finding.id for finding in findings]))
        pass_.run.totals.aborted += sum(state is ActionState.ABORTED for state, _ in ended.values())


async def _scan(pass_: Pass) -> Uploads:
    scope_of = KeyScope.of(pass_.config)
    found = due = 0
    async for page in pass_.store.list_uploads(prefix=pass_.config.prefix):
        judged = [
            upload for upload in page if scope_of(upload.key) is Scope.JUDGED and "\0" not in upload.key
        ]
        for start in range(0, len(judged), BATCH):
            findings = await _judge(pass_, judged[start : start + BATCH])
            found += len(findings)
            due += sum(finding.rule == ABORTING_NUMBER for finding in findings)
        await pass_.beat()
    return Uploads(found, due)


async def _judge(pass_: Pass, uploads: Sequence[Upload]) -> list[Finding]:
    naming = await pass_.references.naming(sorted({upload.key for upload in uploads}))
    touched = await gather_all([_touched_at(pass_, upload) for upload in uploads])
    known = await pass_.executor.run(
        finding_get_many(pass_.run.bucket, sorted({upload.key for upload in uploads}))
    )
    priors = {finding.row_id: finding for finding in known if finding.kind == Kind.UPLOAD}
    findings = []
    for upload, touched_at in zip(uploads, touched, strict=True):
        if touched_at is not None:
            rows = naming.get(upload.key, ())
            found = _weigh(pass_, upload, touched_at, rows, priors.get(upload.upload_id))
            findings += [found] if found is not None else []
    if findings:
        await pass_.executor.run(finding_put_many(pass_.run.bucket, pass_.run.id, findings, now=pass_.now))
    return findings


def _weigh(
    pass_: Pass, upload: Upload, touched_at: datetime, rows: Sequence[ReferenceRow], prior: Finding | None
) -> Finding | None:
    first_seen_at, sightings = pass_.now, 0
    # A part that came since makes it another upload, as an overwrite does with an object.
    if prior is not None and prior.modified_at == touched_at:
        first_seen_at = prior.first_seen_at
        sightings = prior.sightings + (prior.run_id == pass_.complete_run_id)
    is_waited_for = any(waits_for(row, upload, pass_.config, pass_.now) for row in rows)
    since = max(first_seen_at, touched_at)
    rule = judge(
        Situation(
            is_due=pass_.now - since >= pass_.config.grace,
            is_present=False,
            is_seen_twice=sightings >= 1,
            is_upload=True,
            reference=Reference.READY if is_waited_for else Reference.NONE,
        )
    )
    return (
        _finding(pass_, upload, touched_at, rule, first_seen_at, sightings) if rule.number in KINDS else None
    )


def waits_for(row: ReferenceRow, upload: Upload, config: OrphansConfig, now: datetime) -> bool:
    """Whether a row that names its key may still complete the upload; a pending one of which no id is known may."""
    if row.upload_id not in (None, upload.upload_id):
        return False
    if row.reference is Reference.PENDING:
        return row.created_at is None or now - row.created_at < config.grace
    return row.upload_id is not None and row.reference is Reference.READY


def _finding(
    pass_: Pass,
    upload: Upload,
    touched_at: datetime,
    rule: Rule,
    first_seen_at: datetime,
    sightings: int,
) -> Finding:
    return Finding(
        key=upload.key,
        row_id=upload.upload_id,
        kind=KINDS[rule.number],
        reference=Reference.NONE,
        rule=rule.number,
        is_present=False,
        modified_at=touched_at,
        first_seen_at=first_seen_at,
        last_seen_at=pass_.now,
        sightings=sightings,
        note=f"begun {upload.initiated_at:%Y-%m-%d %H:%M} UTC, newest part {touched_at:%Y-%m-%d %H:%M} UTC",
    )


async def _abort(pass_: Pass, action: Action) -> tuple[ActionState, str]:
    """Abort one upload unless a row has come to wait for it or a part has come since."""
    upload = Upload(key=action.key, upload_id=action.row_id, initiated_at=action.modified_at or pass_.now)
    rows = (await pass_.references.naming([action.key])).get(action.key, ())
    if any(waits_for(row, upload, pass_.config, pass_.now) for row in rows):
        return ActionState.KEPT, "a row waits for it again"
    touched_at = await _touched_at(pass_, upload)
    if touched_at is not None and touched_at != action.modified_at:
        return ActionState.KEPT, "a part has come since it was seen"
    try:
        was_there = await pass_.store.abort_upload(upload)
    except StoreError as error:
        return ActionState.KEPT, str(error)
    return ActionState.ABORTED, UPLOADED if was_there else f"{UPLOADED} that was gone before"


async def _touched_at(pass_: Pass, upload: Upload) -> datetime | None:
    """Return when its newest part came; None if it is gone."""
    try:
        return await pass_.store.upload_touched_at(upload)
    except ObjectNotFound:
        return None


def _action(finding: Finding) -> Action:
    return Action(key=finding.key, rule=finding.rule, row_id=finding.row_id, modified_at=finding.modified_at)
