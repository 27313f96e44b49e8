"""
A PostgreSQL server that tests can stop, crash and starve of disk space repeatedly.

Its WAL and its log are on a small disk of their own where this machine allows a mount.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import asyncpg

from millhand.db.driver.asyncpg_error import WIRE_ERRORS
from millhand.embedded import embedded_postgres
from millhand.embedded.errors import EmbeddedError
from millhand.embedded.process import command_line, is_gone, wait_until

DISK_MEGABYTES = 160
MAX_CONNECTIONS = 80
SETTINGS = {
    "autovacuum_naptime": "5s",
    "logging_collector": "on",
    "max_connections": str(MAX_CONNECTIONS),
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "restart_after_crash": "on",
    "shared_buffers": "64MB",
    # New segments, so that the server notices a full disk.
    "wal_recycle": "off",
}
BALLAST = "ballast"
# Clients reconnect as soon as their sessions end, and some of them are faster.
NUM_TRIES_TO_OCCUPY = 20


class ChaosServer:
    """
    The server of `directory`.

    `disk` has its WAL and log; None where no disk could be mounted. `settings` are added to the defaults.

    Concurrency: one call at a time. Each blocks for as long as the server takes.
    """

    def __init__(self, directory: Path, disk: Path | None, settings: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._disk = disk
        self._settings = {**SETTINGS, **(settings or {})}
        self._stack = contextlib.ExitStack()
        self.url = ""

    @property
    def disk(self) -> Path | None:
        return self._disk

    @property
    def pid(self) -> int:
        """The server's first process while it runs."""
        pid = self._pid()
        assert pid is not None
        return pid

    def start(self) -> None:
        """Start the server, or join it if it runs."""
        server = self._stack.enter_context(embedded_postgres(self._directory, self._settings))
        self.url = server.url

    def make(self) -> None:
        """Make the cluster, with its WAL on the small disk, and start it."""
        self.start()
        if self._disk is not None:
            self.stop()
            self._move_log(self._disk)
            self.start()

    def stop(self) -> None:
        """Stop the server gracefully: sessions are ended, no data is lost."""
        try:
            self._stack.close()
        except EmbeddedError:  # during recovery, the server ignores a stop for a long time
            self._end(signal.SIGQUIT)

    def crash(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server as a power failure would; with SIGKILL only its first process, and the others notice."""
        self._end(number)
        self._stack.close()

    def revive(self) -> None:
        """Start the server again, in whatever state it is."""
        before, self._stack = self._stack, contextlib.ExitStack()
        try:
            self.start()
        except EmbeddedError:
            self._end(signal.SIGQUIT)
            self.start()
        before.close()  # other users keep it running

    def _end(self, number: signal.Signals) -> None:
        pid = self._pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            wait_until(lambda: is_gone(pid))

    def fill_disk(self) -> None:
        """Fill the small disk."""
        assert self._disk is not None
        with (self._disk / BALLAST).open("ab", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(bytes(size))

    def free_disk(self) -> None:
        assert self._disk is not None
        (self._disk / BALLAST).unlink(missing_ok=True)

    @property
    def log_text(self) -> str:
        """Return the server's whole log."""
        texts = [self._directory / "server.log"]
        if self._disk is not None:
            texts += sorted((self._disk / "log").glob("*"))
        return "\n".join(path.read_text(errors="replace") for path in texts if path.exists())

    def _move_log(self, disk: Path) -> None:
        """Move WAL and server log to the small disk."""
        data = self._directory / "data"
        owner = data.stat()
        for name in ("pg_wal", "log"):
            moved = disk / name
            if (data / name).exists() and not (data / name).is_symlink():
                shutil.copytree(data / name, moved)
                shutil.rmtree(data / name)
            else:
                moved.mkdir()
            (data / name).symlink_to(moved)
        for path in (disk, *disk.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
            path.chmod(0o700 if path.is_dir() else 0o600)
        self._settings["log_directory"] = str(disk / "log")

    def _pid(self) -> int | None:
        try:
            pid = int((self._directory / "data" / "postmaster.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError):
            return None
        # A killed server leaves its pid file, and another process may have the pid by now.
        return pid if any(str(self._directory) in argument for argument in command_line(pid)) else None


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path | None]:
    """Mount a small disk; None if this user may not."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m,mode=755", "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


async def use_disk_up(url: str) -> str:
    """Write until the database cannot, and return its error."""
    try:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            for _ in range(100):
                await connection.execute("SELECT pg_logical_emit_message(false, 'chaos', 'x')", timeout=5)
                await connection.execute("SELECT pg_switch_wal()", timeout=5)
        finally:
            connection.terminate()
    except WIRE_ERRORS as error:
        return str(error) or type(error).__name__
    return "nothing"


async def occupy(url: str) -> list[asyncpg.Connection]:
    """Take all free connections, and those that others release meanwhile, and return them."""
    taken: list[asyncpg.Connection] = []
    for _ in range(NUM_TRIES_TO_OCCUPY):
        while len(taken) < MAX_CONNECTIONS:
            try:
                taken.append(await asyncpg.connect(url, timeout=5))
            except WIRE_ERRORS:
                break
        if len(taken) == MAX_CONNECTIONS:
            break
        if taken:
            with contextlib.suppress(*WIRE_ERRORS):
                await end_sessions(taken[0], [one.get_server_pid() for one in taken])
    return taken


async def end_sessions(connection: asyncpg.Connection, but: list[int]) -> int:
    """End all sessions of clients except `but`, and return how many there were."""
    sql = """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND pid <> ALL($1)
    """
    ended: int = await connection.fetchval(sql, but, timeout=5)
    return ended
