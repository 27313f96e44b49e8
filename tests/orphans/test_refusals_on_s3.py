"""Runs over a real S3 server that declines requests for single objects, or all of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from refusing_proxy import Refusals, refusing
from stores import bucket_of
from world import PLAIN, VERSIONED, World

from millhand.orphans import explain, restore
from millhand.storage import open_store

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
QUARANTINE = ".millhand/quarantine/"
# The object named `odd`, and what the server answers.
REFUSALS = {
    "archived": ("PUT", 403, "InvalidObjectState"),
    "denied": ("DELETE", 403, "AccessDenied"),
    "busy": ("DELETE", 503, "SlowDown"),
    "unreadable": ("HEAD", 403, "AccessDenied"),
}


@dataclass(kw_only=True)
class Refusing:
    """The application behind a proxy that declines requests."""

    world: World
    refusals: Refusals


@pytest.fixture
async def refused(world: World, s3_endpoint: str, request: pytest.FixtureRequest) -> AsyncIterator[Refusing]:
    """The application on a real server, with a proxy in between."""
    with refusing(s3_endpoint) as (endpoint, refusals):
        name = request.node.name.replace("[", "-").rstrip("]")
        store = open_store(f"s3://{PLAIN}/{name}?endpoint_url={endpoint}")
        yield Refusing(world=replace(world, store=store), refusals=refusals)
        await store.aclose()


async def copies_of_odd(world: World) -> list[str]:
    return [key for key in await world.keys(QUARANTINE) if key.endswith("/odd")]


@pytest.mark.parametrize("name", REFUSALS)
async def test_an_object_that_the_server_declines_to_move_delays_no_other(
    refused: Refusing, name: str
) -> None:
    """The object stays, `explain` has the server's code, the others go, and no run makes a second copy of it."""
    world, (method, status, code) = refused.world, REFUSALS[name]

    def refuse(asked: str, key: str, is_copy: bool) -> tuple[int, str] | None:
        is_refused = key.endswith("/odd") and asked == method and (is_copy or method != "PUT")
        # The quarantine's own keys are not refused.
        return (status, code) if is_refused and (QUARANTINE not in key or is_copy) else None

    await world.pair("live")
    for key in ("odd", *(f"orphan/{number:02}" for number in range(12))):
        await world.put(key)
    await world.run(after=2 * HOUR)
    refused.refusals.of = refuse

    taken = await world.run(after=WEEK)
    copies = await copies_of_odd(world)
    explanation = await explain(world.executor, world.store, world.config, "odd", now=world.now)
    again = [await world.run(after=HOUR), await world.run(after=WEEK)]
    copies_later = await copies_of_odd(world)
    refused.refusals.of = Refusals(seen=[]).of
    free = await world.runs(HOUR, WEEK)

    assert (taken.state, taken.deleted) == ("completed", 12), taken.abort_reasons
    assert [one.state for one in again] == ["completed"] * 2
    [action] = explanation.actions
    assert code in action.reason or str(status) in action.reason
    assert (action.state, explanation.object is not None) == ("intended" if name == "busy" else "kept", True)
    assert len(copies) == len(copies_later) == (name == "busy")
    assert (free.state, await world.keys()) == ("completed", ["live"])


