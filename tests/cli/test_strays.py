"""What the worker's event loop has no owner for."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from millhand.cli.worker_process import run_to_the_end


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionError("unexpected connection_lost() call"), [("DEBUG", "connection lost")]),
        (ConnectionResetError("reset"), [("DEBUG", "connection lost")]),
        (ValueError("a mistake"), [("ERROR", "Future exception was never retrieved")]),
    ],
)
def test_connection_that_is_lost_beside_its_deadline_is_no_error(
    error: Exception, told: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """A driver's future that nobody asks any more says so in the log of debugging; other strays are told as ever."""
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        asyncio.get_running_loop().create_future().set_exception(error)
        gc.collect()

    run_to_the_end(main)

    lines = [(one.levelname, one.getMessage().partition("\n")[0]) for one in caplog.records]
    assert [line for line in lines if "selector" not in line[1]] == told
