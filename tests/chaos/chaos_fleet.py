"""
The workers of a chaos run: processes that are restarted when they end, each behind a proxy.

A worker has a number, and a client id that stays or changes with each restart. One process of a worker is a life. Its log
and journal are named after the numbers of the worker and the life.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_faults import NUM_WORKERS

sys.path.append(str(Path(__file__).parents[1]))
from proxy import Proxy, proxied

START_PAUSE_SECONDS = 0.5
STOP_SECONDS = 60.0
# Short enough that a stop interrupts many attempts, long enough that many end before it.
SOFT_STOP_SECONDS = 3.0
Line = dict[str, Any]


@dataclass(kw_only=True, eq=False)
class Life:
    """
    One process of a worker. Times are monotonic seconds; `exit_code` is None while it runs.

    `stop_sent_at` is when it got a signal to stop, or None.
    """

    client_id: str
    log: Path
    name: str
    process: asyncio.subprocess.Process
    began_at: float
    who: int
    ended_at: float | None = None
    exit_code: int | None = None
    is_killed: bool = False
    stop_sent_at: float | None = None

    @property
    def is_stopping(self) -> bool:
        return self.stop_sent_at is not None

    def lines(self) -> Iterator[Line]:
        """Yield the lines of a life's log. Text that is no JSON becomes the message of a line without a level."""
        if not self.log.exists():
            return
        for text in self.log.read_text(errors="replace").splitlines():
            try:
                yield json.loads(text)
            except ValueError:
                yield {"message": text}

    def says(self, message: str) -> bool:
        return any(line.get("message") == message for line in self.lines())


@dataclass(kw_only=True)
class Trouble:
    """A fault: its time, and the worker that it affected; None for all."""

    name: str
    who: int | None
    began_at: float
    ended_at: float = float("inf")


