"""Sort more than memory should hold: sorted runs in one temporary file, merged as they are read."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from typing import IO, TypeVar

RUN_LENGTH = 50_000  # about 10 MB of names; sorting one run holds the interpreter for some 20 ms
CHUNK_LENGTH = 500  # lines of the file; what each run keeps in memory while it is merged

T = TypeVar("T", str, list[str | int])


def sort_on_disk(values: Iterable[T], *, run_length: int = RUN_LENGTH) -> Iterator[T]:
    """
    Yield `values` (texts, or lists that begin with one) in order; beyond one run they wait in a temporary file.

    Shape: memory for one run while reading, then for a chunk of each run; about 1.2 times the values on disk.
    """
    source = iter(values)
    run = sorted(islice(source, run_length))
    if len(run) < run_length:
        yield from run
        return
    with tempfile.TemporaryFile(prefix="millhand-") as file:
        starts: list[int] = []
        while run:
            starts.append(_write_run(file, run))
            run = sorted(islice(source, run_length))
        starts.append(file.tell())
        runs: list[Iterator[T]] = [_read_run(file, start, end) for start, end in pairwise(starts)]
        yield from heapq.merge(*runs)


def _write_run(file: IO[bytes], run: list[T]) -> int:
    start = file.tell()
    for at in range(0, len(run), CHUNK_LENGTH):
        # ASCII with escapes: a name may hold a line break, or bytes that are no UTF-8.
        file.write(json.dumps(run[at : at + CHUNK_LENGTH]).encode("ascii") + b"\n")
    return start


def _read_run(file: IO[bytes], start: int, end: int) -> Iterator[T]:
    while start < end:
        file.seek(start)
        line = file.readline()
        start += len(line)
        yield from json.loads(line)
