"""Sort more values than fit into memory: sorted runs in one temporary file, merged while they are read."""

from __future__ import annotations

import json
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import IO

RUN_LENGTH = 50_000  # about 10 MB of names; sorting one run blocks the interpreter for some 20 ms
CHUNK_LENGTH = 500  # texts in a line of the file: what a merge keeps in memory for each run


class SortedSpool:
    """Collect texts in any order, and return them in order. Unusable after `close`."""

    def __init__(self, *, run_length: int = RUN_LENGTH) -> None:
        self._run_length = run_length
        self._run: list[str] = []
        self._file: IO[bytes] | None = None
        self._spans: list[tuple[int, int]] = []

    def add(self, values: Iterable[str]) -> None:
        self._run += values
        if len(self._run) >= self._run_length:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="millhand-")  # noqa: SIM115 - closed by close()
            self._run.sort()
            start = self._file.tell()
            for at in range(0, len(self._run), CHUNK_LENGTH):
                # ASCII with escapes, because a name may hold a line break or bytes that are not UTF-8.
                self._file.write(json.dumps(self._run[at : at + CHUNK_LENGTH]).encode("ascii") + b"\n")
            self._spans.append((start, self._file.tell()))
            self._run = []

    def read(self) -> Iterator[list[str]]:
        """Yield all texts in order, once, in lists of some hundred."""
        self._run.sort()
        rest = (self._run[at : at + CHUNK_LENGTH] for at in range(0, len(self._run), CHUNK_LENGTH))
        runs = [_read_run(self._file, start, end) for start, end in self._spans if self._file]
        return _merged([*runs, rest])

    def close(self) -> None:
        """Delete the file. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None


def sort_on_disk(values: Iterable[str], *, run_length: int = RUN_LENGTH) -> Iterator[str]:
    """Yield texts in order. More than one run goes into a temporary file."""
    spool = SortedSpool(run_length=run_length)
    source = iter(values)
    try:
        while run := list(islice(source, run_length)):
            spool.add(run)
        yield from chain.from_iterable(spool.read())
    finally:
        spool.close()


def _read_run(file: IO[bytes], start: int, end: int) -> Iterator[list[str]]:
    while start < end:
        file.seek(start)
        line = file.readline()
        start += len(line)
        yield json.loads(line)


def _merged(runs: Iterable[Iterator[list[str]]]) -> Iterator[list[str]]:
    """Merge sorted runs of sorted lists. Sorting lists again takes a tenth of the time of comparing their first texts."""
    heads = [(head, run) for run in runs if (head := next(run, []))]
    while heads:
        # All texts up to this one are in memory.
        limit = min(head[-1] for head, _ in heads)
        merged: list[str] = []
        following = []
        for head, run in heads:
            end = bisect_right(head, limit)
            merged += head[:end]
            if rest := head[end:] or next(run, []):
                following.append((rest, run))
        heads = following
        merged.sort()
        yield merged
