"""What a client takes as its database."""

from __future__ import annotations

from typing import Any

import pytest

from millhand.client import Client
from millhand.core.errors import ConfigError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.sync_client import SyncClient

URL = "postgresql://nobody@localhost/nothing"


@pytest.mark.parametrize("of", [Client, SyncClient])
@pytest.mark.parametrize(
    ("database", "pool_size", "told"),
    [
        (URL, 0, "pool_size must be between 1 and 1,000, got 0"),
        (
            AsyncpgDriver(URL),
            5,
            (
                "pool_size must be left out unless database is a URL, got 5 and a millhand.db.driver.asyncpg.AsyncpgDriver; "
                "set the size of your own pool"
            ),
        ),
    ],
)
def test_pool_size_is_for_a_url(of: Any, database: Any, pool_size: int, told: str) -> None:
    """A size that the pool of a URL cannot have, or a size for the caller's own pool, is an error."""
    with pytest.raises(ConfigError) as refused:
        of(database, pool_size=pool_size)

    assert str(refused.value) == told


@pytest.mark.parametrize("of", [Client, SyncClient])
def test_a_database_that_is_none_names_the_variable(of: Any) -> None:
    """`Client(os.environ.get("DATABASE_URL"))` without the variable asks for it."""
    with pytest.raises(ConfigError, match=r"^database must be a URL, .*, got None; is DATABASE_URL set\?$"):
        of(None)


def test_pool_size_is_not_for_a_connection_of_django() -> None:
    """A size with `using` is an error, because Django opens the connections."""
    with pytest.raises(ConfigError) as refused:
        SyncClient(using="default", pool_size=5)

    assert str(refused.value) == "pool_size must be left out with using, got 5; Django opens the connections"
