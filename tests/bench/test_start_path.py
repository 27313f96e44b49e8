"""What a process imports before it works: nothing that it may never need, and no more of the rest than it did."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

START_PATH = Path(__file__).with_name("start_path.py")
LIMIT = 1.15
NOT_FOR_AN_INSERT = {"click", "tomllib", "zoneinfo"}
# Other drivers, what renders for people, what speaks to buckets, what some of these bring with them, and our own rooms
# for that.
NOT_FOR_A_START = {
    "attr", "botocore", "django", "duckdb", "greenlet", "importlib.resources", "psycopg", "pydantic", "pygments", "rich",
    "sqlalchemy", "structlog", "tempfile", "urllib3", "zipfile",
    "millhand.embedded", "millhand.jobs.orphan_cleanup", "millhand.orphans.ledger", "millhand.orphans.run",
    "millhand.storage.protocol", "millhand.testing",
}  # fmt: skip
CLIENT = "from millhand import Client; Client('postgresql://ann@db/shop')"
WORKER = "import millhand.cli.worker, millhand.driver.asyncpg"


def started(program: str) -> tuple[float, set[str]]:
    """Return what the imports of a program cost, times those of its floor, and what it imports beyond that."""
    done = subprocess.run([sys.executable, START_PATH, program], capture_output=True, text=True, check=True)
    floor, counted, *modules = done.stdout.split()
    return int(counted) / int(floor), set(modules)


# What was counted, times the floor's, and how many modules. Whoever makes a start cheaper lowers the numbers.
@pytest.mark.parametrize(
    ("program", "ratio", "num_modules", "unwanted"),
    [
        (CLIENT, 0.535, 107, NOT_FOR_A_START | NOT_FOR_AN_INSERT),
        (WORKER, 0.93, 148, NOT_FOR_A_START),
    ],
    ids=["client", "worker"],
)
def test_start_imports_what_it_needs(
    program: str, ratio: float, num_modules: int, unwanted: set[str]
) -> None:
    """A client, and `millhand worker`, import no other driver, renderer or store, and cost about what they did."""
    counted, modules = started(program)

    assert modules & unwanted == set()
    assert len(modules) <= num_modules * LIMIT
    assert ratio / LIMIT <= counted <= ratio * LIMIT
