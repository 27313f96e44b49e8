"""
One run of the orphan cleanup, from start to end.

    probe ─▶ begin, or take over from a process that died ─▶ binding ─▶ settle, heal ─▶ canaries, scan
          ─▶ near matches, alerts ─▶ guards ─▶ binding, undeclared references ─▶ sweep, purge ─▶ finish

A run ends as `completed`, as `aborted` if a guard does not let it act, or as `failed` with an exception. If another run over
the bucket is at work, the report's state is `busy`. The first complete run over a bucket, and the first one after its
sources changed, only reports, whatever the mode.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from millhand.core.clock import Clock, SystemClock
from millhand.core.errors import ConfigError, DriverError, MillhandError, OperationTimeout
from millhand.core.log.logger import logger_of
from millhand.core.orphans import Mode, OrphansConfig
from millhand.db.driver.protocol import Executor
from millhand.orphans.binding import read_binding, renew_binding
from millhand.orphans.event import OnEvent, OrphanEventKind
from millhand.orphans.inventory.differences import Differences, compare_report, open_differences
from millhand.orphans.inventory.duckdb_engine import Engine, opened_engine, while_beating
from millhand.orphans.inventory.inventory_report import DELAY, newest_report
from millhand.orphans.ledger import (
    ActionState,
    DatabaseFacts,
    Run,
    RunLost,
    Totals,
    action_get_open,
    database_facts,
    finding_delete_new,
    run_finish,
    run_get_most_rows,
    run_get_scanned,
    run_get_unfinished,
    run_insert,
    run_restart,
    run_scanned,
    run_take_over,
)
from millhand.orphans.removal.alerts import raise_missing_alerts, record_recalled
from millhand.orphans.removal.guard import (
    GuardFacts,
    abort_reasons,
    clock_abort_reasons,
    comparison_abort_reasons,
)
from millhand.orphans.removal.recovery import (
    purge_expired,
    restore_found,
    restore_recalled,
    settle_interrupted,
)
from millhand.orphans.removal.sweep import sweep
from millhand.orphans.removal.undeclared import note_unreadable, search_candidates
from millhand.orphans.removal.uploads import scan_uploads, sweep_uploads
from millhand.orphans.report.report import RunReport, report_of
from millhand.orphans.scan.canary import choose_canaries, find_dead
from millhand.orphans.scan.context import Progress, RunContext, RunState
from millhand.orphans.scan.derived import DerivedFrom
from millhand.orphans.scan.listing import OutOfOrder
from millhand.orphans.scan.lookup import find_object
from millhand.orphans.scan.near_match import find_near_matches
from millhand.orphans.scan.partitions import scan_bucket
from millhand.orphans.sources.blobs import with_blobs
from millhand.orphans.sources.references import open_references
from millhand.storage import ObjectStore

LEASE = timedelta(seconds=60)  # a run without a heartbeat for this long may be taken over
RESUME_WITHIN = timedelta(days=1)  # an older run is not continued: what it saw is too old

logger = logger_of(__name__)


async def reconcile(
    executor: Executor,
    store: ObjectStore,
    config: OrphansConfig,
    *,
    clock: Clock | None = None,
    now: datetime | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_event: OnEvent | None = None,
    differences: Path | None = None,
) -> RunReport:
    """
    Compare all rows with all objects, act on the differences as the mode says, and return a report.

    `differences` is a file that another engine has made of an inventory: only the keys in it are evaluated.

    Units: `now` is the instant that ages are measured from; None is the database's clock. `executor` is a pool.
    Raises: ConfigError; SourceFailed; StoreError; DriverError; RunLost. The run then acts on nothing that it saw.
    Concurrency: one run over a bucket at a time; a second one reports `busy`. Safe to cancel or kill at any point.
    """
    started = time.monotonic()
    config = await with_blobs(executor, store, config)
    references = await open_references(executor, config)
    facts = await executor.run(database_facts())
    check_database(facts)
    capabilities = await store.probe()
    process_now = (clock or SystemClock()).now()
    run = await _begin(executor, store.url, config, now or facts.now, is_ordered=capabilities.is_ordered)
    if run is None:
        return RunReport(bucket=store.url, mode=config.mode, state="busy", seconds=time.monotonic() - started)
    # Read again: a process that was stalled until its run was in the ledger would record ages that are too high. If it is
    # stalled from here on, another process takes the run over.
    began_at = now or (await executor.run(database_facts())).now
    context = RunContext(
        capabilities=capabilities,
        config=config,
        derived=DerivedFrom.of(config),
        executor=executor,
        ledger_now=now,
        now=began_at,
        on_event=on_event,
        previous=await executor.run(run_get_scanned(store.url, config.fingerprint)),
        progress=progress,
        references=references,
        run=run,
        started=started,
        store=store,
    )
    state = RunState(totals=run.totals)
    most_rows = run_get_most_rows(store.url, config.fingerprint, grace=config.grace, now=began_at)
    guard = GuardFacts(
        config=config,
        database_now=facts.now,
        hiding_error=capabilities.hiding_error,
        is_writable=capabilities.is_writable,
        most_rows=await executor.run(most_rows),
        previous=None if context.previous is None else context.previous.totals,
        process_now=process_now,
        store_now=capabilities.store_now,
        totals=state.totals,
    )
    try:
        report = await _go(context, state, guard, differences)
    except RunLost:
        raise
    except Exception as error:
        await _fail(context, error)
        raise
    return replace(report, is_resumed=run.is_taken_over, seconds=time.monotonic() - started)


async def _go(context: RunContext, state: RunState, guard: GuardFacts, differences: Path | None) -> RunReport:
    # A step may last longer than the lease: a wave of copies, a slow listing, a query of minutes.
    reasons = await while_beating(_steps(context, state, guard, differences), lambda: _beat(context))
    run, totals = context.run, state.totals
    run_state = "aborted" if reasons else "completed"
    await context.executor.run(
        run_finish(run, state=run_state, now=context.ledger_now, totals=totals, abort_reasons=reasons)
    )
    report = report_of(
        run, totals, mode=context.mode, state=run_state, reasons=reasons, is_first=context.is_first
    )
    kind = OrphanEventKind.RUN_ABORTED if reasons else OrphanEventKind.RUN_COMPLETED
    context.emit(kind, "; ".join(reasons), report.fields())
    return report


async def _beat(context: RunContext) -> None:
    """Write the heartbeat. Raises: RunLost."""
    # A transaction of this run may lock the run's row for too long. The next heartbeat follows.
    with contextlib.suppress(DriverError, OperationTimeout):
        await context.beat()


async def _steps(
    context: RunContext, state: RunState, guard: GuardFacts, differences: Path | None
) -> tuple[str, ...]:
    """Take all steps, and return why the run stopped before the last one; empty if it did not."""
    # If clocks disagree, ages in the ledger would be wrong for ever, so such a run records nothing.
    if reasons := clock_abort_reasons(guard) or await _bind(context, is_writable=guard.is_writable):
        return reasons
    await settle_interrupted(context, state)
    await restore_recalled(context, state)
    if reasons := await _scan(context, state, guard, differences):
        # Nothing of it counts, neither as a sighting nor as a first run, and `grace` does not begin with it.
        await context.executor.run(finding_delete_new(context.run))
        return reasons
    await context.executor.run(run_scanned(context.run, now=context.now, beat_at=context.ledger_now))
    await record_recalled(context, state)
    await raise_missing_alerts(context, state)
    await find_near_matches(context, state)
    if not context.may_act:
        await note_unreadable(context, state)
    if not await _has_work(context, state.totals):
        return ()
    return abort_reasons(replace(guard, totals=state.totals)) or await _act(context, state)


async def _bind(context: RunContext, *, is_writable: bool) -> tuple[str, ...]:
    """Bind the bucket, or renew its binding, in any mode. Return why this database must not evaluate the bucket, if so."""
    if is_writable:
        # With nothing to remove too: otherwise a clean bucket would not notice that its database was restored.
        return await renew_binding(context.executor, context.store, now=context.now)
    return (await read_binding(context.executor, context.store)).abort_reasons()


async def _scan(
    context: RunContext, state: RunState, guard: GuardFacts, differences: Path | None
) -> tuple[str, ...]:
    """Scan the whole bucket, and return why the result cannot be trusted; empty if it can."""
    config, store = context.config, context.store
    keys = await choose_canaries(context.references, store, config, after=context.run.cursor_key)
    found, due = await scan_uploads(context)
    if differences is not None or config.inventory is not None:
        if reasons := await _scan_differences(context, state, guard, keys, differences):
            return reasons
    else:
        state.expect_canaries(keys)
        await _scan_objects(context, state)
    # After the scan, which starts to count again if the listing is unordered.
    state.count_uploads(found=found, due=due)
    return await find_dead(context.references, store, config, state.canaries)


async def _scan_differences(
    context: RunContext, state: RunState, guard: GuardFacts, canaries: Sequence[str], differences: Path | None
) -> tuple[str, ...]:
    """Evaluate the keys that differ, and return why the comparison cannot be trusted; empty if it can."""
    config = context.config
    subject = str(differences or config.inventory)
    with opened_engine(subject, memory=config.inventory_memory, parent=config.inventory_directory) as engine:
        if differences is not None:
            written = await open_differences(
                engine, differences, context.config, bucket=context.store.url, now=context.now
            )
            await _expect_reported(context, state, canaries, written.created_at)
            compared = await written.read(state.canaries.keys)
        else:
            compared = await _compared(context, state, engine, canaries)
        state.add_live_canaries(set(state.canaries.keys).difference(compared.wrong_canaries))
        # Before the keys are looked up: a report that lacks objects has many. And the scan deletes findings of earlier runs.
        totals = Totals(objects=compared.all_objects, rows_of=compared.rows_of)
        if reasons := (
            *await find_dead(context.references, context.store, config, state.canaries),
            *comparison_abort_reasons(
                replace(guard, totals=totals), is_by_another_engine=differences is not None
            ),
        ):
            return reasons
        state.expect_canaries(())
        await scan_bucket(replace(context, differences=compared), state)
        state.expect_canaries(())  # those of the process before, if it listed the bucket
    return ()


async def _compared(
    context: RunContext, state: RunState, engine: Engine, canaries: Sequence[str]
) -> Differences:
    """Compare the newest report with the rows."""
    config, store = context.config, context.store
    async with newest_report(str(config.inventory), store, now=context.now) as report:
        await _expect_reported(context, state, canaries, report.manifest.created_at)
        return await compare_report(
            engine,
            context.executor,
            context.references,
            report,
            config,
            bucket=store.url,
            canaries=state.canaries.keys,
        )


async def _expect_reported(
    context: RunContext, state: RunState, canaries: Sequence[str], created_at: datetime
) -> None:
    """Expect the canaries that are old enough to be in the report of this time."""
    infos = [await find_object(context.store, key) for key in canaries]
    state.expect_canaries(
        [info.key for info in infos if info is not None and info.modified_at < created_at - DELAY]
    )


async def _scan_objects(context: RunContext, state: RunState) -> None:
    try:
        await scan_bucket(context, state)
    except OutOfOrder:
        logger.warning("orphan cleanup found the listing unordered", extra={"operation": "list"})
        await context.executor.run(run_restart(context.run))
        state.restart()
        run = replace(context.run, cursor_key="", is_ordered=False)
        await scan_bucket(replace(context, run=run), state)


async def _has_work(context: RunContext, totals: Totals) -> bool:
    """Return whether the run may act, and there is something to remove or to purge."""
    if not context.may_act:
        return False
    if totals.due or totals.due_uploads:
        return True
    query = action_get_open(context.run.bucket, state=ActionState.QUARANTINED, after=0, limit=1)
    quarantined = await context.executor.run(query)
    return bool(quarantined)


async def _act(context: RunContext, state: RunState) -> tuple[str, ...]:
    """Remove what is due, and return why the run stopped before the end; empty if it did not."""
    reasons = await renew_binding(context.executor, context.store, now=context.now)
    if reasons:
        return reasons
    found = await search_candidates(context, state)
    await restore_found(context, state, found)
    if found.reasons:
        return found.reasons
    await sweep_uploads(context, state)
    failed = await sweep(context, state, found)
    if failed is not None:
        rule = "a wave must finish without a failure"
        return (f"{rule}, got {failed}; fix the cause, and the next run continues",)
    if context.mode is Mode.DELETE:
        await purge_expired(context, state, found)
    return ()


async def _fail(context: RunContext, error: Exception) -> None:
    """Write the failure to the ledger, if the database still answers. Otherwise the run's lease expires."""
    reason = f"{type(error).__name__}: {error}"
    context.emit(OrphanEventKind.RUN_FAILED, reason)
    with contextlib.suppress(MillhandError):
        await context.executor.run(
            run_finish(context.run, state="failed", now=context.ledger_now, error=reason.replace("\0", ""))
        )


