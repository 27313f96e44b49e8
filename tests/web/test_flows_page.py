"""Claims about the pages of flows."""

from __future__ import annotations

import html
from typing import Any

import httpx
import pytest
from shop_flows import put_flow, set_states, shop_import
from visitors import USERS, bearer

from factory import insert_job, qualified
from millhand.core.args.codec import RawArgs
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.flows import page as flows
from millhand.flows.flow import Flow
from millhand.web import WebConfig, dashboard


async def get(browser: httpx.AsyncClient, path: str, user: str = "admin", **query: object) -> Any:
    answer = await browser.get(f"/api/v1{path}", params={**query}, headers=bearer(user))
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.slow
async def test_pages_show_a_flow_and_its_tasks(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The list has the counts, the flow's page its graph and tasks with the states of their jobs, and a task its flow."""
    pool = schema_driver.pool
    row, ids = await put_flow(pool, shop_import("import <9>", 3)[0])
    await set_states(pool, ids[:2], "completed")
    await set_states(pool, ids[2:3], "running")

    [line] = (await get(browser, "/flows"))["flows"]
    page = await get(browser, f"/flows/{row.id}")
    job = await get(browser, f"/jobs/{ids[4]}")
    text = html.unescape((await browser.get(f"/flows/{row.id}")).text)
    of_job = html.unescape((await browser.get(f"/jobs/{ids[4]}")).text)

    names = ("id", "name", "state", "num_tasks", "num_ended", "num_failed")
    assert tuple(line[name] for name in names) == (row.id, "import <9>", "running", 8, 2, 0)
    assert [(task["name"], task["state"], task["job_state"]) for task in page["tasks"]] == [
        ("fetch_feed", "completed", "completed"),
        ("part.1", "completed", "completed"),
        ("part.2", "released", "running"),
        ("part.3", "released", "available"),
        ("sum_up", "waiting", "pending"),
        ("send_email", "waiting", "pending"),
        ("alert", "waiting", "pending"),
        ("delete_files", "waiting", "pending"),
    ]
    states = {box["label"]: box["states"] for box in page["graph"]["boxes"]}
    assert states["part"] == {"completed": 1, "running": 1, "available": 1}
    assert "part (3)" in text
    assert (job["flow"]["name"], job["wait"]["reason"]) == ("import <9>", "flow")
    assert f'It waits for 2 tasks of flow <a href="/flows/{row.id}">import <9></a>.' in of_job


async def test_large_flow_is_drawn_without_its_jobs(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above a number of tasks, kinds and states of jobs are not read; the first job of each group is."""
    monkeypatch.setattr(flows, "JOBS_MAX", 7)
    row, ids = await put_flow(schema_driver.pool, shop_import("large", 3)[0])
    await set_states(schema_driver.pool, ids[:1], "completed")

    page = await get(browser, f"/flows/{row.id}")

    assert {box["label"]: box["states"] for box in page["graph"]["boxes"]} == {
        "fetch_feed": {"completed": 1},
        "part": {"released": 3},
        "sum_up": {"waiting": 1},
        "send_email": {"waiting": 1},
        "alert": {"waiting": 1},
        "delete_files": {"waiting": 1},
    }


async def test_slow_count_leaves_the_rest_of_the_page(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flow whose tasks the database cannot count in time has no graph, and its tasks are listed."""
    monkeypatch.setattr(flows, "GRAPH_SECONDS", 0.000_001)
    row, _ = await put_flow(schema_driver.pool, shop_import("slow", 3)[0])

    page = await get(browser, f"/flows/{row.id}")

    assert (page["graph"], len(page["tasks"])) == (None, 8)


@pytest.mark.slow
async def test_a_deleted_job_is_a_task_without_a_job(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The list and the graph show a task whose job is gone by its id."""
    pool = schema_driver.pool
    row, ids = await put_flow(pool, shop_import("gone", 1)[0])
    await pool.fetch(qualified("DELETE FROM /* schema */river_job WHERE id = $1", pool), [ids[0]])

    page = await get(browser, f"/flows/{row.id}")
    text = (await browser.get(f"/flows/{row.id}")).text

    assert (page["tasks"][0]["job_id"], page["tasks"][0]["kind"]) == (ids[0], None)
    assert page["graph"]["boxes"][0]["label"] == f"job {ids[0]}"
    assert "deleted" in text


@pytest.mark.slow
async def test_lists_have_pages_and_states(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flows are listed newest first, tasks by id; each page begins after the last one, and a state selects."""
    monkeypatch.setattr(flows, "PAGE_SIZE", 2)
    pool = schema_driver.pool
    rows = [await put_flow(pool, flow) for flow in (_single("a"), _single("b"), _single("c"))]
    await set_states(pool, rows[1][1], "completed")
    many, ids = await put_flow(pool, shop_import("many", 1)[0])
    await set_states(pool, ids[:1], "completed")

    first = await get(browser, "/flows")
    second = await get(browser, "/flows", before=first["before"])
    completed = await get(browser, "/flows", state="completed")
    tasks = await get(browser, f"/flows/{many.id}", after=ids[1], state="waiting")
    invalid = await browser.get("/api/v1/flows?before=x")
    unknown = await browser.get("/api/v1/flows?state=ended")
    missing = await browser.get("/api/v1/flows/987654321")

    assert [line["name"] for line in first["flows"]] == ["many", "c"]
    assert ([line["name"] for line in second["flows"]], second["before"]) == (["b", "a"], rows[0][0].id)
    assert [line["name"] for line in completed["flows"]] == ["b"]
    assert ([task["name"] for task in tasks["tasks"]], tasks["after"]) == (["sum_up", "send_email"], ids[3])
    assert (invalid.status_code, unknown.status_code) == (400, 400)
    assert (missing.status_code, missing.json()["detail"]) == (
        404,
        "flow must exist, found none with id 987654321",
    )


def _single(name: str) -> Flow:
    flow = Flow(name)
    flow.add(RawArgs("act", "{}"))
    return flow


async def test_user_with_limits_sees_no_flow(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A flow has jobs of several queues, so it is not found, and a task of an own queue does not name it."""
    flow = Flow("secret plan")
    flow.add(RawArgs("send_email", "{}"), after=flow.add(RawArgs("other", "{}")))
    row, _ = await put_flow(schema_driver.pool, flow)
    pool = schema_driver.pool
    own = await insert_job(pool, queue="other", kind="other")

    assert (await get(browser, "/flows", "other"))["is_limited"] is True
    assert (await get(browser, "/flows", "other"))["flows"] == []
    for prefix in ("", "/api/v1"):
        answer = await browser.get(f"{prefix}/flows/{row.id}", headers=bearer("other"))
        assert (answer.status_code, "secret plan" in answer.text) == (404, False)
    assert (await get(browser, f"/jobs/{own.id}", "other"))["flow"] is None


@pytest.mark.slow
async def test_names_that_a_rule_hides_are_not_shown(schema_driver: AsyncpgDriver) -> None:
    """The names are in the metadata of jobs, so a rule for metadata holds for the pages of flows too."""
    row, ids = await put_flow(schema_driver.pool, shop_import("secret plan", 1)[0])
    config = WebConfig(users=USERS, hide=["metadata.workflow_name", "metadata.task"])
    app = dashboard(schema_driver, config)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
        texts = [
            (await http.get(prefix + path, headers=bearer("admin"))).text
            for path in ("/flows", f"/flows/{row.id}", f"/jobs/{ids[0]}")
            for prefix in ("", "/api/v1")
        ]

    assert ["secret plan" in text or "part.1" in text for text in texts] == [False] * 6
    assert all("(hidden)" in text for text in texts)


async def test_pages_work_without_the_tables(schema_driver: AsyncpgDriver) -> None:
    """Where line `millhand` is older, the list says what to run, a job's page works, and a change says it too."""
    pool = schema_driver.pool
    job = await insert_job(pool)
    await pool.fetch(qualified("ALTER TABLE /* schema */millhand_flow_task RENAME TO hidden_task", pool))
    try:
        app = dashboard(schema_driver, WebConfig(users=USERS))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
            text = (await http.get("/flows", headers=bearer("viewer"))).text
            flow = await http.get("/flows/1", headers=bearer("viewer"))
            page = await http.get(f"/jobs/{job.id}", headers=bearer("viewer"))
            change = await http.post("/api/v1/flows/1/cancel", headers=bearer("admin"))
    finally:  # other tests use the schema again
        await pool.fetch(qualified("ALTER TABLE /* schema */hidden_task RENAME TO millhand_flow_task", pool))

    assert "millhand migrate up" in text
    assert (flow.status_code, page.status_code, change.status_code) == (404, 200, 409)
    assert change.json()["detail"] == (
        "flows must have their tables, which are not there or not yours; run millhand migrate up"
    )
