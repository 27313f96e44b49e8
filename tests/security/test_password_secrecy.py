"""A password in a URL is in no error, no traceback, no log and no repr, whatever is wrong with the URL or the server."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from millhand import Client, SyncClient
from millhand.core.errors import MillhandError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.psycopg import PsycopgDriver
from planted import BAD_URLS, found_in

MAKERS: dict[str, Callable[[str], Any]] = {
    "asyncpg": AsyncpgDriver,
    "psycopg": PsycopgDriver,
    "client": Client,
}


async def _opened(make: Callable[[str], Any], url: str, texts: list[str]) -> None:
    thing = make(url)
    texts.append(repr(thing))
    await (thing.start() if isinstance(thing, Client) else thing.open())


def shown(error: BaseException) -> str:
    """Return everything that printing an error may show."""
    return "\n".join([*traceback.format_exception(error), repr(error), repr(vars(error))])


@pytest.mark.parametrize("url", BAD_URLS.values(), ids=BAD_URLS)
async def test_error_of_a_url_shows_no_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """For every driver, with all causes, and with the log of every library at its most detailed level."""
    caplog.set_level(logging.DEBUG)
    texts = []
    for make in MAKERS.values():
        with pytest.raises((MillhandError, TypeError)) as caught:
            await _opened(make, url, texts)
        texts.append(shown(caught.value))

    def blocking() -> None:
        with SyncClient(url):
            pass

    with pytest.raises((MillhandError, TypeError)) as caught:
        await asyncio.to_thread(blocking)
    texts += [shown(caught.value), *(record.getMessage() + str(vars(record)) for record in caplog.records)]

    assert found_in("\n".join(texts)) == []