@pytest.mark.parametrize("where", [PLAIN, VERSIONED])
@pytest.mark.parametrize("num_lost", [1, 99], ids=["one answer", "all answers"])
async def test_a_delete_whose_answer_is_lost_loses_no_object(
    world: World, s3_endpoint: str, request: pytest.FixtureRequest, where: str, num_lost: int
) -> None:
    """If the server deletes and does not answer, the object is in quarantine, at once or after the next run."""
    with refusing(s3_endpoint) as (endpoint, refusals):
        name = request.node.name.partition("[")[0]
        store = open_store(f"s3://{where}/{name}/{num_lost}?endpoint_url={endpoint}")
        world = replace(world, store=store)
        await world.pair("live")
        await world.put("odd", b"12345")
        await world.run(after=2 * HOUR)
        refusals.are_done = True
        refusals.of = lambda method, key, _is_copy: (
            (503, "SlowDown")
            if method == "DELETE" and key.endswith("/odd") and len(refusals.seen) < num_lost
            else None
        )

        taken = await world.run(after=WEEK)
        refusals.of = Refusals(seen=[]).of
        settled = await world.run(after=HOUR)
        left = await world.keys()
        back = await restore(world.executor, world.store, key="odd", now=world.now)
        found = await world.store.get("odd")
        await store.aclose()

    assert (taken.state, settled.state, taken.deleted + settled.deleted) == ("completed", "completed", 1)
    assert taken.deleted == (num_lost == 1)
    assert (left, back.restored, found) == (["live"], 1, b"12345")


async def test_a_delete_that_arrives_late_loses_no_object(refused: Refusing) -> None:
    """A row comes between a move's copy and its delete, another run ends, then the delete arrives: the object is there."""
    world, arrived, may_go_on = refused.world, threading.Event(), threading.Event()
    await world.pair("live")
    await world.put("odd", b"12345")
    await world.run(after=2 * HOUR)

    def hold_up(method: str, key: str, _is_copy: bool) -> None:
        if method == "DELETE" and key.endswith("/odd") and QUARANTINE not in key and not arrived.is_set():
            arrived.set()
            may_go_on.wait(30)

    refused.refusals.of = hold_up
    slow = asyncio.ensure_future(world.run(after=WEEK))
    assert await asyncio.to_thread(arrived.wait, 30)
    await world.row("odd")

    other = await world.run(after=2 * HOUR)
    copies = await copies_of_odd(world)
    may_go_on.set()
    await asyncio.gather(slow, return_exceptions=True)  # its run was taken over
    later = await world.run(after=2 * HOUR)

    assert (other.state, len(copies), later.state) == ("completed", 1, "completed")
    assert await world.keys() == ["live", "odd"]
    assert await world.store.get("odd") == b"12345"


async def test_an_object_under_a_key_of_the_client_delays_no_other(refused: Refusing) -> None:
    """An object whose HEAD needs the client's own key (SSE-C) stays, a live one as well, and the other orphans go."""
    world, bucket = refused.world, bucket_of(refused.world.store)
    bucket.client.meta.events.unregister("before-call.s3.PutObject", unique_id="require-https")
    await world.pair("live")
    for key in ("odd", "secret"):
        target = bucket.object_params(key)
        bucket.client.put_object(**target, Body=b"x", SSECustomerAlgorithm="AES256", SSECustomerKey=b"k" * 32)
    await world.row("secret")
    await world.put("orphan")

    report = await world.runs(2 * HOUR, WEEK)
    later = await world.runs(HOUR, WEEK)

    assert (report.state, report.deleted, later.state) == ("completed", 1, "completed"), report.abort_reasons
    assert await world.keys() == ["live", "odd", "secret"]
    assert await copies_of_odd(world) == []


async def test_a_server_that_declines_everything_ends_the_sweep_with_its_first_wave(
    refused: Refusing,
) -> None:
    """If the server declines a small move of our own as well, the run aborts, and the next run continues."""
    world = refused.world
    await world.pair("live")
    for number in range(25):
        await world.put(f"orphan/{number:02}")
    await world.run(after=2 * HOUR)
    refused.refusals.of = lambda method, _key, is_copy: (
        (403, "AccessDenied") if method == "PUT" and is_copy else None
    )

    report = await world.run(after=WEEK)
    declined = [one for one in refused.refusals.seen if "/orphan/" in one]
    refused.refusals.of = Refusals(seen=[]).of
    later = await world.run(after=HOUR)

    assert (report.state, report.deleted, len(declined)) == ("aborted", 0, 10)
    assert report.abort_reasons[0].startswith("a wave must finish without a failure, got move of 'orphan/0")
    assert (later.state, later.deleted) == ("completed", 25)
