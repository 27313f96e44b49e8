"""Objects whose verdict is known beforehand: a run that judges them otherwise refuses, and nothing it saw counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

from adversary import ChaosExecutor, ChaosStore
from world import World

from millhand.orphans import reconcile
from millhand.storage import Upload

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def nothing(operation: str) -> None:
    """Come between nothing."""


class BrokenIndex(ChaosExecutor):
    """A database whose index on the key has lost one, as after a collation's new version: ranges do not find it."""

    async def fetch(self, sql: str, params: Sequence[Any] = (), **options: Any) -> list[dict[str, Any]]:
        rows = await super().fetch(sql, params, **options)
        return [row for row in rows if "ORDER BY" not in sql or row.get("key") != "live/2"]


class Gullible(ChaosExecutor):
    """A database that names whatever it is asked for."""

    async def fetch(self, sql: str, params: Sequence[Any] = (), **options: Any) -> list[dict[str, Any]]:
        rows = await super().fetch(sql, params, **options)
        if "canary" not in str(params):
            return rows
        return [{"key": params[0][0], "state": "ready"}]  # type: ignore[index]


async def test_a_canary_that_is_not_judged_live_refuses_the_run(world: World) -> None:
    """A live row that reads by range do not find refuses each run, and none of their sightings counts."""
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


async def test_a_declared_canary_must_be_live(world: World) -> None:
    """A key that was declared a canary, and has lost its row or its object, refuses each run until somebody looks."""
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


async def test_a_source_that_names_everything_refuses_the_run(world: World) -> None:
    """A key that was made up on the spot must be an orphan; whoever says yes to it says yes to everything."""
    await world.pair("live")

    report = await reconcile(Gullible(world.executor, nothing), world.store, world.config, now=world.now)

    assert report.state == "aborted"
    assert report.abort_reasons[0] == (
        "a made-up key must have no row, got a row of source 'uploads' that names it; "
        "check that the source's SELECT or view filters by key"
    )


async def test_an_owner_who_deletes_a_canary_meanwhile_is_excused(world: World) -> None:
    """A canary whose row goes between the choice and the scan is no reason to refuse."""
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
