"""An embedded server of a benchmark, whose CPU time can be read."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from millhand.embedded import embedded_postgres

TICKS = os.sysconf("SC_CLK_TCK")


class Server(msgspec.Struct, frozen=True):
    """A running server, whose processes are the children of its postmaster, and a directory that is removed with it."""

    directory: Path
    url: str

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes, also of those that have ended."""
        lines = (self.directory / "pg" / "data" / "postmaster.pid").read_text().split()
        return sum(self._ticks(int(lines[0]))) / TICKS

    def _ticks(self, postmaster: int) -> Iterator[int]:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:  # the process has ended
                continue
            if int(stat.parent.name) == postmaster:
                yield sum(map(int, fields[11:15]))
            elif int(fields[1]) == postmaster:
                yield sum(map(int, fields[11:13]))


@contextlib.contextmanager
def own_server() -> Iterator[Server]:
    """Start a server with default settings in a new directory, and remove both at the end."""
    with tempfile.TemporaryDirectory(prefix="millhand-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # a server that root starts runs as another user
        with embedded_postgres(directory / "pg") as postgres:
            yield Server(directory, postgres.url)
