"""
The demo with the web page: `./just demo --web`.

A worker works the jobs of `shop.py`, and the page shows them. The payment provider is down for two minutes, or until you
press Enter.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from examples.demo.shop import OUTAGE, SalesReport, SendReceipt

from millhand import Client, InsertOpts
from millhand.cli.main import run
from millhand.driver.asyncpg import AsyncpgDriver

OUTAGE_SECONDS = 120
PROJECT = Path(__file__).parents[2]
INTRODUCTION = """\
shop    orders arrive each second; their cards are charged, and receipts are sent
trouble the payment provider is down for two minutes; press Enter to bring it back at once
to do   find out on the page what fails, since when, and how many jobs wait
        when the provider is back, retry the discarded jobs, and see them succeed

in {directory}, until Ctrl-C; the worker logs to worker.log
"""
# The same shop in the hour before: 50 minutes of orders. Its worker stopped twelve minutes ago.
PAST = """
INSERT INTO river_job (
    args, attempt, attempted_at, attempted_by, created_at, finalized_at, kind, max_attempts, queue, scheduled_at, state
)
SELECT
    jsonb_build_object('order', 1001 - n, 'euros', 5 + n % 245, 'customer', 'customer-' || n % 90 || '@example.com'), 1, at,
    ARRAY['earlier'], at, at + interval '0.2 s', 'charge_card', 3, 'default', at, 'completed'
FROM generate_series(144, 744) AS n
CROSS JOIN LATERAL (SELECT now() - n * interval '5 s' AS at) AS ordered
"""


def serve(directory: Path, arguments: Sequence[str]) -> int:
    """Work the jobs in one process, and serve the page in this one, until a signal."""
    print(INTRODUCTION.format(directory=directory), flush=True)
    OUTAGE.touch()
    back = threading.Timer(OUTAGE_SECONDS, end_outage, ["two minutes are over"])
    back.daemon = True
    back.start()
    threading.Thread(target=wait_for_enter, daemon=True).start()
    with worker(directory):
        return run(["web", "--role", "admin", *arguments])


@contextlib.contextmanager
def worker(directory: Path) -> Iterator[None]:
    """Run a worker in a process of its own, whose output goes to a file."""
    path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = (sys.executable, "-m", "millhand", "worker", "examples.demo.shop:config")
    with Path(directory, "worker.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log)
        try:
            yield
        finally:
            # Ctrl-C has reached it already; a second signal would interrupt its jobs.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait()


def wait_for_enter() -> None:
    # Not input(): at the end of the process this thread would hold the lock of sys.stdin.
    if os.read(0, 1):
        end_outage("you pressed Enter")


def end_outage(reason: str) -> None:
    if OUTAGE.exists():
        OUTAGE.unlink()
        print(f"the payment provider is back: {reason}", flush=True)


async def fill(driver: AsyncpgDriver, client: Client) -> None:
    """Insert what happened before, a job in a queue that no client works, and reports that wait."""
    await driver.pool.execute_script(PAST)
    await client.insert(SendReceipt(7, "guest@example.com"), InsertOpts(queue="partner"))
    await client.insert_many([SalesReport(region) for region in ("north", "south", "east", "west")])
