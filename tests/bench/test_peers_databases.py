"""The databases of the benchmark beside other queues: nobody else makes transactions in what idles."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[2] / place) for place in ("benchmarks", "benchmarks/peers")]

import bench_peers
import databases

# What the server's file says: a server that was told to read it again may take its time.
IS_OFF = "SELECT count(*) FROM pg_file_settings WHERE name = 'autovacuum' AND setting = 'off' AND applied"


@pytest.mark.slow
def test_autovacuum_is_off_while_systems_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is switched off for as long as idle cost is counted, and comes back after that."""
    found: list[int] = []

    def note() -> None:
        found.append(databases.ask(IS_OFF))

    with bench_peers.servers(with_redis=False) as places:
        monkeypatch.setenv("BENCH_DATABASE", places["BENCH_DATABASE"])
        note()
        with databases.without_autovacuum():
            note()
        note()

    assert found == [0, 1, 0]
