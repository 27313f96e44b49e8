"""Claims about the page of the fleet: clients of all languages, leaders, and kinds that no client works."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from page_rows import put_client
from visitors import bearer

from factory import insert_job
from millhand.core.client_row import ClientRow, ClientState
from millhand.core.job import ClientId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator
from millhand.engine.fleet import Fleet
from millhand.engine.store.client import HeldJobs, client_stop
from millhand.engine.store.leader import LeaderRole, leader_attempt_elect
from millhand.engine.store.queue_load import DueKind
from millhand.history.fleet_event import FleetEvent, FleetEventName, fleet_event_put_many
from millhand.web.pages.fleet import clients_of, unworked_kinds

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def row(id: str, state: ClientState = ClientState.WORKING, *kinds: str) -> ClientRow:
    return ClientRow(id=ClientId(id), state=state, last_seen_at=NOW, queues={"mail": 5}, kinds=kinds)


def fleet(*clients: ClientRow, other: str = "", is_registering: bool = True) -> Fleet:
    return Fleet(
        clients=clients, leaders={}, other_queues=frozenset({other} - {""}), is_registering=is_registering
    )


def test_client_that_only_its_running_jobs_show_is_unregistered() -> None:
    """A client in another language that runs long jobs is in the list; the jobs of a known client are its own."""
    held = [
        HeldJobs(ClientId("a"), "mail", 2, NOW, NOW + timedelta(minutes=1)),
        HeldJobs(ClientId("a"), "other", 1, NOW - timedelta(minutes=1), NOW),
        HeldJobs(ClientId("go"), "mail", 3, NOW, NOW + timedelta(minutes=1)),
        HeldJobs(ClientId("nothing is known"), "mail", 1, None, None),
    ]

    a, go = clients_of(fleet(row("a")), held)

    assert (a.id, a.running, a.num_running, a.num_slots) == ("a", {"mail": 2, "other": 1}, 3, 5)
    assert a.oldest_running_at == NOW - timedelta(minutes=1)
    assert (go.id, go.state, go.running) == ("go", ClientState.UNREGISTERED, {"mail": 3})
    assert go.last_seen_at == NOW + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("known", "found"),
    [
        (fleet(row("a", ClientState.WORKING, "old")), [("new", True)]),
        (fleet(row("a", ClientState.WORKING, "old"), row("b", ClientState.WORKING, "new")), []),
        (fleet(row("a", ClientState.STOPPED, "old")), [("old", False), ("new", False)]),
        (fleet(row("a", ClientState.WORKING, "old"), other="mail"), []),
        (fleet(row("a", ClientState.WORKING, "old"), other="else"), [("new", True)]),
        (fleet(is_registering=False), []),
    ],
)
def test_kind_is_unworked_only_where_every_client_of_its_queue_registers(
    known: Fleet, found: list[tuple[str, bool]]
) -> None:
    """A kind that no client of its queue knows is found, unless clients in another language may know it."""
    due = [DueKind("mail", "old", 2, NOW), DueKind("mail", "new", 1, NOW)]

    assert [(one.kind, one.has_clients) for one in unworked_kinds(known, due)] == found


@pytest.mark.slow
async def test_fleet_page_shows_who_works_who_is_gone_and_who_leads(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Working, stopped and unregistered clients are on the page, with their running jobs and the leaders."""
    pool = schema_driver.pool
    await put_client(schema_driver, "works", ["act"], {"mail": 5})
    stopped = await put_client(schema_driver, "stopped", ["act"], {"mail": 5})
    await pool.run(client_stop(id=ClientId("stopped"), started_at=stopped.started_at))
    for id in ("works", "go"):
        await insert_job(pool, JobState.RUNNING, queue="mail", attempted_by=[id])
    await insert_job(pool, queue="mail", kind="new")
    await pool.run(leader_attempt_elect(leader_id=ClientId("go"), ttl=timedelta(minutes=1)))

    page = (await browser.get("/api/v1/fleet")).json()
    html = (await browser.get("/fleet")).text

    assert {one["id"]: (one["state"], one["running"], one["is_leader"]) for one in page["clients"]} == {
        "works": ("working", {"mail": 1}, False),
        "go": ("unregistered", {"mail": 1}, True),
    }
    assert [one["id"] for one in page["gone"]] == ["stopped"]
    assert [(one["role"], one["leader_id"]) for one in page["leaders"]] == [
        (LeaderRole.RIVER, "go"),
        (LeaderRole.PERIODIC, None),
    ]
    assert [(one["kind"], one["queue"], one["num_due"]) for one in page["unworked_kinds"]] == [
        ("new", "mail", 1)
    ]
    assert all(id in html for id in ("works", "stopped", "go"))


