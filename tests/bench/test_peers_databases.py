"""The databases of the benchmark against other queues: what is counted in them, and what a held snapshot keeps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[2] / place) for place in ("benchmarks", "benchmarks/peers")]

import bench_peers
import databases
import harness

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


@pytest.mark.slow
def test_the_server_time_of_a_job_includes_backends_that_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query's CPU time counts after its connection is closed, and an idle server takes next to none."""
    busy = "SELECT count(*) FROM generate_series(1, 3000000)"

    with bench_peers.servers(with_redis=False) as places:
        monkeypatch.setenv("BENCH_DATABASE", places["BENCH_DATABASE"])
        found = [databases.server_cpu_seconds(harness.System()) for _ in range(2)]
        databases.ask(busy)
        found.append(databases.server_cpu_seconds(harness.System()))

    assert found[1] - found[0] < found[2] - found[1]


@pytest.mark.slow
def test_a_held_snapshot_keeps_dead_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that die beside the open transaction stay on disk after a vacuum, until it ends."""

    def dead_rows_kept() -> int:
        with databases.connected(harness.database_url()) as connection:
            connection.execute("VACUUM rows")
            return int(connection.execute("SELECT pg_relation_size('rows')").fetchone()[0])

    with bench_peers.servers(with_redis=False) as places:
        monkeypatch.setenv("BENCH_DATABASE", places["BENCH_DATABASE"])
        databases.make_empty("bench")
        with databases.connected(harness.database_url()) as connection:
            connection.execute("CREATE TABLE rows AS SELECT generate_series(1, 1000) AS n")
            with databases.held_snapshot():
                connection.execute("DELETE FROM rows")
                beside = dead_rows_kept()
        after = dead_rows_kept()

    assert beside > after == 0
