"""The services that leaders run, built from the configuration."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from factory import NOW
from millhand.capabilities import CAPABILITIES
from millhand.core.archive import Archive
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.core.job import ClientId
from millhand.db.driver.protocol import Executor
from millhand.dead_jobs.capability import DeadJobs
from millhand.engine.capability import ClientContext, LeaderContext
from millhand.engine.elector import Elector
from millhand.engine.inserter import Inserter
from millhand.engine.lock_wait import LockWaits
from millhand.engine.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from millhand.engine.queues import WorkedQueues
from millhand.engine.registration import Registration
from millhand.engine.service import WakeReason
from millhand.engine.services import kind_watcher, periodic_services, queue_rules_of, river_services
from millhand.engine.subscription import Subscriptions

ME = ClientId("me")
ALWAYS = ["JobScheduler", "JobRescuer", "JobCleaner", "QueueCleaner"]


def leader_of(tx: Executor, config: Config) -> LeaderContext:
    client = ClientContext(
        client_id=ME, config=config, locks=LockWaits(tx), pool=tx, works=bool, on_rules_changed=print
    )
    return LeaderContext(
        client_id=ME,
        config=config,
        inserter=Inserter(tx, config),
        pool=tx,
        registration=Registration(),
        rules=queue_rules_of(CAPABILITIES, client),
    )


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({}, ["Reindexer", "StepDownWatcher"]),
        ({"reindexer_schedule": None}, ["StepDownWatcher"]),
        ({"prefer_other_leaders": False}, ["Reindexer"]),
    ],
    ids=["all", "no reindexer", "no step-down"],
)
async def test_leader_of_rivers_role_runs_the_services_of_the_configuration(
    tx: Executor, settings: dict[str, Any], more: list[str]
) -> None:
    """The scheduler starts first, and optional services come last."""
    config = Config(**settings)
    elector = Elector(tx, ME, clock=config.clock, on_term=print)

    services = river_services(
        config, tx, elector=elector, inserter=Inserter(tx, config), registration=Registration()
    )

    assert [service.name for service in services] == [*ALWAYS, *more]


async def test_leader_of_the_periodic_role_inserts_rescues_and_cleans(tx: Executor) -> None:
    """The enqueuer starts first, so that a due job does not wait."""
    config = Config()
    inserter = Inserter(tx, config)
    enqueuer = PeriodicJobEnqueuer(inserter, clock=config.clock)

    services = periodic_services(leader_of(tx, config), CAPABILITIES, enqueuer=enqueuer)

    names = [
        "PeriodicJobEnqueuer",
        "ClientRescuer",
        "ClientCleaner",
        "LimitMaintainer",
        "ScheduleRunner",
        "FlowMaintainer",
        "DeadJobCopier",
        "HistoryWriter",
        "FleetWatcher",
    ]
    assert [service.name for service in services] == names


@pytest.mark.parametrize("fetches_known", [True, False])
async def test_only_a_client_of_known_kinds_watches_for_others(tx: Executor, *, fetches_known: bool) -> None:
    """A client that fetches all kinds leaves none to others."""
    config = Config(fetch_only_known_kinds=fetches_known)
    queues = WorkedQueues(
        config,
        tx,
        client_id=ME,
        execute=lambda _: pytest.fail("no job is fetched"),
        subscriptions=Subscriptions(),
    )

    assert (kind_watcher(config, tx, ME, queues) is not None) is fetches_known


async def test_copier_wakes_for_a_discard_that_is_new(tx: Executor) -> None:
    """The instant of the last discard comes with each pass of the history; only another one wakes the copier."""
    leader = leader_of(tx, Config())
    [copier] = DeadJobs().periodic_services(leader)
    reasons = []
    for at in (None, NOW, NOW, None, NOW + timedelta(seconds=1)):
        leader.report_discarded(at)
        reasons.append(await copier.wake_event.wait(0))

    timeout, woken = WakeReason.TIMEOUT, WakeReason.SET
    assert reasons == [timeout, woken, timeout, timeout, woken]


def archive_services(tx: Executor, archive: Archive) -> list[str]:
    config = Config(archive=archive)
    inserter = Inserter(tx, config)
    services = periodic_services(
        leader_of(tx, config), CAPABILITIES, enqueuer=PeriodicJobEnqueuer(inserter, clock=config.clock)
    )
    return [service.name for service in services]


async def test_only_a_client_with_an_archive_has_an_archiver(
    tx: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there with an archive; without DuckDB a client with Parquet does not start."""
    parquet, lines = Archive(url="s3://bucket"), Archive(url="s3://bucket", format="jsonl")
    assert "JobArchiver" in archive_services(tx, parquet)

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "JobArchiver" in archive_services(tx, lines)
    with pytest.raises(ConfigError) as caught:
        archive_services(tx, parquet)

    assert str(caught.value) == (
        "archive.format 'parquet' needs duckdb, which is not installed; run: pip install 'millhand[inventory]', "
        "or set format to 'jsonl'"
    )
