"""Differences between expected and existing jobs."""

from __future__ import annotations

import asyncpg
import pytest
from sample_jobs import Act

from millhand.client import Client
from millhand.core.insert_opts import InsertOpts
from millhand.testing import require_inserted


async def test_diff_names_each_place_inside_of_values(client: Client, tx: asyncpg.Connection) -> None:
    """A path leads to each difference; true is not 1, and a missing value is shown as nothing."""
    await client.insert(Act("x"), InsertOpts(metadata={"a": [1, {"b": 1}], "more": [1]}), tx=tx)

    with pytest.raises(AssertionError) as raised:
        await require_inserted(client, Act, tx=tx, metadata={"a": [1, {"b": True}], "gone": None})

    assert str(raised.value).splitlines()[2:] == [
        "      metadata.a[1].b: wanted true, got 1",
        "      metadata.gone: wanted null, got nothing",
        "      metadata.more: wanted nothing, got [1]",
    ]
