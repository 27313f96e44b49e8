"""What the jobs of a fan-out did and when: a file to which each job appends, so that a killed process loses no entry."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import harness

# The instant in nanoseconds of the monotonic clock, the fan-out, its part, what happened, and the process.
ENTRY = struct.Struct("<qiiii")
CALLBACK = -1
BEGAN, ENDED = 0, 1


@dataclass(frozen=True)
class Entry:
    """The begin or the end of a part, or of the callback of a fan-out."""

    at: int
    fan_out: int
    part: int
    event: int
    pid: int


_files: list[int] = []


def write(fan_out: int, part: int, event: int) -> None:
    """Append an entry with one system call: Linux appends such writes of several processes one after the other."""
    if not _files:
        _files.append(os.open(os.environ["BENCH_JOURNAL"], os.O_WRONLY | os.O_APPEND))
    os.write(_files[0], ENTRY.pack(time.monotonic_ns(), fan_out, part, event, os.getpid()))


async def work(fan_out: int, part: int) -> None:
    """Be a part of a fan-out, in an event loop."""
    write(fan_out, part, BEGAN)
    if milliseconds := harness.settings().get("wait_ms", 0):
        await asyncio.sleep(milliseconds / 1000)
    write(fan_out, part, ENDED)


def work_in_process(fan_out: int, part: int) -> None:
    """Be a part of a fan-out, in a process or thread of its own."""
    write(fan_out, part, BEGAN)
    if milliseconds := harness.settings().get("wait_ms", 0):
        time.sleep(milliseconds / 1000)
    write(fan_out, part, ENDED)


def call_back(fan_out: int) -> None:
    """Be the callback of a fan-out."""
    write(fan_out, CALLBACK, BEGAN)
    write(fan_out, CALLBACK, ENDED)


class Journal:
    """The entries of a run, as far as they are read, and the fan-outs whose callback has ended."""

    def __init__(self, path: Path) -> None:
        self.called_back: set[int] = set()
        self.entries: list[Entry] = []
        self.path = path

    def read(self) -> list[Entry]:
        """Return the entries since the last call."""
        with self.path.open("rb") as file:
            file.seek(len(self.entries) * ENTRY.size)
            found = file.read()
        new = [Entry(*fields) for fields in ENTRY.iter_unpack(found[: len(found) // ENTRY.size * ENTRY.size])]
        self.entries += new
        self.called_back |= {one.fan_out for one in new if (one.part, one.event) == (CALLBACK, ENDED)}
        return new


@contextlib.contextmanager
def new_journal() -> Iterator[Journal]:
    """Create an empty journal, and name it to the processes that start from now on."""
    with tempfile.NamedTemporaryFile(prefix="bench-journal-") as file:
        os.environ["BENCH_JOURNAL"] = file.name
        yield Journal(Path(file.name))


@dataclass(frozen=True)
class Audit:
    """
    How many fan-outs went wrong, and how.

    `lost` callbacks never ended. `twice` is the number of callbacks that ended again after they had ended. `early`
    callbacks began before each part had ended once. `parts_lost` is the number of parts that never ended, and
    `parts_again` of those that ended more than once.
    """

    fan_outs: int
    lost: int
    twice: int
    early: int
    parts_lost: int
    parts_again: int


def audited(entries: Iterable[Entry], fan_outs: Iterable[int], num_parts: int) -> Audit:
    """Return what went wrong with these fan-outs, each of so many parts."""
    by_fan_out: dict[int, list[Entry]] = {number: [] for number in fan_outs}
    for one in entries:
        if one.fan_out in by_fan_out:
            by_fan_out[one.fan_out].append(one)
    ends = {number: _instants(some, ENDED) for number, some in by_fan_out.items()}
    begins = {number: _instants(some, BEGAN) for number, some in by_fan_out.items()}
    return Audit(
        fan_outs=len(by_fan_out),
        lost=sum(CALLBACK not in of for of in ends.values()),
        twice=sum(len(of.get(CALLBACK, ())) > 1 for of in ends.values()),
        early=sum(_is_early(begins[number], ends[number], num_parts) for number in by_fan_out),
        parts_lost=sum(part not in of for of in ends.values() for part in range(num_parts)),
        parts_again=sum(len(at) > 1 for of in ends.values() for part, at in of.items() if part != CALLBACK),
    )


def last_end(entries: Iterable[Entry], fan_out: int) -> int:
    """Return when the last part of a fan-out ended for the first time."""
    ends = _instants((one for one in entries if one.fan_out == fan_out), ENDED)
    return max(min(at) for part, at in ends.items() if part != CALLBACK)


def first_callback(entries: Iterable[Entry], fan_out: int) -> int:
    """Return when the callback of a fan-out began for the first time."""
    return min(
        one.at
        for one in entries
        if (one.fan_out, one.part, one.event) == (fan_out, CALLBACK, BEGAN)
    )  # fmt: skip


def _instants(entries: Iterable[Entry], event: int) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for one in entries:
        if one.event == event:
            found.setdefault(one.part, []).append(one.at)
    return found


def _is_early(begins: Mapping[int, list[int]], ends: Mapping[int, list[int]], num_parts: int) -> bool:
    if CALLBACK not in begins:
        return False
    called_at = min(begins[CALLBACK])
    return any(part not in ends or min(ends[part]) > called_at for part in range(num_parts))
