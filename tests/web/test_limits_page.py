"""Claims about limits on the pages, with the rows of a real limited queue: what is shown, and to whom."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest
from limited_reports import ACME, LIMIT, get, post, reports
from visitors import USERS, bearer

from factory import insert_job, qualified
from limited_queue import LimitedQueue
from millhand.core.job import JobState
from millhand.core.limit import Limit, Rate
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.limits.job_store import limited_job_collect
from millhand.limits.store import limit_set
from millhand.web import UserConfig, WebConfig, dashboard


@asynccontextmanager
async def visited(driver: AsyncpgDriver, *, hide: Sequence[str] = ()) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an administrator's browser of a page with rules."""
    app = dashboard(driver, WebConfig(users=USERS, hide=hide))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://page", headers=bearer("admin")
    ) as http:
        yield http
    await app.stop()


@pytest.mark.slow
async def test_queue_page_shows_the_limit_and_its_partitions(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The page has the limit's values, how many jobs wait, and the busiest partitions; the list of limits has the queue."""
    await reports(schema_driver, LIMIT, *["acme"] * 4, "eu", num_admitted=3)

    page = await get(browser, "/queues/reports")
    limits = await get(browser, "/limits")
    html = (await browser.get("/queues/reports")).text

    [line] = limits["limits"]
    assert line == page["limit"]["limit"]
    assert (line["values"]["at_once"], line["num_slots"], line["num_waiting"]) == (2, 3, 2)
    assert [(one["name"], one["running"], one["waiting"]) for one in page["limit"]["partitions"]] == [
        ("acme", 2, 2),
        ("eu", 1, 0),
    ]
    assert "2 at once · by tenant" in html
    assert 'href="/queues/reports?partition=%5B%22acme%22%5D"' in html
    assert 'href="/queues/reports"' in (await browser.get("/limits")).text


@pytest.mark.slow
async def test_jobs_that_wait_for_slots_count_as_waiting(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Overview and queues have the waiting jobs of a limited queue, and a pending job without a place is not one of them."""
    await reports(schema_driver, LIMIT, *["acme"] * 4, num_admitted=9)
    await insert_job(schema_driver.pool, JobState.PENDING, queue="reports")
    await insert_job(schema_driver.pool, JobState.PENDING, queue="default")

    overview = await get(browser, "/")
    queues = {one["name"]: one for one in (await get(browser, "/queues"))["queues"]}
    html = (await browser.get("/queues")).text

    assert overview["waiting"] == {"state": "pending", "num_jobs": 2, "accuracy": "exact"}
    assert {name: (one["num_waiting"], one["limit"]) for name, one in queues.items()} == {
        "default": (None, None),
        "reports": (2, "limit"),
    }
    assert "at its limit" in html
    assert "Waiting for limits" in (await browser.get("/")).text


@pytest.mark.slow
async def test_paused_queue_with_waiting_jobs_is_a_finding(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Jobs that wait for slots are due: a pause of their queue holds them, and the overview says so."""
    await reports(schema_driver, LIMIT, *["acme"] * 4, num_admitted=9)
    await browser.post("/queues/reports/pause")

    overview = await get(browser, "/")
    page = await get(browser, "/queues/reports")

    assert "Queue reports is paused, and 2 jobs are due." in [
        one["text"] for one in overview["verdict"]["findings"]
    ]
    assert page["queue"]["limit"] == "paused"


@pytest.mark.slow
async def test_partition_that_waits_for_a_kind_that_no_client_knows_is_a_finding(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """In order, such a job keeps all others of its partition waiting: overview, queue, fleet and list name its kind."""
    await reports(schema_driver, Limit(in_order=True, by_args=["tenant"]), "eu", num_admitted=1)
    pool = schema_driver.pool
    for kind in ("gone", "build"):
        await insert_job(pool, queue="reports", kind=kind, args='{"tenant": "acme"}')
    await pool.run(limited_job_collect("reports"))

    overview = await get(browser, "/")
    page = await get(browser, "/queues/reports")
    [listed] = (await get(browser, "/queues"))["queues"]
    fleet = await get(browser, "/fleet")

    assert "No client of queue reports works kind gone, of which jobs are due." in [
        one["text"] for one in overview["verdict"]["findings"]
    ]
    assert [(one["limit"], one["unknown_kinds"]) for one in (page["queue"], listed)] == [
        ("unknown_kinds", ["gone"])
    ] * 2
    assert [(one["queue"], one["kind"]) for one in fleet["unworked_kinds"]] == [("reports", "gone")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "num_admitted", "reason", "num_before"),
    [
        (LIMIT, 2, "limit", 1),
        (Limit(at_once=9, rate=Rate(1, per=timedelta(hours=1), burst=2), by_args=["tenant"]), 3, "rate", 1),
        (Limit(in_order=True, by_args=["tenant"]), 1, "order", 2),
    ],
    ids=["slots", "rate", "order"],
)
async def test_job_page_says_why_a_job_waits_for_its_limit(
    browser: httpx.AsyncClient,
    schema_driver: AsyncpgDriver,
    limit: Limit,
    num_admitted: int,
    reason: str,
    num_before: int,
) -> None:
    """A job waits for a slot, for the rate or behind a job, and the page counts those before it; one with a slot says so."""
    first, *_, last = await reports(schema_driver, limit, *["acme"] * 4, num_admitted=num_admitted)

    waiting = await get(browser, f"/jobs/{last.id}")
    running = await get(browser, f"/jobs/{first.id}")
    html = (await browser.get(f"/jobs/{last.id}")).text

    assert (waiting["wait"]["reason"], waiting["partition"]) == (reason, "acme")
    assert waiting["place"]["num_before"] == num_before
    assert waiting["place"]["behind"] == (first.id if reason == "order" else None)
    assert (running["wait"], running["partition"], running["place"]["has_slot"]) == (None, "acme", True)
    assert "partition acme" in html
    assert "acme</a>, with a slot" in (await browser.get(f"/jobs/{first.id}")).text


@pytest.mark.slow
async def test_partition_with_a_hidden_value_has_no_name_and_no_form(schema_driver: AsyncpgDriver) -> None:
    """A rule that hides a field of a limit hides it in partitions and places, and a guess of it is refused."""
    [job] = await reports(schema_driver, Limit(at_once=2, by_args=["tenant", "n"]), "secret-tenant")
    app = dashboard(schema_driver, WebConfig(users=USERS, hide=["args.tenant"]))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://page", headers=bearer("admin")
    ) as http:
        pages = [
            (await http.get(prefix + path)).text
            for prefix in ("", "/api/v1")
            for path in ("/queues/reports", f"/jobs/{job.id}", "/limits")
        ]
        guesses = [
            await http.get("/queues/reports", params={"partition": '["secret-tenant", null]'}),
            await http.post(
                "/api/v1/queues/reports/partition/release", json={"key": '["secret-tenant", null]'}
            ),
        ]
    await app.stop()

    assert not [page for page in pages if "secret-tenant" in page]
    assert "(hidden), null" in pages[0]
    assert [answer.status_code for answer in guesses] == [400, 400]


@pytest.mark.slow
async def test_partition_of_an_earlier_limit_is_hidden_where_rules_are(schema_driver: AsyncpgDriver) -> None:
    """After by_args changed, a value may be of a field that a rule hides; those of jobs of the new limit are shown."""
    [job] = await reports(schema_driver, Limit(at_once=2, by_args=["tenant"]), "secret-tenant")
    pool = schema_driver.pool
    await pool.run(limit_set("reports", Limit(at_once=2, by_args=["region"])))
    new = await insert_job(
        pool, queue="reports", kind="build", args='{"region": "north", "tenant": "secret"}'
    )
    await pool.run(limited_job_collect("reports"))
    async with visited(schema_driver, hide=["args.tenant"]) as http:
        page = await get(http, "/queues/reports")
        guess = await get(http, "/queues/reports", partition='["secret-tenant"]')
        jobs = [await get(http, f"/jobs/{one.id}") for one in (job, new)]
        await pool.run(limit_set("reports", Limit(at_once=2)))
        undivided = await get(http, "/queues/reports")
    async with visited(schema_driver) as http:
        unhidden = await get(http, "/queues/reports")

    assert sorted(one["name"] for one in page["limit"]["partitions"]) == ["(hidden)", "north"]
    assert guess["limit"]["partition"]["waiting"] == 0
    assert [one["partition"] for one in jobs] == ["(hidden)", "north"]
    assert "secret" not in str(undivided["limit"])
    assert "secret-tenant" in str(unhidden["limit"])


@pytest.mark.slow
async def test_user_of_some_kinds_sees_no_partition_and_changes_no_limit(
    schema_driver: AsyncpgDriver,
) -> None:
    """A partition has jobs of every kind, so a user of one kind sees the limit alone."""
    await reports(schema_driver, LIMIT, "acme")
    users = {"other": UserConfig(role="admin", token=USERS["other"].token, kinds=("build",))}
    app = dashboard(schema_driver, WebConfig(users=users))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://page", headers=bearer("other")
    ) as http:
        page = await get(http, "/queues/reports", partition=ACME)
        changed = await post(http, "partition/hold", key=ACME, seconds=5)
    await app.stop()

    assert (page["limit"]["limit"]["num_waiting"], page["limit"]["partitions"]) == (1, [])
    assert page["limit"]["partition"] is None
    assert changed[0] == 404


