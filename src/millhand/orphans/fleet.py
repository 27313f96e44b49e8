"""Help with a run that another worker began: its partitions are in the ledger, and whoever has time claims one."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime

from millhand.driver.protocol import Executor
from millhand.orphans.config import OrphansConfig
from millhand.orphans.ledger import RunLost, database_facts, run_get_scanned, run_get_unfinished
from millhand.orphans.scan.canary import Canaries
from millhand.orphans.scan.derived import DerivedFrom
from millhand.orphans.scan.inventory import opened_inventory
from millhand.orphans.scan.listing import OutOfOrder
from millhand.orphans.scan.partition_ledger import partition_list
from millhand.orphans.scan.partitions import help_scan
from millhand.orphans.scan.scan import Pass
from millhand.orphans.sources.references import open_references
from millhand.storage import ObjectStore


async def help_run(
    executor: Executor,
    store: ObjectStore,
    config: OrphansConfig,
    run_id: int,
    *,
    now: datetime | None = None,
) -> int:
    """
    Judge partitions of a run until none is free, and return how many were done here.

    A run that is over, that judges by other sources, or that is one partition gets no help. `now` is as in `reconcile`.

    Raises: SourceFailed; StoreError; DriverError. The partition is then somebody else's as soon as its lease is over.
    Concurrency: any number may help at once. May be cancelled or killed anywhere.
    """
    run = await executor.run(run_get_unfinished(store.url))
    if run is None or run.id != run_id or run.fingerprint != config.fingerprint or not run.is_ordered:
        return 0
    partitions = await executor.run(partition_list(run))
    if len(partitions) <= 1:
        return 0
    facts = await executor.run(database_facts())
    complete = await executor.run(run_get_scanned(store.url, config.fingerprint))
    pass_ = Pass(
        brought_now=now,
        canaries=Canaries(keys=sorted(key for partition in partitions for key in partition.canaries)),
        complete_run_id=None if complete is None else complete.id,
        config=config,
        executor=executor,
        has_versions=False,  # for removing alone, which is the owner's
        is_exact=True,  # or there would be one partition
        is_helper=True,
        kin=DerivedFrom.of(config),
        now=now or facts.now,
        progress=None,
        references=await open_references(executor, config),
        run=run,
        started=time.monotonic(),
        store=store,
    )
    try:
        if config.inventory is None:
            return await help_scan(pass_)
        async with opened_inventory(config.inventory, store, now=pass_.now) as inventory:
            return await help_scan(replace(pass_, inventory=inventory))
    except (OutOfOrder, RunLost):
        # The one is for the run's owner to find out; after the other it is nobody's run.
        return 0
