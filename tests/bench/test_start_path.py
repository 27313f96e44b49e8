"""Guard the imports of a process: no module that it may never need, and no growth of the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

START_PATH = Path(__file__).with_name("start_path.py")
LIMIT = 1.15
NOT_FOR_AN_INSERT = {"click", "tomllib", "zoneinfo"}
# Other drivers, renderers, object stores, their dependencies, and our own packages for them.
NOT_FOR_A_START = {
    "attr", "botocore", "django", "duckdb", "greenlet", "importlib.resources", "psycopg", "pydantic", "pygments", "rich",
    "sqlalchemy", "structlog", "tempfile", "urllib3", "zipfile",
    "millhand.embedded", "millhand.jobs.orphan_cleanup", "millhand.orphans.ledger", "millhand.orphans.run",
    "millhand.storage.protocol", "millhand.testing",
}  # fmt: skip
CLIENT = "from millhand import Client; Client('postgresql://ann@db/shop')"
WORKER = "import millhand.cli.worker, millhand.db.driver.asyncpg"
PROBE = "import millhand.cli.main, millhand.cli.probe"
NOT_FOR_A_PROBE = {
    "asyncio",
    "asyncpg",
    "http.client",
    "tomllib",
    "millhand.client",
    "millhand.shells.settings.load",
}
# Of a worker that nothing observes.
NOT_WITHOUT_PROBES = {"millhand.observe.health", "millhand.observe.http_server", "millhand.process.observer"}


def started(program: str) -> tuple[float, set[str]]:
    """Return the cost of a program's imports as a multiple of the baseline's, and the modules beyond the baseline."""
    done = subprocess.run([sys.executable, START_PATH, program], capture_output=True, text=True, check=True)
    baseline, counted, *modules = done.stdout.split()
    return int(counted) / int(baseline), set(modules)


@pytest.mark.slow
# The cost as a multiple of the baseline's, and the number of modules. Lower the numbers when the cost falls.
@pytest.mark.parametrize(
    ("program", "ratio", "num_modules", "unwanted"),
    [
        (CLIENT, 0.85, 172, NOT_FOR_A_START | NOT_FOR_AN_INSERT),
        (WORKER, 1.33, 233, NOT_FOR_A_START | NOT_WITHOUT_PROBES),
        (PROBE, 0.196, 32, NOT_FOR_A_START | NOT_FOR_A_PROBE),
    ],
    ids=["client", "worker", "probe"],
)
def test_start_imports_what_it_needs(
    program: str, ratio: float, num_modules: int, unwanted: set[str]
) -> None:
    """A client, `millhand worker` and `millhand probe` import what they need, and cost as written above."""
    counted, modules = started(program)

    assert modules & unwanted == set()
    assert len(modules) <= num_modules * LIMIT
    assert ratio / LIMIT <= counted <= ratio * LIMIT
