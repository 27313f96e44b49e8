"""Methods that compute values."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from river_adapter import CONTRACT, Adapter, code_of
from river_suite import upstream, upstream_args

FULL_ONLY = CONTRACT["methods_without_schemas"]
UNIQUE = upstream("unique_keys")
ARGS = upstream_args()


async def test_cron_next_answers_as_the_suite_expects(adapter: Adapter) -> None:
    """cron_schedule_goldens; texts of instants are those of the suite, and its invalid expressions are rejected."""
    values = upstream("maintenance_values")

    for case in values["cron_cases"]:
        found = await adapter.call(
            "cron_next", count=5, expression=case["expression"], **{"from": case["from"]}
        )
        assert found == {"next": case["next"]}, case["name"]
    for expression in values["cron_invalid"]:
        asked = {"count": 1, "expression": expression, "from": "2026-01-01T00:00:00Z"}
        assert await code_of(adapter, "cron_next", **asked) == "rejected", expression


async def test_retry_delay_depends_on_the_seed_alone(adapter: Adapter) -> None:
    """deterministic_retry_clock_rng; one seed gives one sequence of delays within the bounds, up to Go's longest."""
    delays = []
    for _ in range(2):
        await adapter.call("clock_set", now="2026-01-02T03:04:05.6789Z")
        await adapter.call("rng_seed", seed=2**64 - 1)
        delays.append(
            [(await adapter.call("retry_delay", error_count=n, job_id=42))["delay_ns"] for n in (1, 2, 310)]
        )

    assert delays[0] == delays[1]
    assert 0.9e9 <= delays[0][0] <= 1.1e9
    assert delays[0][2] == 2**63 - 1


@pytest.mark.parametrize("case", UNIQUE["cases"], ids=lambda case: case["name"])
async def test_unique_key_answers_as_the_suite_expects(adapter: Adapter, case: dict[str, Any]) -> None:
    """unique_hash_goldens; each case of the suite is a request, and gives its key and mask."""
    args = msgspec.Raw(ARGS[case["name"]].encode())  # as the suite writes them

    result = await adapter.call("unique_key", **{**case, "args": args})

    assert result == {"sha256": case["expected_sha256"], "state_mask": case["expected_state_mask"]}


async def test_unique_key_of_other_args_is_rejected(adapter: Adapter) -> None:
    """Args that are no object have no key; an empty list counts as an object; named fields are compared."""
    options = {"by_args": True, "by_period_nanos": 0, "by_queue": False, "exclude_kind": False}
    common = {
        "kind": "conformance_all_args",
        "now": "2026-01-02T03:04:05Z",
        "options": options,
        "queue": "default",
    }

    for args in ([1], None, "args"):
        assert await code_of(adapter, "unique_key", args=args, **common) == "rejected"
    assert await adapter.call("unique_key", args=[], **common) == await adapter.call(
        "unique_key", args={}, **common
    )
    common["kind"] = "conformance_dotted_selected_args"
    dotted = {"selected_unique_components": [["user.id"], ["user", "id"]]}
    keys = [
        (await adapter.call("unique_key", args=args, **common, **dotted))["sha256"]
        for args in ({"user.id": "x"}, {"user": {"id": "x"}}, {"user": {"id": "x"}, "other": 1})
    ]
    assert keys[0] != keys[1] == keys[2]
