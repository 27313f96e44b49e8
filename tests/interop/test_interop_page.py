"""The web page of a fleet that only River's clients in Go work, with and without Millhand's tables."""

from __future__ import annotations

import json

import httpx
import pytest
from interop_harness import Harness, Periodic

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator
from millhand.web import User, UserConfig, WebConfig, dashboard
from millhand.web.credential import hashed_token


@pytest.mark.parametrize("has_tables", [True, False], ids=["both lines", "River's line alone"])
async def test_page_shows_a_fleet_of_go_alone(harness: Harness, has_tables: bool) -> None:
    """
    A Go client is on the page with its running jobs and as leader, and its queue has a client.

    Its slots and kinds are unknown, so no kind is reported as one that no client works.
    """
    migrator = Migrator(harness.driver, "millhand")
    if not has_tables:
        await migrator.down(target=0)
    try:
        async with harness.working("go", "go_a", leads=True, kinds=("act",), queues={"mail": 2}):
            go = harness.control("go")
            held = await go.insert(["hold"], queue="mail")
            await go.insert(kind="nobody", queue="mail")
            await go.insert(queue="tpyo")
            await harness.events.wait("held", job=held)
            await harness.until_leader("go_a")
            # An update of a queue's row that is younger may be one that a registered client declares in a moment.
            await harness.fetch(
                "UPDATE /* schema */river_queue SET updated_at = updated_at - interval '20 s'"
            )
            fleet, queues, mail = await _loaded(harness, "/fleet", "/queues", "/queues/mail")
    finally:
        await migrator.up()

    assert [(one["id"], one["state"], one["language"], one["running"]) for one in fleet["clients"]] == [
        ("go_a", "unregistered", None, {"mail": 1})
    ]
    assert (fleet["leaders"][0]["role"], fleet["leaders"][0]["leader_id"]) == ("river", "go_a")
    assert (fleet["other_queues"], fleet["is_registering"]) == (["mail"], has_tables)
    assert [(one["kind"], one["queue"]) for one in fleet["unworked_kinds"]] == [("act", "tpyo")] * has_tables
    assert {one["name"]: (one["num_available"], one["limit"]) for one in queues["queues"]} == {
        "mail": (1, None),
        "tpyo": (1, "no_client"),
    }
    assert [(one["id"], one["running"]) for one in mail["clients"]] == [("go_a", {"mail": 1})]
    assert [(one["kind"], one["is_worked"]) for one in mail["kinds"]] == [("nobody", None)]


async def test_periodic_job_of_go_runs_now(harness: Harness) -> None:
    """A copy of the run that a Go leader inserted has its key, and a Go client works it, with its args."""
    opts = {"unique": {"by_period_seconds": 10 * 365 * 24 * 3600}, "metadata": {"own": 1}, "queue": "mail"}
    nightly = Periodic(id="nightly", kind="act", opts=opts, seconds=3600, run_on_start=True)
    async with harness.working(
        "go", "go_a", leads=True, kinds=("act",), queues={"mail": 2}, periodic_jobs=[nightly]
    ):
        await harness.until(lambda: _num_completed(harness, 1), "the run of the leader")
        config = WebConfig(users={"ops": UserConfig(role="operator", token=hashed_token("of ops"))})
        app = dashboard(AsyncpgDriver(harness.url, schema=harness.schema), config)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as browser:
            answer = await browser.post(
                "/api/v1/periodic/nightly/run", headers={"Authorization": "Bearer of ops"}
            )
            assert answer.status_code == 200, answer.text
        await app.stop()
        await harness.until(lambda: _num_completed(harness, 2), "the run of a person")

    [first, second] = await harness.fetch(
        "SELECT kind, queue, args, metadata FROM /* schema */river_job ORDER BY id"
    )
    assert [first[name] for name in ("kind", "queue", "args")] == [
        second[name] for name in ("kind", "queue", "args")
    ]
    metadata = json.loads(second["metadata"])
    assert (metadata["own"], metadata["river:periodic_job_id"]) == (1, "nightly")


async def _num_completed(harness: Harness, number: int) -> bool:
    rows = await harness.fetch("SELECT id FROM /* schema */river_job WHERE state = 'completed'")
    return len(rows) == number


async def _loaded(harness: Harness, *paths: str) -> list[dict[str, object]]:
    config = WebConfig(authenticate=lambda _: User(name="interop"))
    transport = httpx.ASGITransport(dashboard(harness.driver, config))
    async with httpx.AsyncClient(transport=transport, base_url="http://page") as browser:
        assert all([(await browser.get(path)).status_code == 200 for path in paths])
        return [(await browser.get(f"/api/v1{path}")).json() for path in paths]
