"""Every application in examples/ is started by its own server, used over HTTP, and stopped by SIGTERM."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from millhand import Client, ClientState, JobState
from served import Served, served, until
from user_programs import PROJECT, fresh_database

EXAMPLES = PROJECT / "examples"

pytestmark = pytest.mark.slow


@pytest.fixture
async def url(postgres_server_url: str) -> AsyncIterator[str]:
    """A migrated database for one application."""
    async with fresh_database(postgres_server_url) as url:
        yield url


async def test_fastapi_application_inserts_and_works_jobs(url: str) -> None:
    """An order and its job are committed together or not at all; the server's process works the job."""
    arguments = ["-m", "uvicorn", "--port", "0", "--app-dir", str(EXAMPLES / "fastapi_app"), "app:app"]
    async with served(arguments, PROJECT, DATABASE_URL=url) as server, asking(server) as http:
        taken = await http.post("/orders", json={"customer": "ada"})
        declined = await http.post("/orders", json={"customer": "bob", "card": "declined"})
        job_id = taken.json()["job"]
        job = await finished(http, job_id)
        missing = await http.get("/jobs/999")
        counted = await http.get("/orders")
        code = await server.stop()

    assert (taken.status_code, declined.status_code, missing.status_code) == (201, 402, 404)
    assert job == {"state": "completed", "output": "order 1 of ada is confirmed"}
    assert (counted.json(), code) == ({"orders": 1}, -signal.SIGTERM), server.text
    assert await kinds_and_clients(url) == (["confirm_order"], [ClientState.STOPPED])


async def test_flask_application_inserts_jobs_for_a_worker(url: str) -> None:
    """One Flask-SQLAlchemy session commits an order and its job; `millhand worker` works the job."""
    directory = EXAMPLES / "flask_app"
    web = ["-m", "flask", "--app", "app.py", "run", "--port", "0"]
    worker = ["-m", "millhand", "worker", "app:config", "--log-format", "json"]
    async with (
        served(web, directory, DATABASE_URL=url) as server,
        served(worker, directory, DATABASE_URL=url) as working,
        asking(server) as http,
    ):
        taken = await http.post("/orders", json={"customer": "ada"})
        declined = await http.post("/orders", json={"customer": "bob", "card": "declined"})
        job = await finished(http, taken.json()["job"])
        counted = await http.get("/orders")
        codes = await server.stop(), await working.stop()

    assert (taken.status_code, declined.status_code) == (201, 402)
    assert job == {"state": "completed", "output": "order 1 of ada is confirmed"}
    assert (counted.json(), codes) == ({"orders": 1}, (-signal.SIGTERM, 0)), server.text
    assert '"message":"worker stopped"' in working.lines[-1].replace(": ", ":")
    assert await kinds_and_clients(url) == (["confirm_order"], [ClientState.STOPPED])


@contextlib.asynccontextmanager
async def asking(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of HTTP, as soon as the server says where it is."""
    async with httpx.AsyncClient(base_url=await server.address(), follow_redirects=True) as http:
        yield http


async def finished(http: httpx.AsyncClient, job_id: int) -> dict[str, Any]:
    """Return a job when it is."""

    async def look() -> dict[str, Any]:
        found: dict[str, Any] = (await http.get(f"/jobs/{job_id}")).json()
        return found

    return await until(look, lambda job: JobState(job["state"]).is_finalized)


async def kinds_and_clients(url: str) -> tuple[list[str], list[ClientState]]:
    """Return the kinds of all jobs, and how the clients stand."""
    async with Client(url) as client:
        jobs = (await client.jobs.list()).jobs
        return [job.kind for job in jobs], [row.state for row in await client.clients.list()]
