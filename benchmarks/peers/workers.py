"""The worker processes of a measured system."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time

import processes
from harness import HERE, Board, Failed, Order, System

STOP_SECONDS = 20.0


class Workers:
    """The worker processes of a system."""

    def __init__(self, system: System, board: Board, order: Order) -> None:
        environment = {**os.environ, "BENCH_BOARD": board.path, "BENCH_SETTINGS": json.dumps(order.settings)}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE), environment.get("PYTHONPATH", "")])
        self._board = board
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.started_ns = time.monotonic_ns()
        self._processes = [
            subprocess.Popen(system.command(), env=environment, cwd=HERE, stdout=self._log, stderr=self._log)
            for _ in range(order.processes)
        ]

    def check(self) -> None:
        """Raise Failed if a process has exited."""
        for process in self._processes:
            if process.poll() is not None:
                raise Failed(f"worker ended with {process.returncode}: {self.said()}")

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2_000:]

    def cpu_seconds(self) -> float:
        """The user and system time of all processes and their children."""
        return sum(processes.cpu_seconds(pid) for pid in self._pids())

    def memory_mib(self) -> float:
        """The sum of the processes' peak memory, without the board."""
        return (
            sum(
                processes.status_kib(pid, "VmHWM") - processes.mapped_kib(pid, self._board.path)
                for pid in self._pids()
            )
            / 1024
        )

    def stop(self) -> None:
        begun = {pid: processes.begun_at(pid) for pid in self._pids()}
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid, at in begun.items():
            # The id of an exited process may belong to another one.
            if at is not None and processes.begun_at(pid) == at:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _pids(self) -> list[int]:
        return processes.family(process.pid for process in self._processes)
