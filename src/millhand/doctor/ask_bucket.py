"""The checks of the object store: each asks the store, and returns a verdict."""

from __future__ import annotations

from datetime import timedelta

from millhand.doctor import bucket_checks
from millhand.doctor.context import Context
from millhand.orphans.binding import read_binding
from millhand.orphans.report.ledger_report import run_list_before
from millhand.shells.doctor.finding import Found, Unseen
from millhand.storage import ObjectStore, StoreError, Versioning

# S3 has no versions of an object that was put without them, or it has one of this name.
NO_VERSION = (None, "null")
NOT_PUT = Unseen(reason="The store did not accept an object.", remedy="See bucket.access.")


async def bucket_access(context: Context) -> Found:
    probe = await context.bucket.get()
    return bucket_checks.access_findings(probe.errors, _store(context).url, context.orphans.mode)


async def bucket_versioning(context: Context) -> Found:
    probe, store = await context.bucket.get(), _store(context)
    if probe.put is None:
        return [NOT_PUT]
    return bucket_checks.versioning_findings(
        await store.versioning(), has_version=probe.put.version not in NO_VERSION, store=store.url
    )


async def bucket_lifecycle(context: Context) -> Found:
    store = _store(context)
    try:
        rules = await store.expiry_rules()
    except StoreError as error:
        if not error.is_refusal:
            raise
        return [
            Unseen(
                reason=f"These credentials cannot read the lifecycle rules of the bucket: {error.reason}.",
                remedy="Allow s3:GetLifecycleConfiguration on the bucket.",
            )
        ]
    versioning = await store.versioning() if rules else Versioning.OFF
    return bucket_checks.lifecycle_findings(rules, context.orphans, versioning)


async def bucket_binding(context: Context) -> Found:
    return bucket_checks.binding_findings(await read_binding(context.executor, _store(context)))


async def bucket_cleanup(context: Context) -> Found:
    store = _store(context)
    # The newest one may still run.
    runs = await context.executor.run(run_list_before(store.url, before_id=None, limit=2))
    return bucket_checks.run_findings(runs, store.url)


async def bucket_clock(context: Context) -> Found:
    probe = await context.bucket.get()
    if probe.put is None:
        return [NOT_PUT]
    there = probe.put.modified_at
    ahead = there - probe.after if there > probe.after else min(there - probe.before, timedelta(0))
    return bucket_checks.clock_findings(ahead, context.orphans, _store(context).url)


def _store(context: Context) -> ObjectStore:
    assert context.store is not None  # noqa: S101 - these checks run only with a store
    return context.store
