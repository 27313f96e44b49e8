"""Claims about what users of the page change of flows."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from shop_flows import put_flow, set_states, shop_import
from visitors import bearer

from factory import get_job
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.audit import audit_list
from millhand.flows import changes as flow_changes
from millhand.flows.flow import FlowState
from millhand.flows.store import flow_get


async def post(
    browser: httpx.AsyncClient, path: str, user: str = "operator", **fields: Any
) -> tuple[int, str]:
    answer = await browser.post(f"/api/v1/flows/{path}", json=fields, headers=bearer(user))
    return answer.status_code, answer.json().get("detail", "")


async def test_operator_cancels_and_retries_a_flow(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Each change has an audit entry in its transaction, and leads to the flow's page."""
    pool = schema_driver.pool
    row, ids = await put_flow(pool, shop_import("import 9", 3)[0])
    await set_states(pool, ids[:1], "completed")

    cancelled = await browser.post(f"/flows/{row.id}/cancel", headers=bearer("operator"))
    state = (await pool.run(flow_get(row.id))).state
    again = await post(browser, f"{row.id}/cancel")
    retried = await post(browser, f"{row.id}/retry", mode="failed_and_downstream")
    running = await pool.run(flow_get(row.id))
    entries = await pool.run(audit_list())

    assert (cancelled.status_code, cancelled.headers["location"]) == (303, f"/flows/{row.id}")
    assert state is FlowState.CANCELLED
    assert again == (409, f"flow must be running to be cancelled, got flow {row.id}, which is cancelled")
    assert retried == (200, "")
    assert (running.state, running.num_open, running.num_failed) == (FlowState.RUNNING, 7, 0)
    assert [(one.actor, one.action, one.subject, one.num_jobs, one.detail) for one in entries] == [
        ("operator", "retry", f"flow {row.id}", 7, {"mode": "failed_and_downstream"}),
        ("operator", "cancel", f"flow {row.id}", 7, {}),
    ]


async def test_jobs_of_a_large_flow_are_left_to_the_leader(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request only records that the flow is cancelled, so it is short whatever the flow's size."""
    monkeypatch.setattr(flow_changes, "CANCEL_SIZE", 5)
    row, ids = await put_flow(schema_driver.pool, shop_import("large", 3)[0])

    assert await post(browser, f"{row.id}/cancel") == (200, "")

    found = await schema_driver.pool.run(flow_get(row.id))
    assert (found.cancelled_at is not None, found.num_open) == (True, 8)
    assert (await get_job(schema_driver.pool, ids[0])).state is JobState.AVAILABLE


async def test_retry_names_what_is_invalid(browser: httpx.AsyncClient, schema_driver: AsyncpgDriver) -> None:
    """A mode that does not exist is 400, a flow without such tasks 409; nothing is recorded."""
    row, _ = await put_flow(schema_driver.pool, shop_import("import 9", 1)[0])
    modes = "all, failed_only, failed_and_downstream"

    assert await post(browser, f"{row.id}/retry") == (400, f"mode must be one of {modes}, got ''")
    assert await post(browser, f"{row.id}/retry", mode="failed_only") == (
        409, f"flow must have tasks that failed to be retried, got flow {row.id} without",
    )  # fmt: skip
    assert await post(browser, f"{row.id}/retry", mode="all") == (
        409, f"flow must have tasks that have ended to be retried, got flow {row.id} without",
    )  # fmt: skip
    assert await schema_driver.pool.run(audit_list()) == []


async def test_only_users_without_limits_change_flows(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A viewer may not, and for a user with limits there is no flow."""
    row, _ = await put_flow(schema_driver.pool, shop_import("import 9", 1)[0])
    missing = (404, f"flow must exist, found none with id {row.id}")

    assert (await post(browser, f"{row.id}/cancel", "viewer"))[0] == 403
    assert await post(browser, f"{row.id}/cancel", "other") == missing
    assert await post(browser, f"{row.id}/retry", "other", mode="all") == missing
    assert await post(browser, "987654321/cancel") == (404, "flow must exist, found none with id 987654321")
    assert (await schema_driver.pool.run(flow_get(row.id))).state is FlowState.RUNNING
