"""The contenders, the description of the machine and the server that several benchmarks use."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from systems import MILLHAND, System

from millhand.embedded import embedded_postgres


@dataclass(frozen=True)
class Contender:
    """A system with one setting."""

    title: str
    system: System
    slots: int


DEFAULTS = Contender("Millhand, defaults", MILLHAND, MILLHAND.slots)
WIDE = Contender("Millhand, 4,000 workers", MILLHAND, 4_000)


def about_machine(server: str) -> list[str]:
    """Return a description of the machine and the server, as Markdown list items."""
    machine = f"{os.cpu_count()} cores ({processor()}), {memory_gib():.0f} GiB, {platform.system()}"
    versions = f"Python {platform.python_version()}, asyncpg {version('asyncpg')}"
    return [
        f"- Machine: {machine}; client, worker and server share it.",
        f"- PostgreSQL {server} with default settings, so `fsync` and `synchronous_commit` are on.",
        f"- {versions}, the standard event loop.",
    ]


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def log(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


@contextlib.contextmanager
def server_url(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="millhand-bench-") as directory:
        Path(directory).chmod(0o755)  # a server that root starts runs as another user
        with embedded_postgres(Path(directory)) as server:
            yield server.url
