"""
Start DuckDB in a process of its own, with a directory for its files.

Rule 1: the process ends with the one that started it, whatever ends that.
Rule 2: a directory that a killed process left is deleted by the next run in the same place.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from millhand.core.errors import ConfigError
from millhand.orphans.inventory.inventory_report import InventoryUnusable

T = TypeVar("T")

START = "millhand-inventory-"
LOCK = "lock"
BEAT_SECONDS = 20.0
LEFT_AFTER_SECONDS = 60.0  # a younger directory may not have its lock yet
MAX_THREADS = 4  # each needs a part of the memory

Feed = Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """DuckDB with a directory and a limit of memory, such as `1GB`. `subject` is the report, for errors."""

    directory: Path
    memory: str
    subject: str

    async def run(self, statements: Sequence[str], *, feed: Feed | None = None) -> list[list[Any]]:
        """
        Run statements in a new process, and return the rows of each. `feed` writes what they read at /dev/stdin.

        Raises: InventoryUnusable, with the engine's error; the error of `feed`.
        Concurrency: a cancelled call kills the process.
        """
        task = self.directory / "task.json"
        settings = {
            "autoinstall_known_extensions": "false",
            "memory_limit": self.memory,
            "preserve_insertion_order": "false",
            "temp_directory": str(self.directory / "spill"),
            "threads": min(MAX_THREADS, os.cpu_count() or 1),
            "TimeZone": "UTC",
        }
        task.write_text(
            json.dumps({"reads_input": feed is not None, "settings": settings, "statements": statements})
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a module of the working directory must not take the place of a library
            "-m",
            "millhand.orphans.inventory.duckdb_process",
            str(task),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            return await self._answers(process, feed)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _answers(self, process: asyncio.subprocess.Process, feed: Feed | None) -> list[list[Any]]:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes, as asked for
        stdin = process.stdin

        async def write(piece: bytes) -> None:
            stdin.write(piece)
            await stdin.drain()

        reading = asyncio.ensure_future(process.stdout.read())
        try:
            if feed is not None:
                with contextlib.suppress(ConnectionError):  # the process has ended, and says why
                    await feed(write)
                stdin.close()
            output = await reading
        finally:
            reading.cancel()
        await process.wait()
        return self._parsed(output, process.returncode)

    def _parsed(self, output: bytes, returncode: int | None) -> list[list[Any]]:
        try:
            answer = json.loads(output)
        except ValueError:
            answer = {"error": f"a process that ended with code {returncode}"}
        if "error" in answer:
            raise InventoryUnusable(
                self.subject,
                "must be compared with the rows by DuckDB",
                answer["error"],
                f"check orphans.inventory_memory ({self.memory}) and the free space of {self.directory.parent}",
            )
        answers: list[list[Any]] = answer["answers"]
        return answers


@contextlib.contextmanager
def opened_engine(subject: str, *, memory: str, parent: str | None) -> Iterator[Engine]:
    """
    Yield an engine with a new directory in `parent`; None is the directory for temporary files.

    Raises: ConfigError, without DuckDB or without that directory.
    """
    if importlib.util.find_spec("duckdb") is None:
        raise ConfigError(
            "orphans.inventory needs duckdb, which is not installed; run: pip install 'millhand[inventory]'"
        )
    place = Path(parent or tempfile.gettempdir())
    if not place.is_dir():
        raise ConfigError(
            f"orphans.inventory_directory must be a directory, got {str(place)!r}; create it, or remove the setting"
        )
    delete_left(place)
    directory = Path(tempfile.mkdtemp(prefix=START, dir=place))
    try:
        with (directory / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Engine(directory=directory, memory=memory, subject=subject)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def delete_left(place: Path, *, after_seconds: float = LEFT_AFTER_SECONDS) -> None:
    """Delete the directories whose process has died."""
    for directory in place.glob(f"{START}*"):
        with contextlib.suppress(OSError):  # of another user, or in use
            if time.time() - directory.stat().st_mtime < after_seconds:
                continue
            with (directory / LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)


async def while_beating(work: Awaitable[T], beat: Callable[[], Awaitable[None]]) -> T:
    """Return the result of `work`, and beat while it lasts. If a beat raises, cancel the work and raise that."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=BEAT_SECONDS))[0]:
            await beat()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
