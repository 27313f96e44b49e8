"""Clusters, and processes that use their servers, for the tests of embedded databases."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from millhand.embedded.process import is_gone, wait_until

HOLDER = Path(__file__).with_name("holder.py")
IS_ROOT = os.geteuid() == 0
OWNER = "postgres" if any(user.pw_name == "postgres" for user in pwd.getpwall()) else "nobody"
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can be another user")
QUICK = {"fsync": "off"}


CONNECT_AS_NOBODY = """
import asyncio, asyncpg, os, pwd, sys
os.setgroups([]); os.setgid(pwd.getpwnam("nobody").pw_gid); os.setuid(pwd.getpwnam("nobody").pw_uid)
try:
    asyncio.run(asyncpg.connect(sys.argv[1]))
except Exception as error:
    print(error)
"""


@contextlib.contextmanager
def open_directory() -> Iterator[Path]:
    """A temporary directory that all users may enter, as root's server needs; pytest's own is closed."""
    with tempfile.TemporaryDirectory(prefix="millhand-embedded-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def provide(directory: Path, data: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", data, directory / "data"], check=True)


@contextlib.contextmanager
def mounted(directory: Path, *, megabytes: int) -> Iterator[None]:
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount of a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


async def ask(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@contextlib.contextmanager
def holder(directory: Path, user: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process, and a process group, that uses the server of `directory`."""
    command = [sys.executable, str(HOLDER), str(directory), *([user] if user else [])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        yield process


def answer_of(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout
    answer: dict[str, object] = json.loads(process.stdout.readline())
    return answer


def dismissed(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdin
    process.stdin.close()
    return answer_of(process)


def server_pid(directory: Path) -> int | None:
    pid_file = directory / "data" / "postmaster.pid"
    return int(pid_file.read_text().splitlines()[0]) if pid_file.exists() else None


def kill_server(directory: Path) -> None:
    """Kill the server and wait until it is dead, because it listens for a moment longer than the signal takes."""
    pid = server_pid(directory)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: is_gone(pid))


def let_go_when_met(directory: Path, pid: int) -> bool:
    """Let a stopped process go on once a start has met it, and return whether one did."""
    is_met = wait_until(lambda: "pre-existing shared memory block" in server_log(directory))
    os.kill(pid, signal.SIGCONT)
    return is_met


def server_log(directory: Path) -> str:
    return (directory / "server.log").read_text()


def names(directory: Path, pattern: str) -> list[str]:
    return [path.name for path in directory.glob(pattern)]


def listing(directory: Path) -> dict[str, int]:
    return {str(path.relative_to(directory)): path.stat().st_mtime_ns for path in directory.rglob("*")}
