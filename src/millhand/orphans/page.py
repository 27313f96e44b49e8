"""The orphan cleanup: what its runs found, did and would not do, as its ledger has it. The page never asks the store."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from millhand.core.errors import NotFound
from millhand.orphans.page_changes import KEY_MAX, OrphanRestoreLine, load_restore_queue, load_restores
from millhand.orphans.report.ledger_lines import (
    OrphanFinding,
    OrphanKey,
    OrphanPeriods,
    OrphanRule,
    OrphanRun,
    Quarantine,
    finding_line,
    key_lines,
    periods_of,
    quarantine_lines,
    rule_lines,
    run_line,
)
from millhand.orphans.report.ledger_report import (
    COUNTED_MAX,
    LedgerRemoval,
    LedgerStore,
    finding_count,
    finding_list_of_key,
    finding_list_of_rules,
    ledger_get_shape,
    removal_list_alerts,
    removal_list_of_key,
    removal_list_quarantined,
    removal_sum_quarantined,
    run_list_before,
    store_list,
)
from millhand.shells.web.form import ID_MAX, whole_number
from millhand.shells.web.page import PageRequest

NUM_LISTED = 25
NUM_RUNS = 10


class OrphansPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    The cleanup of one store, or `key` alone if one was asked for.

    The cursors `after`, `runs_before` and `quarantine.after` are None after the last page. `alerts` are among the newest
    removals. In `restore_queue` a client works restores now; None if there is none. Without `is_recorded`, run
    `millhand migrate up`. With `is_hidden` the user has limits: the findings are of all rows. Without `periods`, the page
    does not know the settings, and so not the ends of periods.
    """

    stores: tuple[LedgerStore, ...] = ()
    store: LedgerStore | None = None
    periods: OrphanPeriods | None = None
    key: OrphanKey | None = None
    rules: tuple[OrphanRule, ...] = ()
    rule: int | None = None
    findings: tuple[OrphanFinding, ...] = ()
    after: int | None = None
    runs: tuple[OrphanRun, ...] = ()
    runs_before: int | None = None
    quarantine: Quarantine = Quarantine()
    alerts: tuple[LedgerRemoval, ...] = ()
    restore_queue: str | None = None
    restores: tuple[OrphanRestoreLine, ...] = ()
    counted_max: int = COUNTED_MAX
    is_recorded: bool = True
    is_hidden: bool = False


async def load(request: PageRequest) -> OrphansPage:
    """Load the cleanup of a store. Raises: NotFound for a store without runs; ValueError for an invalid parameter."""
    database, config, key = request.database, request.orphans, request.query.get("key")
    if key and (len(key) > KEY_MAX or "\0" in key):
        raise ValueError(f"key must have up to {KEY_MAX:,} characters and no null, got {len(key):,}")
    rule, after, before, quarantine_after = (
        number_of(request, name) for name in ("rule", "after", "before", "quarantine_after")
    )
    if request.user.is_limited:
        return OrphansPage(is_hidden=True)
    periods = periods_of(config)
    if not await database.has(ledger_get_shape):
        return OrphansPage(is_recorded=False, periods=periods)
    stores = await database.run(store_list())
    store = store_of(request, stores)
    if store is None:
        return OrphansPage(periods=periods)
    restores, queue = await load_restores(request, store.bucket), await load_restore_queue(request)
    if key:
        of_key = await database.run(finding_list_of_key(store.bucket, key, limit=NUM_LISTED))
        removals = await database.run(removal_list_of_key(store.bucket, key, limit=NUM_LISTED))
        explained = key_lines(key, of_key, removals, config)
        return OrphansPage(
            stores=tuple(stores),
            store=store,
            periods=periods,
            key=explained,
            restore_queue=queue,
            restores=tuple(one for one in restores if one.what == f"key {key}"),
        )
    runs = await database.run(run_list_before(store.bucket, before_id=before, limit=NUM_RUNS + 1))
    counts = await database.run(finding_count(store.bucket))
    held = await database.run(
        removal_list_quarantined(store.bucket, after=quarantine_after or 0, limit=NUM_LISTED + 1)
    )
    total = await database.run(removal_sum_quarantined(store.bucket))
    alerts = await database.run(removal_list_alerts(store.bucket, limit=NUM_LISTED))
    asked = [one for one in counts if rule is None or one.rule == rule]
    found = await database.run(finding_list_of_rules(asked, after=after or 0, limit=NUM_LISTED + 1))
    return OrphansPage(
        stores=tuple(stores),
        store=store,
        periods=periods,
        rules=rule_lines(counts, config),
        rule=rule,
        findings=tuple(finding_line(one, config) for one in found[:NUM_LISTED]),
        after=found[NUM_LISTED - 1].id if len(found) > NUM_LISTED else None,
        runs=tuple(run_line(run, request.now) for run in runs[:NUM_RUNS]),
        runs_before=runs[NUM_RUNS - 1].id if len(runs) > NUM_RUNS else None,
        quarantine=quarantine_lines(held, total, config, limit=NUM_LISTED),
        alerts=tuple(alerts),
        restore_queue=queue,
        restores=restores,
    )


def number_of(request: PageRequest, name: str) -> int | None:
    """Return a number of the query, None if it is missing. Raises: ValueError."""
    text = request.query.get(name, "")
    return whole_number(name, text, minimum=0, maximum=ID_MAX) if text else None


def store_of(request: PageRequest, stores: Sequence[LedgerStore]) -> LedgerStore | None:
    """Return the store of the query, or the first one. Raises: NotFound."""
    asked = request.query.get("store")
    if not asked:
        return next(iter(stores), None)
    for store in stores:
        if store.bucket == asked:
            return store
    raise NotFound("store", asked)
