"""The databases of the benchmark against other queues: only the idle systems make transactions in them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[2] / place) for place in ("benchmarks", "benchmarks/peers")]

import bench_peers
import databases

# The setting in the server's file: a reload takes effect with a delay.
IS_OFF = "SELECT count(*) FROM pg_file_settings WHERE name = 'autovacuum' AND setting = 'off' AND applied"


@pytest.mark.slow
def test_autovacuum_is_off_while_systems_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autovacuum is off while idle cost is counted, and on again after it."""
    found: list[int] = []

    def record() -> None:
        found.append(databases.ask(IS_OFF))

    with bench_peers.servers(with_redis=False) as places:
        monkeypatch.setenv("BENCH_DATABASE", places["BENCH_DATABASE"])
        record()
        with databases.without_autovacuum():
            record()
        record()

    assert found == [0, 1, 0]
