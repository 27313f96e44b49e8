"""
What the workers of the load test write down, a file for each process: when each attempt began, and when it ended.

A line is written by one call at the end of a file, so a process that is killed leaves whole lines only, and all that
it wrote. Source: `note` in `river/chaos.go` writes the same.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Execution:
    """One attempt as its process saw it; `ended_at` is None if the process was killed before."""

    client: str
    job: int
    attempt: int
    snoozes: int
    act: str
    began_at: float
    ended_at: float | None = None


class Journal:
    """Writes. Concurrency: from any thread."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)

    def note(self, what: str, job: int, attempt: int, snoozes: int, act: str) -> None:
        """Write that an attempt began, or ended."""
        os.write(self._file, f"{what} {time.time():.6f} {job} {attempt} {snoozes} {act}\n".encode())


def read_journals(directory: Path) -> list[Execution]:
    """Return all that was written, by the instant at which it began."""
    executions: list[Execution] = []
    for path in sorted(directory.glob("*.journal")):
        begun: dict[tuple[int, int, int], Execution] = {}
        for line in path.read_text().splitlines():
            what, at, *numbers, act = line.split(" ")
            job, attempt, snoozes = map(int, numbers)
            if what == "begin":
                execution = Execution(path.stem, job, attempt, snoozes, act, float(at))
                begun[job, attempt, snoozes] = execution
                executions.append(execution)
            else:
                begun[job, attempt, snoozes].ended_at = float(at)
    return sorted(executions, key=lambda one: one.began_at)
