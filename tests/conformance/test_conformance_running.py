"""The settings with which a client starts."""

from __future__ import annotations

from typing import Any

import pytest

from river_adapter import Adapter, code_of

SETTINGS = {
    "cancelled_job_retention_ms": -1,
    "client_id": "all-settings",
    "completed_job_retention_ms": 3_600_000,
    "discarded_job_retention_ms": 3_600_000,
    "error_handler_cancel": True,
    "fetch_poll_interval_ms": 60_000,
    "instrumented": True,
    "job_cleaner_interval_ms": 50,
    "job_stuck_threshold_ms": 100,
    "job_timeout_ms": 60_000,
    "leader_election_disabled": True,
    "max_workers": 2,
    "poll_only": True,
    "queue": "other",
    "queue_cleaner_interval_ms": 50,
    "reindexer_index_names": ["river_job_kind"],
    "reindexer_interval_ms": 200,
    "rescue_after_ms": 60_000,
    "retry_delay_ms": 0,
}


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"elect_interval_ms": 20}, "unsupported"),
        ({"rescuer_interval_ms": 20}, "unsupported"),
        ({"scheduler_interval_ms": 20}, "unsupported"),
        ({"claim_barrier": "b"}, "invalid_params"),
        ({"leader_election_disabled": True, "periodic_run_on_start": True}, "rejected"),
        ({"periodic_unique": True}, "rejected"),
        ({"schema": "not a schema"}, "rejected"),
        ({"client_id": ""}, "invalid_params"),
    ],
)
async def test_setting_that_a_client_cannot_have_is_refused(
    adapter: Adapter, params: dict[str, Any], code: str
) -> None:
    """leader_election_disabled_both_directions; each refused setting has the contract's code, and no client runs."""
    assert await code_of(adapter, "start", **{"client_id": "c", **params}) == code
    assert await code_of(adapter, "stop") == "rejected"


async def test_client_is_started_once_and_stopped_once(adapter: Adapter) -> None:
    """Only one client runs at a time, and without one there is nothing to observe, to add a queue to, or to stop."""
    for method, params in (("runtime_stats", {}), ("stop", {}), ("queue_add", {"name": "q"})):
        assert await code_of(adapter, method, **params) == "rejected", method
    await adapter.call("start", **SETTINGS)

    assert await code_of(adapter, "start", client_id="c") == "rejected"
    await adapter.call("stop")
    assert await code_of(adapter, "stop") == "rejected"
    await adapter.call("start", client_id="c", job_timeout_disabled=True, rescue_after_ms=1)
    await adapter.call("stop", cancel=True)
