"""What Linux says about processes: their children, CPU time and memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def family(pids: Iterable[int]) -> list[int]:
    """Return processes and their children."""
    found, waiting = [], list(pids)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        children = Path(f"/proc/{pid}/task/{pid}/children")
        with contextlib.suppress(OSError):
            waiting += map(int, children.read_text().split())
    return found


def begun_at(pid: int) -> str | None:
    """Return the start time of a process as the system counts, or None."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def cpu_seconds(pid: int, *, with_waited: bool = False) -> float:
    """Return the user and system time of a process, also that of its exited children if `with_waited`."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11 : 15 if with_waited else 13])) / TICKS


def status_kib(pid: int, name: str) -> int:
    """Return a number of `/proc/PID/status`."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def mapped_kib(pid: int, path: str) -> int:
    """Return how much of a mapped file is in memory: 8 MiB of the board after a million jobs."""
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except OSError:
        return 0
    starts = [index for index, line in enumerate(lines) if line.endswith(f" {path}")]
    return sum(int(_following(lines[start:], "Rss:").split()[1]) for start in starts)


def _following(lines: list[str], name: str) -> str:
    return next(line for line in lines if line.startswith(name))
