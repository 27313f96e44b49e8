"""CPU seconds of other processes of this machine, as Linux counts them. They hardly depend on what else runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(*pids: int) -> float:
    """Return the CPU time of processes and of their children, also of those that have ended."""
    return sum(_ticks(fields) for fields in _processes(pids)) / TICKS


def parent_of(pid: int) -> int:
    """Return the parent of a process."""
    return int(_fields(Path("/proc") / str(pid))[1])


def _processes(pids: tuple[int, ...]) -> Iterator[list[str]]:
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            fields = _fields(directory)
        except OSError:  # it has ended
            continue
        if int(directory.name) in pids or int(fields[1]) in pids:
            yield fields


def _fields(directory: Path) -> list[str]:
    """Return the fields of a process from its state on."""
    return (directory / "stat").read_text().rpartition(")")[2].split()


def _ticks(fields: list[str]) -> int:
    return sum(map(int, fields[11:15]))  # its own, and those of children that it has waited for
