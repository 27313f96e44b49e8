"""Runs over a real S3 server that stores some keys under other names."""

from __future__ import annotations

from datetime import timedelta

import pytest
from world import World

from millhand.orphans import list_findings

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def test_a_key_that_the_server_alters_ends_no_run(plain: World) -> None:
    """SeaweedFS lists `/a` as `a`. Rows with such keys keep their objects, are near-matches, and end no run."""
    world, keys = plain, ["/leading", "a//b", "back\\slash", "deep///a//b"]
    await world.pair("live", *keys)
    await world.put("orphan")

    reports = [await world.run(after=span) for span in (2 * HOUR, WEEK, WEEK)]

    findings = await list_findings(world.executor)
    assert [report.state for report in reports] == ["completed"] * 3, reports[-1].abort_reasons
    assert [report.deleted for report in reports] == [0, 1, 0]
    assert await world.keys() == ["a/b", "back/slash", "deep/a/b", "leading", "live"]
    assert [(one.kind, one.key) for one in findings] == [
        ("near_match", key) for key in ("a/b", "back/slash", "deep/a/b", "leading")
    ]
    assert [await world.store.get(key) for key in keys] == [key.encode() for key in keys]
