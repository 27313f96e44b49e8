"""Injects the faults of a plan, in each lane one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
from chaos_faults import INSERTER, KINDS, LANES, NUM_WORKERS, Fault
from chaos_fleet import Fleet
from chaos_limits import BY_TENANT, IN_ORDER
from chaos_migrations import Migrations
from chaos_server import ChaosServer, end_sessions, occupy, use_disk_up

from millhand.db.driver.asyncpg_error import WIRE_ERRORS
from proxy import Direction

HOUR_SECONDS = 3600.0
NUM_LOCKED_MAX = 20  # of a few dozen running jobs
# The messages for faults that this machine cannot inject.
NO_OLDER = "this clone does not have the commit of the last release"
NO_DISK = "no small disk could be mounted here, so none was filled"


class FaultInjector:
    """Injects faults into `fleet` and `server`. `skipped` has those that this machine cannot inject, with the reason."""

    def __init__(
        self, fleet: Fleet, server: ChaosServer, migrations: Migrations, print_line: Callable[[str], None]
    ) -> None:
        self.done: dict[str, int] = {}
        self.skipped: set[str] = set()
        self._began_at = time.monotonic()
        self._fleet = fleet
        self._migrations = migrations
        self._print = print_line
        self._server = server

    async def do(self, faults: Sequence[Fault]) -> None:
        """Inject all faults, each when it is due."""
        self._began_at = time.monotonic()
        async with asyncio.TaskGroup() as lanes:
            for lane in LANES:
                lanes.create_task(self._do_lane([one for one in faults if KINDS[one.name].lane == lane]))

    async def _do_lane(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            await asyncio.sleep(max(0.0, self._began_at + fault.at - time.monotonic()))
            self._print(str(fault))
            self.done[fault.name] = self.done.get(fault.name, 0) + 1
            await getattr(self, f"_{fault.name}")(fault)

    # Processes.

    async def _kill(self, fault: Fault) -> None:
        self._fleet.kill(fault.who, keeps_name=fault.amount < 0.5)

    async def _kill_storm(self, fault: Fault) -> None:
        for number in range(2 * NUM_WORKERS):
            self._fleet.kill((fault.who + number) % NUM_WORKERS, keeps_name=(number + fault.who) % 2 == 0)
            await asyncio.sleep(fault.seconds / (2 * NUM_WORKERS))

    async def _kill_leaders(self, fault: Fault) -> None:
        """Kill the leaders of both roles, then their successors, and again."""
        until = time.monotonic() + fault.seconds
        while time.monotonic() < until:
            for who in await self._leaders():
                self._fleet.kill(who, keeps_name=fault.amount < 0.5)
            await asyncio.sleep(1.0)

    async def _leaders(self) -> set[int]:
        sql = "SELECT leader_id FROM river_leader UNION SELECT leader_id FROM millhand_leader"
        ids: set[str] = set()
        with contextlib.suppress(*WIRE_ERRORS):
            async with self._connected() as connection:
                ids = {record["leader_id"] for record in await connection.fetch(sql, timeout=2)}
        return {life.who for life in self._fleet.living() if life.client_id in ids}

    async def _stop(self, fault: Fault) -> None:
        self._fleet.stop(fault.who, keeps_name=fault.amount < 0.5)

    async def _rolling_restart(self, fault: Fault) -> None:
        """Stop the workers one after the other, each when the last one's successor runs or takes too long."""
        for number in range(NUM_WORKERS):
            who = (fault.who + number) % NUM_WORKERS
            self._fleet.stop(who, keeps_name=(number + fault.who) % 2 == 0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(fault.seconds / NUM_WORKERS):
                    while not self._fleet.works(who):  # noqa: ASYNC110 - it writes a file
                        await asyncio.sleep(0.2)

    async def _freeze_short(self, fault: Fault) -> None:
        await self._freeze(fault, is_cut=False)

    async def _freeze_long(self, fault: Fault) -> None:
        """Freeze a worker and end its sessions, as if its machine were lost."""
        await self._freeze(fault, is_cut=True)

    async def _freeze_longest(self, fault: Fault) -> None:
        await self._freeze(fault, is_cut=False)

    async def _freeze(self, fault: Fault, *, is_cut: bool) -> None:
        life, proxy = self._fleet.of(fault.who), self._fleet.proxies[fault.who]
        if life is None:
            return
        with self._fleet.trouble("frozen", fault.who):
            self._fleet.signal(life, signal.SIGSTOP)
            if is_cut:
                proxy.break_off()
            await asyncio.sleep(fault.seconds)
            self._fleet.signal(life, signal.SIGCONT)

    async def _freeze_half(self, fault: Fault) -> None:
        """Freeze two workers for longer than a rescue takes, each as if its machine were lost."""
        other = replace(fault, who=(fault.who + 1) % NUM_WORKERS)
        await asyncio.gather(self._freeze_long(fault), self._freeze_long(other))

    async def _older_version(self, fault: Fault) -> None:
        """Replace a worker by one of the last release for a time."""
        if not self._fleet.has_older:
            self.skipped.add(f"older_version: {NO_OLDER}")
            return
        for is_older in (True, False):
            self._fleet.set_older(fault.who, is_older=is_older)
            self._fleet.stop(fault.who, keeps_name=fault.amount < 0.5)
            await asyncio.sleep(fault.seconds if is_older else 0.0)

    async def _clock_step(self, fault: Fault) -> None:
        self._fleet.set_clock(fault.who, HOUR_SECONDS if fault.amount < 0.5 else -HOUR_SECONDS)
        with self._fleet.trouble("clock", fault.who):
            await asyncio.sleep(fault.seconds)
        self._fleet.set_clock(fault.who, 0.0)

    # Connections.

    async def _partition(self, fault: Fault) -> None:
        await self._disturb_connection(fault, self._fleet.proxies[fault.who].stop_up)

    async def _partition_to_server(self, fault: Fault) -> None:
        await self._disturb_connection(fault, self._fleet.proxies[fault.who].stop_up, [Direction.TO_SERVER])

    async def _partition_to_client(self, fault: Fault) -> None:
        await self._disturb_connection(fault, self._fleet.proxies[fault.who].stop_up, [Direction.TO_CLIENT])

    async def _cut(self, fault: Fault) -> None:
        await self._disturb_connection(fault, self._fleet.proxies[fault.who].cut)

    async def _forget(self, fault: Fault) -> None:
        await self._disturb_connection(fault, self._fleet.proxies[fault.who].forget)

    async def _latency(self, fault: Fault) -> None:
        await self._disturb_connection(fault, self._fleet.proxies[fault.who].slow, 0.02 + 0.2 * fault.amount)

    async def _bandwidth(self, fault: Fault) -> None:
        await self._disturb_connection(
            fault, self._fleet.proxies[fault.who].narrow, 4_000 + 60_000 * fault.amount
        )

    async def _disturb_connection(self, fault: Fault, spoil: Callable[..., None], *how: Any) -> None:
        with self._fleet.trouble(fault.name, fault.who if fault.who != INSERTER else -1):
            spoil(*how)
            await asyncio.sleep(fault.seconds)
            self._fleet.proxies[fault.who].restore()

    # The database.

    async def _database_restart(self, fault: Fault) -> None:
        with self._fleet.trouble("database", None):
            await asyncio.to_thread(self._server.stop)
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(self._server.start)

    async def _database_crash(self, fault: Fault) -> None:
        await self._crash(fault, signal.SIGQUIT)

    async def _database_killed(self, fault: Fault) -> None:
        await self._crash(fault, signal.SIGKILL)

    async def _crash(self, fault: Fault, number: signal.Signals) -> None:
        with self._fleet.trouble("database", None):
            await asyncio.to_thread(self._server.crash, number)
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(self._server.revive)

    async def _backend_kill(self, fault: Fault) -> None:
        with self._fleet.trouble("database", None):
            for _ in range(3):
                with contextlib.suppress(*WIRE_ERRORS):
                    async with self._connected() as connection:
                        await end_sessions(connection, [])
                await asyncio.sleep(fault.seconds / 3)

    async def _pool_exhaustion(self, fault: Fault) -> None:
        with self._fleet.trouble("database", None):
            taken = await occupy(self._server.url)
            await asyncio.sleep(fault.seconds)
            for connection in taken:
                connection.terminate()

    async def _row_lock(self, fault: Fault) -> None:
        """Lock rows of running jobs, as an open transaction does."""
        sql = "SELECT id FROM river_job WHERE state = 'running' ORDER BY random() LIMIT $1 FOR UPDATE SKIP LOCKED"
        await self._lock(fault, sql, 1 + round(fault.amount * NUM_LOCKED_MAX))

    async def _limit_lock(self, fault: Fault) -> None:
        """Hold the row of a limit, as a transaction of a user does that changes it and stays open."""
        await self._lock(fault, "SELECT FROM millhand_limit ORDER BY random() LIMIT 1 FOR UPDATE")

    async def _partition_lock(self, fault: Fault) -> None:
        """Hold all partitions of a queue, of each second fault those in order."""
        queue = IN_ORDER if fault.amount < 0.5 else BY_TENANT
        await self._lock(fault, "SELECT FROM millhand_limit_partition WHERE queue = $1 FOR UPDATE", queue)

    async def _schedule_lock(self, fault: Fault) -> None:
        await self._lock(fault, "SELECT FROM millhand_schedule ORDER BY random() LIMIT 10 FOR UPDATE")

    async def _lock(self, fault: Fault, sql: str, *args: Any) -> None:
        with self._fleet.trouble("database", None), contextlib.suppress(*WIRE_ERRORS):
            async with self._connected() as connection, connection.transaction():
                locked = await connection.fetch(sql, *args, timeout=5)
                self._print(f"          {len(locked)} rows locked")
                await asyncio.sleep(fault.seconds)

    async def _migrate_down(self, fault: Fault) -> None:
        """Undo versions of Millhand's tables beside the workers, as far as the command lets it, and apply them again."""
        with self._fleet.trouble("database", None):
            reset = await self._migrations.down_and_up(fault.seconds)
            self._print(f"          down to version {reset.version}")

    async def _disk_full(self, fault: Fault) -> None:
        if self._server.disk is None:
            self.skipped.add(f"disk_full: {NO_DISK}")
            return
        with self._fleet.trouble("database", None):
            self._server.fill_disk()
            self._print(f"          full: {await use_disk_up(self._server.url)}")
            await asyncio.sleep(fault.seconds)
            self._server.free_disk()
            await asyncio.to_thread(self._server.revive)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self._server.url, timeout=5)
        try:
            yield connection
        finally:
            connection.terminate()