@pytest.mark.slow
async def test_pages_work_without_the_tables_of_limits(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """On a schema without limits, pages show none, and a change names the remedy."""
    [job] = await reports(schema_driver, LIMIT, "acme")
    pool = schema_driver.pool
    tables = [qualified(f"/* schema */millhand_limit{end}", pool) for end in ("", "_partition", "_arrival")]
    tables.append(qualified("/* schema */millhand_limited_job", pool))
    moves = [f"ALTER TABLE {table} RENAME TO hidden_{number}" for number, table in enumerate(tables)]
    for move in moves:
        await pool.fetch(move)
    try:
        answers = {
            path: (await browser.get(path)).status_code
            for path in (
                "/",
                "/queues",
                "/queues/reports",
                f"/jobs/{job.id}",
                "/limits",
                "/api/v1/live-state",
            )
        }
        limits = await get(browser, "/limits")
        refused = await post(browser, "limit", at_once=3)
    finally:
        for number, table in enumerate(tables):
            schema, _, name = table.rpartition(".")
            await pool.fetch(f"ALTER TABLE {schema}.hidden_{number} RENAME TO {name}")

    assert set(answers.values()) == {200}
    assert (limits["limits"], limits["is_there"]) == ([], False)
    assert refused[0] == 409
    assert "run millhand migrate up" in refused[1]


@pytest.mark.slow
async def test_operator_resumes_a_halted_partition(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The pages of the queue and of a waiting job name the job that failed; a resume is in the audit, and done once."""
    first, second = await reports(
        schema_driver, Limit(in_order=True, halt=True, by_args=["tenant"]), "acme", "acme"
    )
    queue = LimitedQueue(schema_driver.pool, "reports", now=None)
    before = (await get(browser, "/live-state"))["regions"]["queues"]
    await queue.end(*await queue.fetch(), state=JobState.DISCARDED, finalized_at=first.created_at)
    state = (await get(browser, "/live-state"))["regions"]["queues"]
    page = await get(browser, "/queues/reports", partition=ACME)
    job = await get(browser, f"/jobs/{second.id}")
    html = (await browser.get("/queues/reports", params={"partition": ACME})).text
    resumed = await post(browser, "partition/resume", key=ACME)
    again = await post(browser, "partition/resume", key=ACME)
    [entry] = [one for one in (await get(browser, "/audit"))["entries"] if one["action"] == "resume"]

    assert before != state
    assert (page["limit"]["partition"]["halted_by"], page["limit"]["partition"]["held_until"]) == (
        first.id,
        None,
    )
    assert job["wait"]["reason"] == "halted"
    assert "partition/resume" in html
    assert "halted it." in html
    assert (resumed[0], again[0]) == (200, 404)
    assert entry["subject"] == "partition of queue reports"
    assert [one.id for one in await queue.fetch()] == [second.id]


@pytest.mark.slow
async def test_operator_resumes_a_partition_of_an_earlier_limit(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """After by_args changed, the page shows the halted partition by its listed key; without a row, the key is invalid."""
    await reports(schema_driver, Limit(in_order=True, halt=True, by_args=["tenant"]), "acme", "acme")
    queue = LimitedQueue(schema_driver.pool, "reports", now=None)
    [running] = await queue.fetch()
    await queue.end(running, state=JobState.DISCARDED, finalized_at=running.created_at)
    await schema_driver.pool.run(
        limit_set("reports", Limit(in_order=True, halt=True, by_args=["tenant", "region"]))
    )

    page = await get(browser, "/queues/reports", partition=ACME)
    unknown = await browser.get("/queues/reports", params={"partition": '["eu"]'})
    held = await post(browser, "partition/hold", key=ACME, seconds=5)
    resumed = await post(browser, "partition/resume", key=ACME)
    started = await queue.fetch()
    async with visited(schema_driver, hide=["args.tenant"]) as http:
        hidden = await post(http, "partition/resume", key=ACME)

    assert page["limit"]["partition"]["halted_by"] == running.id
    assert (unknown.status_code, held[0], hidden[0], resumed[0]) == (400, 400, 400, 200)
    assert len(started) == 1


async def test_live_updates_notice_limits_and_holds(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A change of a limit and a hold change the region of the queues."""
    await reports(schema_driver, LIMIT)
    states = []
    for path, fields in (
        ("limit", {"at_once": 5}),
        ("partition/hold", {"key": ACME, "seconds": 60}),
        ("", {}),
    ):
        states.append((await get(browser, "/live-state"))["regions"]["queues"])
        if path:
            assert (await post(browser, path, **fields))[0] == 200

    assert len(set(states)) == 3
