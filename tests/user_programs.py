"""Create a database for one test, and run programs as a user runs them; shared by tests of examples and pages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator, lines

PROJECT = Path(__file__).parents[1]
GENEROUS_SECONDS = 180.0  # the demo alone takes twelve seconds on an idle machine


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    code: int
    stdout: str
    stderr: str


@contextlib.asynccontextmanager
async def fresh_database(server_url: str, *, is_migrated: bool = True) -> AsyncIterator[str]:
    """Yield the URL of a new database, and drop it afterwards."""
    name = f"millhand_docs_{secrets.token_hex(6)}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    async with _connected(server_url) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
        try:
            if is_migrated:
                await _migrate(url)
            yield url
        finally:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def run_python(
    arguments: Sequence[str],
    *,
    database_url: str,
    directory: Path = PROJECT,
    python_path: str = "",
    seconds: float = GENEROUS_SECONDS,
) -> Ended:
    """Run Python in a process of its own, with warnings as errors, and return how it ended."""
    path = {"PYTHONPATH": python_path} if python_path else {}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        *arguments,
        cwd=directory,
        env=environment(DATABASE_URL=database_url, **path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode or 0, stdout.decode(), stderr.decode())


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without Millhand's settings, with this Python's programs first in PATH."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MILLHAND_", "DATABASE_URL", "PYTEST_"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return {**kept, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **more}


async def _migrate(url: str) -> None:
    driver = AsyncpgDriver(url)
    await driver.open()
    try:
        for line in lines():
            await Migrator(driver, line).up()
    finally:
        await driver.close()


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
