"""Sort more values than fit into memory: sorted runs in one temporary file, merged while they are read."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO, Generic, TypeVar

RUN_LENGTH = 50_000  # about 10 MB of names; sorting one run blocks the interpreter for some 20 ms
CHUNK_LENGTH = 500  # values in a line of the file: what a merge keeps in memory for each run

T = TypeVar("T", str, list[str | int])


class SortedSpool(Generic[T]):
    """Collect texts, or lists that begin with one, in any order, and return them in order. Unusable after `close`."""

    def __init__(self, *, run_length: int = RUN_LENGTH) -> None:
        self._run_length = run_length
        self._run: list[T] = []
        self._file: IO[bytes] | None = None
        self._spans: list[tuple[int, int]] = []

    def add(self, values: Iterable[T]) -> None:
        self._run += values
        if len(self._run) >= self._run_length:
            self._write()

    def read(self) -> Iterator[T]:
        """Yield all values in order, once."""
        self._run.sort()
        runs: list[Iterator[T]] = [
            _read_run(self._file, start, end) for start, end in self._spans if self._file
        ]
        return heapq.merge(*runs, self._run) if runs else iter(self._run)

    def close(self) -> None:
        """Delete the file. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="millhand-")  # noqa: SIM115 - closed by close()
        self._run.sort()
        start = self._file.tell()
        for at in range(0, len(self._run), CHUNK_LENGTH):
            # ASCII with escapes, because a name may hold a line break or bytes that are not UTF-8.
            self._file.write(json.dumps(self._run[at : at + CHUNK_LENGTH]).encode("ascii") + b"\n")
        self._spans.append((start, self._file.tell()))
        self._run = []


def sort_on_disk(values: Iterable[str], *, run_length: int = RUN_LENGTH) -> Iterator[str]:
    """Yield texts in order. More than one run goes into a temporary file."""
    spool = SortedSpool[str](run_length=run_length)
    source = iter(values)
    try:
        while run := list(islice(source, run_length)):
            spool.add(run)
        yield from spool.read()
    finally:
        spool.close()


def _read_run(file: IO[bytes], start: int, end: int) -> Iterator[T]:
    while start < end:
        file.seek(start)
        line = file.readline()
        start += len(line)
        yield from json.loads(line)
