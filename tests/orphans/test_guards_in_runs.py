"""Guards without numbers: a slow source, an unsuitable database, and the pace of a sweep."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from adversary import ChaosExecutor
from patient_executor import PatientExecutor
from world import World

from millhand.core.errors import ConfigError
from millhand.orphans import SourceFailed, list_runs, reconcile

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def nothing(operation: str) -> None:
    """Do nothing."""


async def has_due(world: World, number: int) -> None:
    """Make a live pair, and so many orphans that the next run removes."""
    await world.pair("live")
    for one in range(number):
        await world.put(f"orphan/{one:03}")
    await world.run(after=2 * HOUR)
    world.now += WEEK


@pytest.mark.slow
async def test_a_source_that_times_out_deletes_nothing(world: World) -> None:
    """A read that exceeds `source_timeout` ends the run, and the error names the source."""
    await has_due(world, 1)
    uploads, avatars = world.config.sources
    late = replace(avatars, select=f"SELECT a.key FROM pg_sleep(60), {world.schema}.avatars AS a")
    patient = replace(world, executor=PatientExecutor(world.executor, "pg_sleep"))

    with pytest.raises(SourceFailed) as failed:
        await patient.run(sources=(uploads, late), source_timeout=timedelta(seconds=0.2))

    assert str(failed.value).startswith("orphans source 'avatars' must return all its rows, got ")
    assert failed.value.reason.endswith(" must answer within 0.2 s, got no answer")
    assert await world.keys() == ["live", "orphan/000"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"is_standby": True},
            "orphan cleanup must read the primary, got a standby, which may lag behind; give the primary's DATABASE_URL",
        ),
        (
            {"encoding": "LATIN1"},
            (
                "orphan cleanup must compare keys as UTF-8, got a database encoded in 'LATIN1'; "
                "use a database with ENCODING 'UTF8'"
            ),
        ),
    ],
    ids=["standby", "encoding"],
)
async def test_a_standby_or_another_encoding_begins_no_run(
    world: World, changes: dict[str, Any], message: str
) -> None:
    """A standby may lack rows, and another encoding cannot hold every key, so neither begins a run."""
    await has_due(world, 1)

    class Other(ChaosExecutor):
        async def run(self, query: Any) -> Any:
            answer = await super().run(query)
            return replace(answer, **changes) if query.name == "orphan_database_facts" else answer

    with pytest.raises(ConfigError) as invalid:
        await reconcile(Other(world.executor, nothing), world.store, world.config, now=world.now)

    assert str(invalid.value) == message
    assert len(await list_runs(world.executor)) == 1
