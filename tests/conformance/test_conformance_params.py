"""Params at the edge of the contract: the adapter accepts what its schemas accept, and refuses what they refuse."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from json_schema import faults
from river_adapter import CONTRACT, METHODS
from river_conformance.methods import METHODS as OURS

INSTANT = "2026-01-02T03:04:05.6789Z"
OPTIONS = {"by_args": True, "by_period_nanos": 0, "by_queue": False, "exclude_kind": False}
KEY = {"args": {}, "kind": "conformance_simple", "now": INSTANT, "options": OPTIONS, "queue": "q"}

CASES: list[tuple[str, dict[str, Any]]] = [
    ("get", {"id": 0}),
    ("get", {"id": 2**63 - 1}),
    ("get", {"id": "1"}),
    ("get", {"id": True}),
    ("get", {"id": 1.5}),
    ("get", {"id": None}),
    ("get", {"id": 1, "schema": None}),
    ("get", {"id": 1, "schema": "s"}),
    ("tx_get", {"id": 1, "handle": ""}),
    ("tx_get", {"id": 1, "handle": "h"}),
    ("tx_get", {"id": 1}),
    ("insert", {"behavior": "unknown"}),
    ("insert", {"behavior": "panic", "duration_ms": 0, "message": ""}),
    ("insert", {"duration_ms": -1}),
    ("insert", {"message": None}),
    ("insert", {"opts": None}),
    ("insert", {"opts": {"max_attempts": 0}}),
    ("insert", {"opts": {"priority": 99, "queue": "", "tags": [], "metadata": {}, "pending": True}}),
    ("insert", {"opts": {"scheduled_at": ""}}),
    ("insert", {"opts": {"scheduled_at": INSTANT}}),
    ("insert", {"opts": {"tags": [1]}}),
    ("insert", {"opts": {"metadata": []}}),
    ("insert", {"opts": {"unknown": 1}}),
    ("insert", {"opts": {"unique": {"by_state": ["no_state"]}}}),
    ("insert", {"opts": {"unique": {"by_state": ["available"], "by_period_ms": 0}}}),
    ("insert", {"opts": {"unique": {"unknown": 1}}}),
    ("insert_many", {"jobs": [{"schema": "s"}]}),
    ("insert_many", {"jobs": [{}]}),
    ("list", {"after": ""}),
    ("list", {"direction": "up"}),
    ("list", {"limit": 0}),
    ("list", {"metadata": None}),
    ("list", {"states": ["running"], "ids": [1], "limit": 1, "order_by": "time"}),
    ("delete_many", {"all": 1}),
    ("delete_many", {"all": True}),
    ("queue_get", {"name": ""}),
    ("queue_update", {"name": "q", "metadata": 1}),
    ("migrate", {"direction": "left"}),
    ("migrate", {"target_version": -1, "max_steps": 1, "dry_run": False}),
    ("migrate", {"max_steps": 0}),
    ("request_resign", {}),
    ("request_resign", {"handle": ""}),
    ("rng_seed", {"seed": 2**64 - 1}),
    ("rng_seed", {"seed": 2**64}),
    ("rng_seed", {"seed": -1}),
    ("retry_delay", {"error_count": 0, "job_id": 1}),
    ("retry_delay", {"error_count": 1, "job_id": -1}),
    ("cron_next", {"count": 1, "expression": "", "from": INSTANT}),
    ("cron_next", {"count": 0, "expression": "", "from": INSTANT}),
    ("update", {"id": 1, "output": None}),
    ("start", {}),
    ("start", {"client_id": "c", "cancelled_job_retention_ms": -1, "retry_delay_ms": 0}),
    ("start", {"client_id": "c", "cancelled_job_retention_ms": -2}),
    ("start", {"client_id": "c", "max_workers": 0}),
    ("start", {"client_id": "c", "reindexer_index_names": [""]}),
    ("start", {"client_id": "c", "queue": ""}),
    ("start", {"client_id": "c", "schema": ""}),
    ("stop", {"cancel": True}),
    ("stop", {"cancel": 1}),
    ("wait", {"id": 1, "states": []}),
    ("wait", {"id": 1, "states": ["ended"]}),
    ("work", {"id": 1, "client_id": ""}),
    ("barrier_create", {"name": ""}),
    ("queue_add", {"name": "q", "max_workers": 0}),
    ("raw_insert_exact_json", {"id": 0}),
    ("raw_insert_exact_json", {"metadata_json": {}}),
    ("raw_insert_no_notify", {"kind": ""}),
    ("raw_insert_no_notify", {"kind": "k", "message": "m", "schema": "s"}),
    ("unique_key", KEY),
    ("unique_key", {**KEY, "kind": "other"}),
    ("unique_key", {**KEY, "scheduled_at": None, "selected_unique_paths": None, "args": [1]}),
    ("unique_key", {**KEY, "selected_unique_components": [["a", "b"]], "expected_error": "rejected"}),
    ("unique_key", {**KEY, "options": {}}),
]


@pytest.mark.parametrize(("method", "params"), CASES)
def test_params_are_valid_where_the_schema_accepts_them(method: str, params: dict[str, Any]) -> None:
    """The adapter reads exactly the params that the contract's schema accepts."""
    is_valid = not list(faults(params, METHODS[method]["params"], CONTRACT["$defs"]))

    try:
        msgspec.json.decode(msgspec.json.encode(params), type=OURS[method].params)
    except msgspec.ValidationError:
        assert not is_valid
    else:
        assert is_valid


@pytest.mark.parametrize("text", ["yesterday", "2026-01-02", "2026-01-02T03:04:05"])
def test_instant_without_a_zone_is_invalid(text: str) -> None:
    """The contract's schema accepts any text as an instant; one that is not of RFC 3339 is invalid all the same."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode({"now": text}), type=OURS["clock_set"].params)
