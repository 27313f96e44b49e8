"""Claims about a signal that arrives while `millhand worker` imports the user's module."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from worker_harness import started_worker

# The module reads from a pipe that has no writer, so its import ends only by the signal.
SLOW = """
from millhand import Config, Workers

workers = Workers()

@workers.add(kind="noop")
async def noop() -> None: ...

config = Config(workers=workers, queues={"default": 1})
print('{"message": "module importing"}', flush=True)
open("gate").read()
"""
CATCHING = SLOW.replace('open("gate").read()', 'try: open("gate").read()\nexcept BaseException: pass')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "name"),
    [(SLOW, (), "SIGTERM"), (SLOW, ("--processes", "2"), "SIGINT"), (CATCHING, (), "SIGTERM")],
    ids=["one process", "two processes", "module that catches every error"],
)
async def test_signal_during_the_import_cancels_the_start(
    tmp_path: Path, module: str, arguments: tuple[str, ...], name: str
) -> None:
    """The first signal ends the import, and the worker exits with 0."""
    (tmp_path / "shop.py").write_text(module)
    os.mkfifo(tmp_path / "gate")

    async with started_worker(tmp_path, "shop:config", *arguments) as worker:
        await worker.line("module importing")
        worker.signal(signal.Signals[name])
        code = await worker.wait()

    assert [line["message"] for line in worker.lines] == ["module importing", "worker stopped"]
    assert (code, worker.lines[-1]["signal"], worker.errors) == (0, name, "")
