"""Worker processes that are killed and started again: each has a place, and its successor has the same."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile

import processes
from flow_system import FlowSystem
from harness import HERE, Order

STOP_SECONDS = 20.0


class PlacedWorkers:
    """The worker processes of a system, one in each place. Each is the first of a process group of its own."""

    def __init__(self, system: FlowSystem, order: Order) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._order = order
        self._system = system
        self.num_exits = 0
        self._processes = [self._started(place) for place in range(order.processes)]

    def kill(self, place: int) -> None:
        """Kill the process of a place with all its children, as the end of a container does, and start another."""
        process = self._processes[place]
        self._kill_all(process)
        self._processes[place] = self._started(place)

    def restart_exited(self) -> None:
        """Start each process again that has exited without a kill, as a supervisor does, and count it."""
        for place, process in enumerate(self._processes):
            if process.poll() is not None:
                self.num_exits += 1
                self._kill_all(process)
                self._processes[place] = self._started(place)

    def said(self) -> str:
        """Return the end of what all processes wrote."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2_000:]

    def stop(self) -> None:
        """Stop all processes, and kill those that do not stop, and their children."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            self._kill_all(process)
        self._log.close()

    def _kill_all(self, process: subprocess.Popen[bytes]) -> None:
        pids = processes.family([process.pid]) if process.poll() is None else []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for pid in pids:  # children in a group of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def _started(self, place: int) -> subprocess.Popen[bytes]:
        settings = json.dumps(self._order.settings)
        environment = {**os.environ, "BENCH_PLACE": str(place), "BENCH_SETTINGS": settings}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE), environment.get("PYTHONPATH", "")])
        return subprocess.Popen(
            self._system.command_at(place),
            cwd=HERE,
            env=environment,
            start_new_session=True,
            stderr=self._log,
            stdout=self._log,
        )
