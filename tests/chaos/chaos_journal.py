"""
The journals of a load test: one file for each process, with the beginning and end of each attempt.

One call appends one line, so that a killed process leaves whole lines only. Source: `note` in `river/chaos.go` writes the
same, without the token.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# A line that takes longer to reach the disk is recorded: its process could do nothing else meanwhile.
STALLED_SECONDS = 1.0


@dataclass(frozen=True)
class Stall:
    """A time in which a process waited for the disk to take a line of its journal."""

    client: str
    began_at: float
    ended_at: float


@dataclass(slots=True)
class Execution:
    """
    One attempt as its process recorded it.

    Args:
        ended_at: None if the process was killed before.
        act: How the attempt was to end.
        ended_by: How it ended; `give_way` if it was cancelled from outside.
        token: Its fencing token; 0 if the journal has none.
        stored_at: When its client emitted the event of its stored outcome, and `stored_as` the kind of that event. None if
            it did not, or if the journal has no events.
    """

    client: str
    job: int
    attempt: int
    snoozes: int
    act: str
    began_at: float
    ended_at: float | None = None
    token: int = 0
    ended_by: str = ""
    stored_at: float | None = None
    stored_as: str = ""


class Journal:
    """
    Writes a journal with the instants of `clock`. With `is_synced`, each line is on disk before the attempt continues.

    Concurrency: from any thread.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, *, is_synced: bool = False
    ) -> None:
        self._clock = clock
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
        self._is_synced = is_synced

    def note(self, what: str, job: int, attempt: int, snoozes: int, act: str, token: int = 0) -> None:
        """Write that an attempt began or ended, or that its outcome is stored."""
        began_at = self._clock()
        self._write(f"{what} {began_at:.6f} {job} {attempt} {snoozes} {token} {act}\n")
        ended_at = self._clock()
        if ended_at - began_at > STALLED_SECONDS:
            self._write(f"stalled {began_at:.6f} 0 0 0 0 {ended_at:.6f}\n")

    def _write(self, line: str) -> None:
        os.write(self._file, line.encode())
        if self._is_synced:
            os.fdatasync(self._file)


def read_journals(directory: Path) -> list[Execution]:
    """Return all executions, by their beginning."""
    executions: list[Execution] = []
    for path in sorted(directory.glob("*.journal")):
        begun: dict[tuple[int, ...], Execution] = {}
        fetched: dict[tuple[int, int], Execution] = {}
        for line in path.read_text().splitlines():
            what, at, *numbers, act = line.split(" ")
            if what == "stalled":
                continue
            job, attempt, snoozes, *token = key = tuple(map(int, numbers))
            if what == "begin":
                execution = Execution(path.stem, job, attempt, snoozes, act, float(at), token=sum(token))
                begun[key] = fetched[job, execution.token] = execution
                executions.append(execution)
            elif what == "stored":
                if one := fetched.get((job, sum(token))):  # the row of another attempt has another token
                    one.stored_at, one.stored_as = float(at), act
            else:
                begun[key].ended_at = float(at)
                begun[key].ended_by = act
    return sorted(executions, key=lambda one: one.began_at)


def read_stalls(directory: Path) -> list[Stall]:
    """Return when processes waited for the disk."""
    return [
        Stall(path.stem, float(at), float(ended_at))
        for path in sorted(directory.glob("*.journal"))
        for what, at, *_, ended_at in map(str.split, path.read_text().splitlines())
        if what == "stalled"
    ]
