"""Limits that the code of a client declares, and the first read of the limits."""

from __future__ import annotations

import pytest

from client_harness import Act, ClientHarness
from millhand.client import Client
from millhand.core.config import QueueConfig
from millhand.core.limit import Limit
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.limits.store import limit_list, limit_set
from millhand.limits.watcher import LimitWatcher
from millhand.testing import Probe

ONE, TWO = Limit(at_once=1), Limit(at_once=2)


def watcher(client: Client) -> LimitWatcher:
    assert client._engine is not None
    return client._engine.rules.watcher


async def act(job: Job[Act]) -> None:
    """Do nothing."""


async def known(client: Client, queue: str, limit: Limit) -> None:
    """Wait until a client knows the limit of a queue."""
    probe = Probe(watcher(client))
    while (found := watcher(client).limits.get(queue)) is None or found.limit != limit:
        await probe.wait("read")


@pytest.mark.slow
async def test_worker_declares_the_limits_of_its_queues(harness: ClientHarness) -> None:
    """A queue of the configuration, and one that is added later, have their limits before the first fetch."""
    workers = Workers()
    workers.add()(act)
    queues = {"declared_a": QueueConfig(max_workers=1, limit=ONE), "declared_b": 1}

    async with harness.client(workers, queues=queues) as client:
        first = dict(watcher(client).limits)
        await client.add_queue("declared_c", QueueConfig(max_workers=1, limit=TWO))
        second = dict(watcher(client).limits)

    assert first["declared_a"].limit == ONE
    assert "declared_b" not in first
    assert second["declared_c"].limit == TWO


@pytest.mark.slow
async def test_running_client_hears_of_a_change(harness: ClientHarness) -> None:
    """A limit that is set while a client runs reaches it by a notification."""
    workers = Workers()
    workers.add()(act)

    async with harness.client(workers, queues={"declared_d": 1}) as client:
        await harness.driver.pool.run(limit_set("declared_d", ONE))
        await known(client, "declared_d", ONE)
        await harness.driver.pool.run(limit_set("declared_d", TWO))
        await known(client, "declared_d", TWO)


@pytest.mark.slow
async def test_client_that_only_inserts_knows_the_limits(harness: ClientHarness) -> None:
    """A client without queues reads the limits at its start, and declares none."""
    await harness.driver.pool.run(limit_set("declared_e", ONE))

    async with Client(harness.url) as client:
        assert watcher(client).limits["declared_e"].limit == ONE

    assert [
        one.row.declared for one in await harness.driver.pool.run(limit_list(queue="declared_e")) if one.row
    ] == [None]
