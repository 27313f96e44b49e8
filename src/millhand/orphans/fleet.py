"""Help with a run that another worker began: its chains are in the ledger, and whoever has time claims one."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime

from millhand.driver.protocol import Executor
from millhand.orphans.canary import Canaries
from millhand.orphans.chain_ledger import chain_list
from millhand.orphans.chains import help_scan
from millhand.orphans.config import OrphansConfig
from millhand.orphans.inventory import opened_inventory
from millhand.orphans.kin import Kinship
from millhand.orphans.ledger import RunLost, database_facts, run_get_scanned, run_get_unfinished
from millhand.orphans.listing import OutOfOrder
from millhand.orphans.references import open_references
from millhand.orphans.scan import Pass
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
    Judge chains of a run until none is free, and return how many were done here.

    A run that is over, that judges by other sources, or that is one chain gets no help. `now` is as in `reconcile`.

    Raises: SourceFailed; StoreError; DriverError. The chain is then somebody else's as soon as its lease is over.
    Concurrency: any number may help at once. May be cancelled or killed anywhere.
    """
    run = await executor.run(run_get_unfinished(store.url))
    if run is None or run.id != run_id or run.fingerprint != config.fingerprint or not run.is_ordered:
        return 0
    chains = await executor.run(chain_list(run))
    if len(chains) <= 1:
        return 0
    facts = await executor.run(database_facts())
    complete = await executor.run(run_get_scanned(store.url, config.fingerprint))
    pass_ = Pass(
        brought_now=now,
        canaries=Canaries(keys=sorted(key for chain in chains for key in chain.canaries)),
        complete_run_id=None if complete is None else complete.id,
        config=config,
        executor=executor,
        has_versions=False,  # for removing alone, which is the owner's
        is_exact=True,  # or there would be one chain
        is_helper=True,
        kin=Kinship.of(config),
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