async def _begin(
    executor: Executor, bucket: str, config: OrphansConfig, now: datetime, *, is_ordered: bool
) -> Run | None:
    """Begin a run, or take over the run of a process that died; None if another process is at work."""
    unfinished = await executor.run(run_get_unfinished(bucket))
    if unfinished is not None:
        if now - unfinished.heartbeat_at < LEASE:
            return None
        # A run that had begun to remove is not continued: what was due may have changed, so everything is scanned again.
        is_alike = (unfinished.mode, unfinished.fingerprint) == (config.mode, config.fingerprint)
        if unfinished.scanned_at is None and is_alike and now - unfinished.started_at <= RESUME_WITHIN:
            return await executor.run(run_take_over(unfinished, now=now))
        died = run_finish(unfinished, state="failed", now=now, error="its process died; a new run began")
        try:
            await executor.run(died)
        except RunLost:  # another process took it over first
            return None
    return await executor.run(
        run_insert(
            bucket=bucket, mode=config.mode, fingerprint=config.fingerprint, now=now, is_ordered=is_ordered
        )
    )


def check_database(facts: DatabaseFacts) -> None:
    """Check that the database is a primary and in UTF-8. Raises: ConfigError."""
    if facts.is_standby:
        raise ConfigError(
            "orphan cleanup must read the primary, got a standby, which may lag behind; give the primary's DATABASE_URL"
        )
    if facts.encoding != "UTF8":
        raise ConfigError(
            f"orphan cleanup must compare keys as UTF-8, got a database encoded in {facts.encoding!r}; "
            "use a database with ENCODING 'UTF8'"
        )