@pytest.mark.slow
async def test_pages_of_a_database_without_our_tables_name_the_command(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Where only River's line is migrated, the pages show clients by their work, and how to get the rest."""
    await insert_job(
        schema_driver.pool, JobState.COMPLETED, queue="mail", attempted_by=["go"],
        attempted_at=datetime.now(UTC), finalized_at=datetime.now(UTC),
    )  # fmt: skip
    await insert_job(schema_driver.pool, queue="mail")
    migrator = Migrator(schema_driver, "millhand")
    await migrator.down(target=0)
    try:
        pages = {path: await browser.get(path) for path in ("/fleet", "/queues", "/queues/mail")}
        clients = (await browser.get("/api/v1/fleet")).json()["clients"]
    finally:
        await migrator.up()

    assert [one["id"] for one in clients] == ["go"]
    for path, response in pages.items():
        assert (response.status_code, "millhand migrate up" in response.text) == (200, True), path


@pytest.mark.slow
async def test_user_with_limits_sees_only_their_queues_and_kinds(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A user of one queue and kind finds no name of another on the pages of queues and of the fleet."""
    other = bearer("other")
    await put_client(schema_driver, "a", ["other", "secret_kind"], {"other": 5, "secret_queue": 5})
    for queue, kind in (
        ("other", "other"),
        ("other", "secret_kind"),
        ("other", "secret_new"),
        ("secret_queue", "other"),
    ):
        await insert_job(schema_driver.pool, queue=queue, kind=kind)
        await insert_job(schema_driver.pool, JobState.RUNNING, queue=queue, kind=kind, attempted_by=["a"])

    paths = [f"{api}/{name}" for name in ("fleet", "queues", "queues/other") for api in ("", "/api/v1")]
    pages = {path: await browser.get(path, headers=other) for path in paths}
    hidden = await browser.get("/queues/secret_queue", headers=other)

    assert {path: (page.status_code, "secret" in page.text) for path, page in pages.items()} == dict.fromkeys(
        paths, (200, False)
    )
    assert hidden.status_code == 404


async def test_fleet_page_shows_what_happened(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Rescued jobs are on the page with links, and a client that was declared dead."""
    dead = FleetEvent(
        datetime.now(UTC) - timedelta(hours=1), FleetEventName.CLIENT_DECLARED_DEAD, ClientId("a"), {}
    )
    detail = {"num_jobs": 2, "job_ids": [7, 8]}
    rescued = FleetEvent(dead.at + timedelta(seconds=1), FleetEventName.JOBS_RESCUED, ClientId("a"), detail)
    await schema_driver.pool.run(fleet_event_put_many([dead, rescued]))

    html = (await browser.get("/fleet")).text

    assert "declared dead" in html
    assert all(f"/jobs/{id}" in html for id in (7, 8))


async def test_fleet_page_lists_the_unworked_kinds_that_wait_longest(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Of more than 50 kinds that no client works, those that wait longest are listed, and how many there are."""
    await schema_driver.pool.execute_script(
        "INSERT INTO /* schema */river_job (kind, args, max_attempts, scheduled_at)"
        " SELECT 'kind_' || n, '{}', 25, now() - n * interval '1 minute' FROM generate_series(1, 60) AS n"
    )

    page = (await browser.get("/api/v1/fleet")).json()
    html = (await browser.get("/fleet")).text

    assert [one["kind"] for one in page["unworked_kinds"]] == [f"kind_{n}" for n in range(60, 10, -1)]
    assert page["num_unworked_kinds"] == 60
    assert "the 50 that wait longest, of 60" in html
