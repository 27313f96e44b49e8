"""The databases of a test run."""

from __future__ import annotations

import asyncpg
import pytest

from millhand.core.errors import ConfigError
from millhand.testing.database import Databases


@pytest.mark.slow
async def test_template_that_cannot_be_made_raises_and_is_dropped(postgres_server_url: str) -> None:
    """A role without CREATEDB gets an error with a remedy; an error of `prepare` is raised; and no database stays."""

    def fail(url: str) -> None:
        raise LookupError(url)

    limited = f"{postgres_server_url}{'&' if '?' in postgres_server_url else '?'}role=pg_read_all_data"
    with (
        Databases(limited, run="limited", process="main") as databases,
        pytest.raises(
            ConfigError, match=r"^the role of the tests' database must be allowed to make databases, got "
        ),
        databases.new(),
    ):
        pass
    with (
        Databases(postgres_server_url, run="failing", process="main", prepare=fail) as databases,
        pytest.raises(LookupError, match=r"/millhand_test_failing_template_unfinished\b"),
        databases.new(),
    ):
        pass
    connection = await asyncpg.connect(postgres_server_url)
    left = await connection.fetch("SELECT datname FROM pg_database WHERE datname ~ '_(limited|failing)_'")
    await connection.close()
    assert left == []
