from __future__ import annotations

import pytest

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.django import DjangoDriver
from millhand.db.driver.protocol import Driver
from millhand.db.driver.psycopg import PsycopgDriver
from millhand.db.driver.psycopg_sync import PsycopgSyncDriver


@pytest.mark.parametrize("kind", [AsyncpgDriver, PsycopgDriver, PsycopgSyncDriver])
def test_driver_of_a_url_has_the_protocol(
    kind: type[AsyncpgDriver | PsycopgDriver | PsycopgSyncDriver],
) -> None:
    """A driver made of a URL is a Driver with its schema, without a connection."""
    driver = kind("postgresql://x@/x", "shop")

    assert (isinstance(driver, Driver), driver.schema) == (True, "shop")


def test_driver_of_django_has_the_protocol() -> None:
    """A driver of Django's database is a Driver with its schema, without a connection."""
    driver = DjangoDriver("default", "shop")

    assert (isinstance(driver, Driver), driver.schema) == (True, "shop")


@pytest.mark.parametrize("value", ["postgresql://x@/x", None, object()])
def test_other_objects_lack_the_protocol(value: object) -> None:
    """A URL is no Driver, so a client makes one of it."""
    assert not isinstance(value, Driver)
