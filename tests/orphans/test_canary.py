"""Canaries: a run that does not find them live aborts, and nothing that it saw counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from adversary import ChaosExecutor, ChaosStore
from world import World

from millhand.orphans import reconcile
from millhand.storage import Upload

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def nothing(operation: str) -> None:
    """Do nothing."""


class BrokenIndex(ChaosExecutor):
    """A database whose index on the key has lost an entry, as after a new version of a collation."""

    async def fetch(self, sql: str, params: Sequence[Any] = (), **options: Any) -> list[dict[str, Any]]:
        rows = await super().fetch(sql, params, **options)
        return [row for row in rows if "ORDER BY" not in sql or row.get("key") != "live/2"]


class NamesEverything(ChaosExecutor):
    """A database that names any key that it is asked for."""

    async def fetch(self, sql: str, params: Sequence[Any] = (), **options: Any) -> list[dict[str, Any]]:
        rows = await super().fetch(sql, params, **options)
        if "canary" not in str(params):
            return rows
        return [{"key": params[0][0], "state": "ready"}]  # type: ignore[index]


async def test_a_canary_that_the_scan_does_not_find_live_aborts_the_run(world: World) -> None:
    """A live row that range reads miss aborts every run. Such sightings do not count, nor does `grace` begin with them."""
    await world.pair("live/1", "live/2", "live/3")
    world.now += 2 * HOUR
    broken = BrokenIndex(world.executor, nothing)

    reports = []
    for _ in range(3):
        reports.append(await reconcile(broken, world.store, world.config, now=world.now))
        world.now += WEEK

    assert [(report.state, report.is_first, report.deleted) for report in reports] == [
        ("aborted", True, 0)
    ] * 3
    assert reports[0].abort_reasons == (
        (
            "an object that exists and has a row must be live, got another result for 'live/2'; "
            "nothing that this run saw counts; check that the listing and the sources write keys alike"
        ),
    )
    assert await world.keys() == ["live/1", "live/2", "live/3"]
    await world.sql("DELETE FROM {schema}.uploads WHERE key = 'live/2'")
    complete = await world.runs(HOUR, HOUR, WEEK - 2 * HOUR)
    assert (complete.state, complete.candidates, complete.deleted) == ("completed", 1, 0)
    assert (await world.run(after=HOUR)).deleted == 1


async def test_a_declared_canary_must_be_live(world: World) -> None:
    """A declared canary without its row or its object aborts every run."""
    await world.pair("live", "canary")
    await world.run(after=2 * HOUR, canaries=("canary",))
    await world.store.delete("canary")

    no_object = await world.run(after=HOUR, canaries=("canary",))
    await world.sql("DELETE FROM {schema}.uploads WHERE key = 'canary'")
    no_row = await world.run(after=HOUR, canaries=("canary",))

    rule, remedy = (
        "a canary of orphans.canaries must be live",
        "check what happened to it, or remove it from the list",
    )
    assert no_object.abort_reasons == (f"{rule}, got no object 'canary'; {remedy}",)
    assert no_row.abort_reasons == (f"{rule}, got no ready row that names 'canary'; {remedy}",)
    assert [no_object.state, no_row.state] == ["aborted", "aborted"]


async def test_a_source_that_names_any_key_aborts_the_run(world: World) -> None:
    """If a source names a made-up key, it would name every key, so the run aborts."""
    await world.pair("live")

    report = await reconcile(
        NamesEverything(world.executor, nothing), world.store, world.config, now=world.now
    )

    assert report.state == "aborted"
    assert report.abort_reasons[0] == (
        "a made-up key must have no row, got a row of source 'uploads' that names it; "
        "check that the source's SELECT or view filters by key"
    )


async def test_a_canary_that_the_application_deletes_meanwhile_is_ignored(world: World) -> None:
    """A canary whose row is deleted between the choice and the scan does not abort the run."""
    await world.pair("live", "leaving")
    left = []

    async def leave(operation: str) -> None:
        if operation == "list uploads":
            left.append(operation)
            await world.sql("DELETE FROM {schema}.uploads WHERE key = 'leaving'")
            await world.store.delete("leaving")

    report = await reconcile(world.executor, Leaving(world.store, leave), world.config, now=world.now)

    assert (report.state, report.abort_reasons, left) == ("completed", (), ["list uploads"])


class Leaving(ChaosStore):
    """A store with a moment between the choice of canaries and the scan."""

    async def list_uploads(self, **question: Any) -> AsyncIterator[Sequence[Upload]]:
        await self._hook("list uploads")
        async for page in self._store.list_uploads(**question):
            yield page
