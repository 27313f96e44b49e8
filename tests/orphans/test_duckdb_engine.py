"""DuckDB in a process of its own: its answers, its errors, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from millhand.core.errors import ConfigError
from millhand.orphans.inventory import duckdb_engine
from millhand.orphans.inventory.duckdb_engine import Engine, delete_left, opened_engine, while_beating
from millhand.orphans.inventory.inventory_report import InventoryUnusable

TIMEOUT_SECONDS = 60.0
PROGRAM = """
import asyncio, sys
from millhand.orphans.inventory.duckdb_engine import opened_engine

start = asyncio.create_subprocess_exec

async def noted(*words, **options):
    process = await start(*words, **options)
    print(process.pid, flush=True)
    return process

asyncio.create_subprocess_exec = noted

async def main():
    with opened_engine("s3://reports", memory="100MB", parent=sys.argv[1]) as engine:
        print(engine.directory, flush=True)
        await engine.run(["SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range = b.range * 3 + 1 "
                          "AND hash(a.range) > hash(b.range)", "SELECT sum(a.range * b.range) FROM range(1e9::BIGINT) a, "
                          "range(1e6::BIGINT) b"])

asyncio.run(main())
"""


@pytest.mark.slow
async def test_an_engine_returns_the_rows_of_each_statement(tmp_path: Path) -> None:
    """Statements run in turn in another process, which can read what is written to it, and spills into its directory."""

    async def feed(write: Callable[[bytes], Awaitable[None]]) -> None:
        for number in range(3):
            await write(f"{number},".encode())
            await write(b"a\n")

    with opened_engine("s3://reports", memory="100MB", parent=str(tmp_path)) as engine:
        answers = await engine.run(
            [
                "SELECT * FROM read_csv('/dev/stdin', auto_detect = false, columns = {'n': 'BIGINT', 't': 'VARCHAR'})",
                "SELECT current_setting('memory_limit'), current_setting('temp_directory')",
            ],
            feed=feed,
        )
        assert engine.directory.parent == tmp_path

    assert answers == [[[0, "a"], [1, "a"], [2, "a"]], [["95.3 MiB", str(engine.directory / "spill")]]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "got"),
    [
        ("SELECT * FROM nothing", "Catalog Error: Table with name nothing does not exist!"),
        ("SELECT list(range) FROM range(1000000000)", "Out of Memory Error"),
    ],
)
async def test_an_error_of_the_engine_names_setting_and_directory(
    tmp_path: Path, statement: str, got: str
) -> None:
    """An error of DuckDB, such as too little memory, names the report, the settings to check and the directory."""
    with (
        opened_engine("s3://reports", memory="50MB", parent=str(tmp_path)) as engine,
        pytest.raises(InventoryUnusable) as raised,
    ):
        await engine.run([statement])

    text = str(raised.value)
    assert text.startswith(
        f"inventory s3://reports must be compared with the rows by DuckDB, got {got[:1]!r}"[:-2]
    )
    assert got in text
    assert text.endswith(f"; check orphans.inventory_memory (50MB) and the free space of {tmp_path}")


def processes_with(argument: str) -> list[int]:
    """Return the processes that have an argument. Others may end meanwhile."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if argument.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds a process by /proc")
async def test_an_engine_that_is_killed_is_an_error(tmp_path: Path) -> None:
    """A process that ends without an answer, as one that is killed for its memory, raises with its exit code."""

    async def feed(write: Callable[[bytes], Awaitable[None]]) -> None:
        await write(b"1\n")
        [task] = tmp_path.glob("*/task.json")
        # A process that was just started has no arguments until the kernel has loaded its program.
        while not (found := processes_with(str(task))):
            await write(b"1\n")
        [pid] = found
        os.kill(pid, signal.SIGKILL)
        for _ in range(100_000):
            await write(b"1\n" * 1000)

    with (
        opened_engine("s3://reports", memory="50MB", parent=str(tmp_path)) as engine,
        pytest.raises(InventoryUnusable, match=r"got 'a process that ended with code -9'; check orphans\."),
    ):
        await engine.run(
            ["SELECT count(*) FROM read_csv('/dev/stdin', columns = {'n': 'BIGINT'})"], feed=feed
        )


async def test_an_error_of_the_feed_is_raised_unchanged(tmp_path: Path) -> None:
    """An error of the rows' source ends the process, and is not one of the engine."""
    error = ValueError("no rows")

    async def feed(write: Callable[[bytes], Awaitable[None]]) -> None:
        raise error

    with (
        opened_engine("s3://reports", memory="50MB", parent=str(tmp_path)) as engine,
        pytest.raises(ValueError, match="no rows") as raised,
    ):
        await engine.run(["SELECT * FROM read_csv('/dev/stdin')"], feed=feed)

    assert raised.value is error


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="waits for a process by pidfd")
async def test_the_engine_ends_with_a_killed_process(tmp_path: Path) -> None:
    """After SIGKILL, DuckDB's process ends too, and the next engine in the same place deletes the directory."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    directory = Path((await process.stdout.readline()).decode().strip())

    async with asyncio.timeout(TIMEOUT_SECONDS):
        child = os.pidfd_open(int(await process.stdout.readline()))
        process.kill()
        await process.wait()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(child, ended.set)  # readable when the process has ended
        await ended.wait()
        asyncio.get_running_loop().remove_reader(child)
        os.close(child)
    delete_left(tmp_path)
    is_there_still = directory.exists()
    delete_left(tmp_path, after_seconds=0)

    assert (is_there_still, directory.exists()) == (True, False)


def test_a_directory_in_use_is_kept(tmp_path: Path) -> None:
    """Only the directories of dead processes are deleted."""
    with opened_engine("s3://reports", memory="50MB", parent=str(tmp_path)) as engine:
        delete_left(tmp_path, after_seconds=0)
        assert engine.directory.exists()


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    """Millhand does not create the directory for 150 GB by itself."""
    with (
        pytest.raises(ConfigError) as raised,
        opened_engine("x", memory="50MB", parent=str(tmp_path / "none")),
    ):
        pass

    assert str(raised.value) == (
        f"orphans.inventory_directory must be a directory, got {str(tmp_path / 'none')!r}; "
        "create it, or remove the setting"
    )


class _Lost(Exception):
    """The run was taken over."""


async def test_work_beats_and_ends_with_a_failed_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat is written while the work lasts; if the run is lost, the work is cancelled."""
    monkeypatch.setattr(duckdb_engine, "BEAT_SECONDS", 0.001)
    beats: list[int] = []
    ended = asyncio.Event()

    async def beat() -> None:
        beats.append(1)
        if len(beats) == 3:
            raise _Lost

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def quick() -> str:
        return "done"

    with pytest.raises(_Lost):
        await while_beating(work(), beat)

    assert (len(beats), ended.is_set(), await while_beating(quick(), beat)) == (3, True, "done")


def test_an_engine_is_a_value(tmp_path: Path) -> None:
    """An engine has a directory, a limit and a subject."""
    engine = Engine(directory=tmp_path, memory="1GB", subject="s3://reports")

    assert (engine.directory, engine.memory, engine.subject) == (tmp_path, "1GB", "s3://reports")