class Fleet:
    """
    `NUM_WORKERS` workers on the database of `url`. `lives` has all of their processes, `troubles` all faults.

    With `is_direct` they connect without proxies. `settings` are environment variables; `drivers` has asyncpg or psycopg
    for each worker, `deleting` the workers that delete jobs when they complete, and `noting_stored` those that write down
    which outcomes are stored. `older` is the folder of the last release's packages.

    Concurrency: belongs to one event loop. All methods but `end` may run at the same time.
    """

    def __init__(
        self,
        url: str,
        directory: Path,
        *,
        deleting: Collection[int] = (),
        drivers: Sequence[str] = ("asyncpg",) * NUM_WORKERS,
        is_direct: bool = False,
        noting_stored: Collection[int] = (),
        older: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.proxies: list[Proxy] = []
        self.faults: list[str] = []
        self.lives: list[Life] = []
        self.troubles: list[Trouble] = []
        self._clocks = [directory / f"{who}.clock" for who in range(NUM_WORKERS)]
        self._deleting = deleting
        self._directory = directory
        self._drivers = drivers
        self._is_direct = is_direct
        self._is_ending = False
        self._is_older = [False] * NUM_WORKERS
        self._noting_stored = noting_stored
        self._older = older
        self._keeps_name = [True] * NUM_WORKERS
        self._numbers = [0] * NUM_WORKERS
        self._settings = dict(settings or {})
        self._url = url

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start all workers, keep them running, and kill the rest at the end."""
        for who in range(NUM_WORKERS):
            self.set_clock(who, 0.0)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(NUM_WORKERS + 1):
                self.proxies.append(await stack.enter_async_context(proxied(self._url)))
            async with asyncio.TaskGroup() as keepers:
                for who in range(NUM_WORKERS):
                    keepers.create_task(self._keep(who))
                try:
                    yield
                finally:
                    self._is_ending = True
                    for life in self.living():
                        life.is_killed = True
                        self.signal(life, signal.SIGKILL)

    def living(self) -> list[Life]:
        return [life for life in self.lives if life.exit_code is None]

    def of(self, who: int) -> Life | None:
        return next((life for life in self.living() if life.who == who), None)

    @contextlib.contextmanager
    def trouble(self, name: str, who: int | None) -> Iterator[None]:
        """Record a fault for the time of the block."""
        trouble = Trouble(name=name, who=who, began_at=time.monotonic())
        self.troubles.append(trouble)
        try:
            yield
        finally:
            trouble.ended_at = time.monotonic()

    def kill(self, who: int, *, keeps_name: bool) -> None:
        """Kill a worker's process if it has one. Another is started, with the same client id or a new one."""
        life = self.of(who)
        self._keeps_name[who] = keeps_name
        if life is not None:
            life.is_killed = True
            self.signal(life, signal.SIGKILL)

    def stop(self, who: int, *, keeps_name: bool) -> None:
        """Stop a running worker. Another is started after its end, with the same client id or a new one."""
        life = self.of(who)
        if life is not None and life.says("worker started") and not life.is_stopping:
            self._keeps_name[who] = keeps_name
            self._tell_to_stop(life)

    @property
    def has_older(self) -> bool:
        """Whether workers of the last release can be started."""
        return self._older is not None

    def set_older(self, who: int, *, is_older: bool) -> None:
        """Let the next process of a worker be one of the last release, or one of this release again."""
        self._is_older[who] = is_older

    def _tell_to_stop(self, life: Life) -> None:
        life.stop_sent_at = time.monotonic()
        self.signal(life, signal.SIGTERM)

    def works(self, who: int) -> bool:
        """Return whether a worker runs and was not stopped."""
        life = self.of(who)
        return life is not None and not life.is_stopping and life.says("worker started")

    def signal(self, life: Life, number: signal.Signals) -> None:
        """Send a signal without asyncio, which could reap a process that has just ended and lose its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(life.process.pid, number)

    def set_clock(self, who: int, seconds: float) -> None:
        """Set by how many seconds a worker's clock is wrong."""
        new = self._clocks[who].with_suffix(".new")
        new.write_text(f"{seconds:31.1f}")
        if not self._clocks[who].exists():
            new.rename(self._clocks[who])
            return
        self._clocks[who].write_text(
            f"{seconds:31.1f}"
        )  # of the same length, so that a reader sees the old or the new value

    async def started(self) -> None:
        """Wait until all workers run."""
        while not self._is_whole():  # noqa: ASYNC110 - they write files
            await asyncio.sleep(0.2)

    async def end(self) -> None:
        """Stop all workers and wait for their end."""
        self._is_ending = True
        for life in self.living():
            if not life.is_stopping:
                self._tell_to_stop(life)
        living = self.living()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                for life in living:
                    await life.process.wait()
        for life in living:
            if life.process.returncode is None:
                self.faults.append(f"{life.name} must stop within {STOP_SECONDS:.0f} s, and has not")
                self.signal(life, signal.SIGKILL)

    def _is_whole(self) -> bool:
        living = self.living()
        return len(living) == NUM_WORKERS and all(life.says("worker started") for life in living)

    async def _keep(self, who: int) -> None:
        """Start a worker's process, and another one whenever it has ended."""
        while not self._is_ending:
            life = await self._start(who)
            code = await life.process.wait()
            life.ended_at = time.monotonic()
            life.exit_code = code
            if life.is_killed or life.is_stopping:
                continue
            if life.says("worker started"):
                self.faults.append(f"{life.name} must run until it is stopped, ended with code {code}")
            await asyncio.sleep(START_PAUSE_SECONDS)  # as a process manager does

    async def _start(self, who: int) -> Life:
        number = self._numbers[who] = self._numbers[who] + 1
        former = next((life for life in reversed(self.lives) if life.who == who), None)
        name = f"{who}.{number}"
        client_id = former.client_id if former and self._keeps_name[who] else f"worker_{name}"
        log = self._directory / f"{name}.log"
        app = "chaos_older:config" if self._is_older[who] else "chaos_app:config"
        with log.open("wb") as written:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "millhand", "worker", app, "--log-format", "json"),
                cwd=Path(__file__).parent,
                env=self._environment(who, name, client_id),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=written,
                stderr=written,
            )
        life = Life(
            client_id=client_id, log=log, name=name, process=process, began_at=time.monotonic(), who=who
        )
        self.lives.append(life)
        return life

    def _environment(self, who: int, name: str, client_id: str) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MILLHAND_")}
        own = {
            "CHAOS_CLOCK": str(self._clocks[who]),
            "CHAOS_STORED": "true" if who in self._noting_stored else "false",
            "CHAOS_JOURNAL": str(self._directory / f"{name}.journal"),
            "DATABASE_URL": spoken_by(
                self._drivers[who], self._url if self._is_direct else self.proxies[who].url
            ),
            "MILLHAND_DATABASE_POOL_SIZE": "5",
            "MILLHAND_HEARTBEAT_ENABLED": "false",
            "MILLHAND_ORPHANS_ENABLED": "false",
            "MILLHAND_WORKER_CLIENT_ID": client_id,
            "MILLHAND_WORKER_FETCH_COOLDOWN": "10ms",
            "MILLHAND_WORKER_KEEP_COMPLETED": "false" if who in self._deleting else "true",
            "MILLHAND_WORKER_SOFT_STOP_TIMEOUT": f"{SOFT_STOP_SECONDS:.0f}s",
        }
        if self._is_older[who]:
            del own["MILLHAND_WORKER_KEEP_COMPLETED"]
            own["PYTHONPATH"] = str(self._older)
        return inherited | own | self._settings


def spoken_by(driver: str, url: str) -> str:
    """Return a URL that names the driver."""
    return url.replace("://", f"+{driver}://", 1)


def written_bytes(life: Life) -> int:
    """Return the size of a life's log."""
    return life.log.stat().st_size if life.log.exists() else 0
