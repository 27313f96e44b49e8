"""Claims about exceptions that no task awaits."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own, because the garbage collector decides when the loop reports.
PROGRAM = """
import asyncio, gc, logging
from millhand.process.worker_process import run_to_the_end

async def main():
    asyncio.get_running_loop().create_future().set_exception({error})
    gc.collect()

logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(message)s")
run_to_the_end(main)
"""


@pytest.mark.parametrize(
    ("error", "messages"),
    [
        (
            "ConnectionError('unexpected connection_lost() call')",
            'DEBUG connection lost error="unexpected connection_lost() call" error_type=ConnectionError',
        ),
        (
            "ConnectionResetError('reset')",
            "DEBUG connection lost error=reset error_type=ConnectionResetError",
        ),
        ("ValueError('a mistake')", "ERROR Future exception was never retrieved"),
    ],
)
def test_lost_connection_of_an_abandoned_future_is_no_error(error: str, messages: str) -> None:
    """A connection error of an abandoned future is logged at DEBUG; other errors are logged as asyncio does."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(error=error)], capture_output=True, text=True, check=True
    )

    levels = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    lines = [line for line in done.stderr.splitlines() if line.startswith(levels) and "selector" not in line]
    assert lines == [messages]
