"""
The demo with the web page: `./just demo --web`.

A worker works the jobs of `shop.py`, and the page shows them. The payment provider is down for five minutes, or until you
press Enter. The failures of the minutes before are in the history from the start.
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
from millhand.core.clock import SystemClock
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.history.store import history_get
from millhand.history.writer import HistoryWriter

OUTAGE_SECONDS = 300
PROJECT = Path(__file__).parents[2]
INTRODUCTION = """\
shop    orders arrive each second; their cards are charged, and receipts are sent
trouble the payment provider is down for five minutes; press Enter to bring it back at once
        no worker works queue partner, where a receipt waits
look at the overview first: it says what fails, and what is usual; charts follow a minute later
        Errors: why charges fail, and an example with its trace
        Queues: what holds the jobs of each queue
to do   when the provider is back, search state:discarded, and retry all that match

in {directory}, until Ctrl-C; the worker logs to worker.log
"""
# The same shop in the hour before. The provider went down five minutes ago: charges failed three times each. The
# worker `earlier` stopped 40 seconds ago.
PAST = """
INSERT INTO millhand_client (
    id, language, version, hostname, pid, kinds, queues, queue_updates, heartbeat_interval, started_at, last_seen_at,
    stopped_at
)
VALUES (
    'earlier', 'python', '0.2.0', 'shop', 7, '{charge_card}', '{"default": 10}', '{}', '15 s', now() - interval '2 h',
    now() - interval '40 s', now() - interval '40 s'
);
INSERT INTO river_job (
    args, attempt, attempted_at, attempted_by, created_at, errors, finalized_at, kind, max_attempts, queue, scheduled_at,
    state, tags
)
SELECT
    jsonb_build_object('order', 1001 - n, 'euros', 5 + n % 245, 'customer', 'customer-' || n % 90 || '@example.com'),
    cardinality(failed) + is_paid::integer, last, ARRAY['earlier'], at, failed, last + interval '0.2 s', 'charge_card', 3,
    'default', last, CASE WHEN is_paid THEN 'completed' ELSE 'discarded' END::river_job_state, ARRAY['payment']
FROM generate_series(8, 744) AS n
CROSS JOIN LATERAL (SELECT now() - n * interval '5 s' AS at, n > 60 AS is_paid) AS ordered
CROSS JOIN LATERAL (
    SELECT
        CASE WHEN is_paid THEN at ELSE at + interval '30 s' END AS last,
        ARRAY(
            SELECT jsonb_build_object(
                'at', at + seconds * interval '1 s', 'attempt', attempt, 'trace', '',
                'error', 'ProviderUnavailable: payment provider answers 503 to the charge of order ' || 1001 - n
            )
            FROM unnest(ARRAY[0, 10, 30]) WITH ORDINALITY AS given (seconds, attempt)
            WHERE NOT is_paid
        ) AS failed
) AS attempted
"""


def serve(directory: Path, arguments: Sequence[str]) -> int:
    """Work the jobs in one process, and serve the page in this one, until a signal."""
    print(INTRODUCTION.format(directory=directory), flush=True)
    OUTAGE.touch()
    back = threading.Timer(OUTAGE_SECONDS, end_outage, ["five minutes are over"])
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
    await count_past(driver)
    await client.insert(SendReceipt(7, "guest@example.com"), InsertOpts(queue="partner"))
    await client.insert_many([SalesReport(region) for region in ("north", "south", "east", "west")])


async def count_past(driver: AsyncpgDriver) -> None:
    """Count the hour before, so that the page has its history at once. A leader alone would be done after minutes."""
    writer = HistoryWriter(driver.pool, clock=SystemClock(), holder="demo")
    counted_to = None
    while (state := await driver.pool.run(history_get())) is None or state.counted_to != counted_to:
        counted_to = state and state.counted_to
        await writer.run_once()
