"""Verdicts about the object store that the settings name: what the credentials may do, and what may surprise a cleanup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from millhand.core.number_text import duration
from millhand.core.orphans import Mode, OrphansConfig
from millhand.orphans.binding import Binding
from millhand.orphans.ledger import Run
from millhand.orphans.removal.quarantine import QUARANTINE
from millhand.shells.doctor.finding import Finding, Found, Level
from millhand.storage import ExpiryRule, StoreError, Versioning
from millhand.storage.protocol import RESERVED_PREFIX

CLOCK_SKEW_MAX = timedelta(seconds=5)
# An instant of S3 is in whole seconds.
CLOCK_RESOLUTION = timedelta(seconds=1)

# What an S3 policy must allow for each step.
_NEEDS = {
    "list": "s3:ListBucket on the bucket",
    "put": "s3:PutObject on its objects",
    "get": "s3:GetObject on its objects",
    "delete": "s3:DeleteObject on its objects",
}


def access_findings(errors: Mapping[str, StoreError], store: str, mode: Mode) -> Found:
    """Judge which of the steps failed. In mode report, a run only needs to list and to read."""
    return [_access_finding(step, error, store, mode) for step, error in errors.items()]


def _access_finding(step: str, error: StoreError, store: str, mode: Mode) -> Finding:
    needs_write = step in ("put", "delete")
    is_report = mode is Mode.REPORT
    if error.is_denied:
        remedy = f"Allow {_NEEDS[step]}."
    else:
        remedy = "Check that the store runs, and [storage] url in millhand.toml."
    if not needs_write:
        effect = "Each run of the orphan cleanup fails, and so does each job that uses the store."
    elif is_report:
        effect = "The orphan cleanup cannot bind the bucket. It only reports, as its mode says."
    else:
        effect = f"The orphan cleanup only reports, although its mode is {mode.value}."
    return Finding(
        level=Level.BROKEN if not needs_write else Level.NOTABLE if is_report else Level.HARMFUL,
        subject=f"store {store}",
        found=f"The store did not {step} an object below {RESERVED_PREFIX}doctor/: {error.reason}."
        if step != "list"
        else f"The store did not list its objects: {error.reason}.",
        effect=effect,
        remedy=remedy,
    )


def versioning_findings(versioning: Versioning, *, has_version: bool, store: str) -> Found:
    """Judge whether the store keeps versions that the credentials cannot see, or keeps them no longer."""
    if versioning in (Versioning.OFF, Versioning.UNKNOWN) and has_version:
        return [
            Finding(
                level=Level.HARMFUL,
                subject=f"store {store}",
                found="The bucket keeps versions, and these credentials may not read that.",
                effect="The orphan cleanup deletes objects, and their versions stay and cost as before.",
                remedy="Allow s3:GetBucketVersioning and s3:ListBucketVersions on the bucket.",
            )
        ]
    if versioning is Versioning.SUSPENDED:
        return [
            Finding(
                level=Level.NOTABLE,
                subject=f"store {store}",
                found="Versioning of the bucket is suspended.",
                effect="Objects from before keep their versions. New ones have none that could be restored.",
                remedy="Enable versioning again, or delete old versions with a lifecycle rule.",
            )
        ]
    return []


def lifecycle_findings(rules: Sequence[ExpiryRule], config: OrphansConfig, versioning: Versioning) -> Found:
    """Judge which lifecycle rules delete objects in quarantine before their quarantine ends."""
    level = Level.NOTABLE if config.mode is Mode.REPORT else Level.BROKEN
    return [
        Finding(
            level=level,
            subject=f"lifecycle rule {rule.name or 'without a name'}",
            found=f"A lifecycle rule deletes objects in quarantine after {duration(after)}, and quarantine_for is "
            f"{duration(config.quarantine_for)}.",
            effect="Objects that the orphan cleanup removed cannot be restored, although their quarantine is not over.",
            remedy=f"Limit the rule to other keys than {QUARANTINE}, or write quarantine_for = "
            f'"{after.days}d" in [orphans] of millhand.toml.',
        )
        for rule in rules
        if (after := _expires_after(rule, versioning)) is not None and after < config.quarantine_for
    ]


def _expires_after(rule: ExpiryRule, versioning: Versioning) -> timedelta | None:
    """Return after which age the rule deletes an object in quarantine: in a bucket with versions, a hidden version."""
    if versioning not in (Versioning.OFF, Versioning.UNKNOWN):
        return rule.after_noncurrent
    is_hit = rule.prefix.startswith(QUARANTINE) or QUARANTINE.startswith(rule.prefix)
    return rule.after if is_hit else None


def binding_findings(binding: Binding) -> Found:
    """Judge whether this database may clean up the bucket."""
    found = []
    for reason in binding.abort_reasons():
        fault, _, remedy = reason.partition("; ")
        advice, command, _ = remedy.partition("millhand orphans bind")
        found.append(
            Finding(
                level=Level.HARMFUL,
                subject="binding of the bucket",
                found=f"{fault[0].upper()}{fault[1:]}.",
                effect="Each run of the orphan cleanup aborts, and removes nothing.",
                remedy=f"{advice[:1].upper()}{advice[1:].strip()}",
                commands=(command,) if command else (),
            )
        )
    return found


def run_findings(runs: Sequence[Run], store: str) -> Found:
    """Judge the last run of the orphan cleanup that has ended; `runs` are the newest first."""
    last = next((run for run in runs if run.finished_at is not None), None)
    if last is None or last.state == "completed":
        return []
    reason = "; ".join(last.abort_reasons) or last.error or "no reason"
    ended = "was aborted" if last.state == "aborted" else "failed"
    return [
        Finding(
            level=Level.HARMFUL,
            subject=f"orphan run {last.id}",
            found=f"The last run of the orphan cleanup over {store} {ended}: {reason}.",
            effect="No orphan is removed until a run completes.",
            remedy="Remove the cause, and run it again. Its runs, and a run that only reports:",
            commands=("millhand orphans list --runs", "millhand orphans scan"),
        )
    ]


def clock_findings(ahead: timedelta, config: OrphansConfig, store: str) -> Found:
    """Judge how far the store's clock is ahead of the database's, by an object that was just put."""
    if abs(ahead) <= CLOCK_SKEW_MAX + CLOCK_RESOLUTION:
        return []
    is_too_far = abs(ahead) > config.max_clock_skew
    side = "ahead of" if ahead > timedelta(0) else "behind"
    return [
        Finding(
            level=Level.HARMFUL if is_too_far else Level.NOTABLE,
            subject=f"clock of store {store}",
            found=f"The clock of the store is {duration(abs(ahead))} {side} the database's.",
            effect="Each run of the orphan cleanup aborts, because it cannot judge how old objects are."
            if is_too_far
            else f"The orphan cleanup aborts from {duration(config.max_clock_skew)} on.",
            remedy="Start a time daemon on both servers:",
            commands=("timedatectl set-ntp true",),
        )
    ]
