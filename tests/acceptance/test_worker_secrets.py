"""Claims about the secrets of a worker."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from worker_harness import started_worker

from millhand import Client, InsertOpts, RawArgs
from millhand.db.driver.asyncpg import AsyncpgDriver
from planted import ARGS, PLAIN, QUOTED, found_in
from user_programs import fresh_database

pytestmark = pytest.mark.slow

SHOP = """
from millhand import Config, Workers

workers = Workers()

@workers.add(kind="fail")
async def fail(what: str) -> None:
    raise ValueError("card declined")

config = Config(workers=workers, queues={"default": 2})
"""
OTHERS = "FROM pg_stat_activity WHERE application_name = 'millhand' AND datname = current_database()"
SESSIONS = f"SELECT application_name, query {OTHERS}"
CLIENTS = "SELECT * FROM millhand_client"
END_SESSIONS = f"SELECT pg_terminate_backend(pid) {OTHERS}"


async def test_worker_keeps_its_secrets(postgres_server_url: str, tmp_path: Path) -> None:
    """Password, keys and args appear in no log line, command line, session or row, also after a lost database."""
    (tmp_path / "shop.py").write_text(SHOP)
    async with fresh_database(postgres_server_url) as url:
        environment = _secrets(url)
        driver = AsyncpgDriver(f"{url}&application_name=watcher")
        await driver.open()
        async with started_worker(
            tmp_path, "shop:config", "--log-level", "debug", environment=environment
        ) as worker:
            started = await worker.line("worker started")
            async with Client(url) as client:
                await client.insert(RawArgs("fail", json.dumps({"what": ARGS})), InsertOpts(max_attempts=1))
            await worker.line("job discarded")
            seen = [str(await driver.pool.fetch(sql)) for sql in (SESSIONS, CLIENTS)]
            seen += [Path(f"/proc/{worker.pid}/{name}").read_text() for name in ("cmdline", "comm")]
            await driver.pool.fetch(END_SESSIONS)
            await worker.line("listener reconnected")
            code = await worker.stop()
        await driver.close()

    assert (code, started["queues"]) == (0, "default:2")
    assert found_in("\n".join([*map(str, worker.lines), worker.errors, *seen])) == []


def _secrets(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return {
        # The server identifies its clients by their user and asks for no password.
        "DATABASE_URL": urlunsplit(parts._replace(netloc=f"{user}:{QUOTED}@{host}")),
        "AWS_SECRET_ACCESS_KEY": PLAIN,
        "AWS_SESSION_TOKEN": PLAIN,
        "PGPASSWORD": PLAIN,
    }
