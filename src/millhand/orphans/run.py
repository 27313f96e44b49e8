"""
One run from beginning to end.

    probe ─▶ run (begun, or taken over from a worker that died) ─▶ binding ─▶ settle, heal ─▶ canaries, scan
          ─▶ near matches, alerts ─▶ guards ─▶ binding, undeclared references ─▶ sweep, purge ─▶ end

A run that fails says so in the ledger and raises; one that may not act is `refused`; one that finds another at work is
`busy`. The first complete run over a bucket, or after its sources changed, is a report whatever the mode.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from millhand.clock import Clock, SystemClock
from millhand.driver.protocol import Executor
from millhand.errors import ConfigError, MillhandError
from millhand.orphans.binding import advance_binding, read_binding, renew_binding
from millhand.orphans.config import Mode, OrphansConfig
from millhand.orphans.event import OnEvent, OrphanEventKind
from millhand.orphans.ledger import (
    ActionState,
    DatabaseFacts,
    Run,
    RunLost,
    Totals,
    action_get_open,
    database_facts,
    run_finish,
    run_get_scanned,
    run_get_unfinished,
    run_insert,
    run_restart,
    run_scanned,
    run_take_over,
)
from millhand.orphans.removal.alerts import raise_missing_alerts, record_recalled
from millhand.orphans.removal.guard import GuardFacts, clock_refusals, refusals
from millhand.orphans.removal.recovery import heal, purge, settle
from millhand.orphans.removal.sweep import sweep
from millhand.orphans.removal.undeclared import find_undeclared
from millhand.orphans.removal.uploads import scan_uploads, sweep_uploads
from millhand.orphans.report.report import RunReport, report_of
from millhand.orphans.scan.canary import Canaries, choose_canaries, find_dead
from millhand.orphans.scan.derived import DerivedFrom
from millhand.orphans.scan.inventory import opened_inventory
from millhand.orphans.scan.listing import OutOfOrder
from millhand.orphans.scan.near_match import vet
from millhand.orphans.scan.partitions import scan
from millhand.orphans.scan.scan import AskForHelp, Pass, Progress
from millhand.orphans.sources.references import open_references
from millhand.storage import ObjectStore

LEASE = timedelta(seconds=60)  # a run whose heart has not beaten for so long is nobody's
RESUME_WITHIN = timedelta(days=1)  # an older one is not gone on with: what it saw is too old

logger = logging.getLogger(__name__)


async def reconcile(
    executor: Executor,
    store: ObjectStore,
    config: OrphansConfig,
    *,
    clock: Clock | None = None,
    now: datetime | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_event: OnEvent | None = None,
    ask_for_help: AskForHelp | None = None,
) -> RunReport:
    """
    Compare all rows with all objects and do about it what the mode says.

    `ask_for_help` is told of a run that others may share (`help_run`), and how many of them at most.

    Units: `now` is the instant that ages are reckoned by; None is the database's own clock. `executor` is a pool.
    Raises: ConfigError; SourceFailed; StoreError; DriverError; RunLost. Nothing that was seen is then acted upon.
    Concurrency: one run over a bucket at a time; a second one reports `busy`. May be cancelled or killed anywhere.
    """
    started = time.monotonic()
    references = await open_references(executor, config)
    facts = await executor.run(database_facts())
    _check_database(facts)
    capabilities = await store.probe()
    process_now = (clock or SystemClock()).now()
    instant = now or facts.now
    previous = await executor.run(run_get_scanned(store.url, config.fingerprint))
    begun = await _begin(executor, store.url, config, instant, is_ordered=capabilities.is_ordered)
    if begun is None:
        return RunReport(bucket=store.url, mode=config.mode, state="busy", seconds=time.monotonic() - started)
    if begun.is_stale_scanned:
        previous = await executor.run(run_get_scanned(store.url, config.fingerprint))
    pass_ = Pass(
        ask_for_help=ask_for_help,
        brought_now=now,
        canaries=Canaries(),
        complete_run_id=None if previous is None else previous.id,
        config=config,
        executor=executor,
        has_versions=capabilities.has_versions,
        is_exact=capabilities.has_exact_start_after,
        kin=DerivedFrom.of(config),
        now=instant,
        on_event=on_event,
        progress=progress,
        references=references,
        run=begun.run,
        started=started,
        store=store,
    )
    guard = GuardFacts(
        config=config,
        database_now=facts.now,
        is_writable=capabilities.is_writable,
        previous=None if previous is None else previous.totals,
        process_now=process_now,
        store_now=capabilities.store_now,
        totals=begun.run.totals,
    )
    is_first = previous is None
    try:
        report = await _go(pass_, guard, is_first=is_first)
    except RunLost:
        raise
    except Exception as error:
        await _fail(pass_, error)
        raise
    return replace(report, is_resumed=begun.is_resumed, seconds=time.monotonic() - started)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """A run that is ours; `is_stale_scanned` if one had to be closed before it that had seen the whole bucket."""

    is_resumed: bool = False
    is_stale_scanned: bool = False
    run: Run


async def _go(pass_: Pass, guard: GuardFacts, *, is_first: bool) -> RunReport:
    mode = Mode.REPORT if is_first else pass_.config.mode
    binding = await read_binding(pass_.executor, pass_.store)
    # Where clocks disagree, an age that is written down would be wrong for ever, whatever is refused today.
    if reasons := (*clock_refusals(guard), *binding.refusals()):
        return await _end(pass_, mode, reasons, is_first=is_first)
    if mode is not Mode.REPORT and guard.is_writable:
        # With nothing to remove too: a bucket in good order would otherwise never know that its database was restored.
        await advance_binding(pass_.executor, pass_.store, binding)
    await settle(pass_, may_act=mode is not Mode.REPORT)
    await heal(pass_)
    pass_, reasons = await _see(pass_)
    if reasons:
        # Nothing of it counts, neither as a sighting nor as a first run.
        return await _end(pass_, mode, reasons, is_first=is_first)
    await pass_.executor.run(run_scanned(pass_.run, now=pass_.now, beat_at=pass_.brought_now))
    await record_recalled(pass_)
    await raise_missing_alerts(pass_)
    await vet(pass_, is_first=is_first)
    totals = pass_.run.totals
    if mode is not Mode.REPORT and (totals.due or totals.due_uploads or await _has_quarantined(pass_)):
        reasons = refusals(replace(guard, totals=totals)) or await _act(pass_, mode)
    return await _end(pass_, mode, reasons, is_first=is_first)


async def _end(pass_: Pass, mode: Mode, reasons: tuple[str, ...], *, is_first: bool) -> RunReport:
    state = "refused" if reasons else "completed"
    totals = pass_.run.totals
    await pass_.executor.run(
        run_finish(pass_.run, state=state, now=pass_.brought_now, totals=totals, refusals=reasons)
    )
    report = report_of(pass_, mode, state, reasons, is_first=is_first)
    kind = OrphanEventKind.RUN_REFUSED if reasons else OrphanEventKind.RUN_COMPLETED
    pass_.announce(kind, "; ".join(reasons), report.fields())
    return report


async def _see(pass_: Pass) -> tuple[Pass, tuple[str, ...]]:
    """Look at all of the bucket, and return why what was seen cannot be trusted, if so."""
    references, store, config = pass_.references, pass_.store, pass_.config
    pass_.canaries.keys = await choose_canaries(references, store, config, after=pass_.run.cursor_key)
    uploads = await scan_uploads(pass_)
    if config.inventory is None:
        pass_ = await _scan(pass_)
    else:
        async with opened_inventory(config.inventory, store, now=pass_.now) as inventory:
            pass_.canaries.keys = await inventory.expected(store, pass_.canaries.keys)
            pass_ = replace(await _scan(replace(pass_, inventory=inventory)), inventory=None)
    pass_.run.totals.uploads, pass_.run.totals.due_uploads = uploads.found, uploads.due
    return pass_, await find_dead(references, store, config, pass_.canaries)


async def _scan(pass_: Pass) -> Pass:
    try:
        await scan(pass_)
    except OutOfOrder:
        logger.warning("orphan cleanup found the listing unordered", extra={"operation": "list"})
        await pass_.executor.run(run_restart(pass_.run))
        before = pass_.run.totals
        totals = Totals(kept=before.kept, removed=before.removed, restored=before.restored)
        pass_ = replace(pass_, run=replace(pass_.run, cursor_key="", is_ordered=False, totals=totals))
        await scan(pass_)
    return pass_


async def _act(pass_: Pass, mode: Mode) -> tuple[str, ...]:
    reasons = await renew_binding(pass_.executor, pass_.store, now=pass_.now)
    if reasons := reasons or await find_undeclared(pass_):
        return reasons
    await sweep_uploads(pass_)
    failed = await sweep(pass_)
    if failed is not None:
        reason = f"a wave must go through without a failure, got {failed.reason}; mend it, and the next run goes on"
        return (reason,)
    if mode is Mode.DELETE:
        await purge(pass_)
    return ()


async def _has_quarantined(pass_: Pass) -> bool:
    query = action_get_open(pass_.run.bucket, state=ActionState.QUARANTINED, after=0, limit=1)
    quarantined = await pass_.executor.run(query)
    return bool(quarantined)


async def _begin(
    executor: Executor, bucket: str, config: OrphansConfig, now: datetime, *, is_ordered: bool
) -> _Begun | None:
    """Take over the run of a worker that died, or begin one; None if somebody is at it."""
    unfinished = await executor.run(run_get_unfinished(bucket))
    if unfinished is not None:
        if now - unfinished.heartbeat_at < LEASE:
            return None
        if _is_resumable(unfinished, config, now):
            taken = await executor.run(run_take_over(unfinished, now=now))
            return None if taken is None else _Begun(run=taken, is_resumed=True)
        try:
            await executor.run(
                run_finish(unfinished, state="failed", now=now, error="the worker died; begun anew")
            )
        except RunLost:
            return None
    run = await executor.run(
        run_insert(
            bucket=bucket, mode=config.mode, fingerprint=config.fingerprint, now=now, is_ordered=is_ordered
        )
    )
    is_stale_scanned = unfinished is not None and unfinished.scanned_at is not None
    return None if run is None else _Begun(run=run, is_stale_scanned=is_stale_scanned)


def _is_resumable(run: Run, config: OrphansConfig, now: datetime) -> bool:
    # One that had begun to sweep is not: what it meant to do may no longer be right, so all of it is looked at again.
    is_alike = (run.mode, run.fingerprint) == (config.mode, config.fingerprint)
    return run.scanned_at is None and is_alike and now - run.started_at <= RESUME_WITHIN


async def _fail(pass_: Pass, error: Exception) -> None:
    """Close the run, if the database still lets us; a lease that runs out does the same."""
    reason = f"{type(error).__name__}: {error}"
    pass_.announce(OrphanEventKind.RUN_FAILED, reason)
    with contextlib.suppress(MillhandError):
        await pass_.executor.run(
            run_finish(pass_.run, state="failed", now=pass_.brought_now, error=reason.replace("\0", ""))
        )


def _check_database(facts: DatabaseFacts) -> None:
    if facts.is_standby:
        raise ConfigError(
            "orphan cleanup must read the primary, got a standby, which may lag behind; give the primary's DATABASE_URL"
        )
    if facts.encoding != "UTF8":
        raise ConfigError(
            f"orphan cleanup must compare keys as UTF-8, got a database encoded in {facts.encoding!r}; "
            "use a database with ENCODING 'UTF8'"
        )
