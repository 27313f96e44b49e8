"""The shop on Django, served and worked by processes of their own: orders, jobs, tasks and the admin."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import httpx
import pytest
from application import EXAMPLES, asking, commands, run, started

from free_ports import free_ports
from millhand import Client, ClientRow, ClientState, JobFilters, JobRow, JobState, NotFound
from served import Served, served, until
from user_programs import fresh_database

SHOP = EXAMPLES / "django_shop"
MIGRATE, SERVE, WORK = commands("django_shop")
USER, PASSWORD = "keeper", "of the shop"
HTTP_PORT = ["--listen=127.0.0.1:0", "config.wsgi:application"]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Shop:
    """The shop as it runs, what is asked of it over HTTP, and its jobs seen from outside."""

    http: httpx.AsyncClient
    jobs: Client
    url: str
    web: Served

    async def order(self, customer: str, card: str = "good") -> int:
        return (await self.http.post("/orders/", json={"customer": customer, "card": card})).status_code

    async def job_when(self, state: JobState, kind: str = "confirm_order", attempt: int = 0) -> JobRow:
        """Return the last job of a kind, as soon as it is in a state after at least so many attempts."""

        async def look() -> JobRow:
            return (await self.jobs.jobs.list(JobFilters(kinds=[kind]), descending=True, limit=1)).jobs[0]

        return await until(look, lambda job: job.state is state and job.attempt >= attempt)

    async def press(self, path: str, **fields: str) -> str:
        """Send a form of the admin's, and return the page that comes of it."""
        fields["csrfmiddlewaretoken"] = self.http.cookies["csrftoken"]
        answer = await self.http.post(
            f"/admin/{path}", data=fields, headers={"Referer": str(self.http.base_url)}
        )
        assert answer.status_code == 200, answer.text
        return answer.text

    async def look(self, path: str) -> str:
        answer = await self.http.get(f"/admin/{path}")
        assert answer.status_code == 200, answer.text
        return answer.text

    async def client_of(self, worker: Served) -> ClientRow:
        (row,) = [row for row in await self.jobs.clients.list() if row.pid == worker.pid]
        return row

    def worker(self) -> contextlib.AbstractAsyncContextManager[Served]:
        return started("django_shop", WORK, "--log-format", "json", DATABASE_URL=self.url)


@pytest.fixture(scope="module")
async def shop(postgres_server_url: str) -> AsyncIterator[Shop]:
    """The shop, migrated by Django on an empty database, served by waitress, with its keeper logged in."""
    async with fresh_database(postgres_server_url, is_migrated=False) as url:
        keeper = {"DJANGO_SUPERUSER_USERNAME": USER, "DJANGO_SUPERUSER_PASSWORD": PASSWORD}
        await run("django_shop", MIGRATE, DATABASE_URL=url)
        create = "python manage.py createsuperuser --noinput --email keeper@example.com"
        await run("django_shop", create, DATABASE_URL=url, **keeper)
        async with (
            served(["-m", "waitress", *HTTP_PORT], SHOP, DATABASE_URL=url) as web,
            Client(url) as jobs,
            httpx.AsyncClient(base_url=await web.address(), follow_redirects=True) as http,
        ):
            shop = Shop(http, jobs, url, web)
            await shop.look("login/")
            await shop.press("login/", username=USER, password=PASSWORD, next="/admin/")
            yield shop
            assert await web.stop() == -signal.SIGTERM, web.text


async def test_shop_commits_an_order_and_its_job_together(shop: Shop) -> None:
    """An order and its job are committed together or not at all; the worker finds jobs.py and works them."""
    async with shop.worker() as worker:
        statuses = [
            await shop.order("carl@example.com"),
            await shop.order("dora@example.com", card="declined"),
        ]
        job = await shop.job_when(JobState.COMPLETED)
        result_id = (await shop.http.post("/reports/", json={"customer": "carl@example.com"})).json()["id"]
        await shop.job_when(JobState.COMPLETED, "django_task")
        report = (await shop.http.get(f"/reports/{result_id}/")).json()
        orders = (await shop.http.get("/orders/")).json()["orders"]
        before = await shop.client_of(worker)
        code = await worker.stop()

    assert (statuses, job.queue) == ([201, 402], "mail")
    own = {one["customer"]: one["is_confirmed"] for one in orders if one["customer"][0] in "cd"}
    assert own == {"carl@example.com": True}
    assert report == {"status": "SUCCESSFUL", "value": {"orders": 1, "confirmed": 1}}
    assert code == 0, worker.text
    assert '"worker stopped"' in worker.lines[-1]
    assert before.queues == {"default": 20, "mail": 5}
    after = await shop.client_of(worker)
    assert (before.state, after.state) == (ClientState.WORKING, ClientState.STOPPED)


async def test_worker_completes_a_running_job_when_it_stops(shop: Shop) -> None:
    """On SIGTERM the worker completes a job that is using the ORM, and exits with 0."""
    await shop.jobs.jobs.delete_many(
        JobFilters(kinds=["confirm_order"])
    )  # of other tests, which would run as well
    connection = await asyncpg.connect(shop.url)
    try:
        await shop.order("kate@example.com")
        await connection.execute("BEGIN")
        await connection.execute("SELECT FROM shop_order FOR UPDATE")
        async with shop.worker() as worker:
            await worker.found('"worker started"')  # a stop during the start waits for no job
            await shop.job_when(JobState.RUNNING)
            worker.terminate()
            await worker.found('"worker stopping".*"running":[1-9]')  # a built-in job may run too
            await connection.execute("COMMIT")  # and now it can be saved
            code = await worker.ended()
    finally:
        await connection.close()

    assert (code, (await shop.job_when(JobState.COMPLETED)).attempt) == (0, 1), worker.text


async def test_admin_retries_cancels_and_deletes_jobs(shop: Shop) -> None:
    """The admin finds a job by its args, shows its error, and retries, cancels and deletes it."""
    async with shop.worker():
        await shop.order("nobody")
        # After the second attempt it waits for 16 s: long enough for the worker to stop.
        job = await shop.job_when(JobState.RETRYABLE, attempt=2)
    page = f"millhand/job/{job.id}/change/"
    order_id = job.args["order_id"]
    listed = await shop.look(f'millhand/job/?q={{"order_id": {order_id}}}&state=retryable&kind=confirm_order')
    elsewhere = await shop.look('millhand/job/?q={"order_id": 0}')
    detail = await shop.look(page)
    retried = await shop.press(page, _retry="Retry now")
    after_retry = await shop.jobs.jobs.get(job.id)
    cancelled = await shop.press("millhand/job/", action="cancel_jobs", _selected_action=str(job.id))
    after_cancel = await shop.jobs.jobs.get(job.id)
    history = await shop.look(f"millhand/job/{job.id}/history/")
    confirmed = await shop.press(f"millhand/job/{job.id}/delete/", post="yes")

    assert f"/admin/{page}" in listed
    assert f"/admin/{page}" not in elsewhere
    assert "ValueError: customer must have an address, got &#x27;nobody&#x27;" in detail
    assert "shop/jobs.py" in detail
    assert "1 job made available" in retried
    assert (after_retry.state, after_retry.attempt) == (JobState.AVAILABLE, job.attempt)
    assert "1 job cancelled, or asked to stop" in cancelled
    assert after_cancel.state is JobState.CANCELLED
    assert all(words in history for words in ("Made available by retry.", "Cancelled."))
    assert "was deleted successfully" in confirmed
    with pytest.raises(NotFound):
        await shop.jobs.jobs.get(job.id)


async def test_admin_pauses_and_resumes_queues(shop: Shop) -> None:
    """A worker fetches no job of a queue that the admin paused, until the admin resumes it."""
    async with shop.worker() as worker:
        await worker.found("worker started")
        paused = await shop.press("millhand/queue/", action="pause_queues", _selected_action="mail")
        is_paused = (await shop.jobs.queues.get("mail")).is_paused
        await shop.order("ada@example.com")
        resumed = await shop.press("millhand/queue/", action="resume_queues", _selected_action="mail")
        await shop.job_when(JobState.COMPLETED)

    assert (is_paused, (await shop.jobs.queues.get("mail")).is_paused) == (True, False)
    assert ("1 queue paused" in paused, "1 queue resumed" in resumed) == (True, True)


async def test_development_server_answers(shop: Shop) -> None:
    """The README's second command serves the shop."""
    (port,) = free_ports(1)
    async with (
        started("django_shop", SERVE, str(port), "--noreload", DATABASE_URL=shop.url) as server,
        asking(server) as http,
    ):
        listed = await until(lambda: answer(http), lambda got: got is not None)

    assert listed is not None
    assert list(listed.json()) == ["orders"]


async def test_admin_refuses_visitors_and_edits(shop: Shop) -> None:
    """The admin shows a visitor only the login form, and lets no user add or edit a row."""
    await shop.order("ada@example.com")
    job = (await shop.jobs.jobs.list(descending=True, limit=1)).jobs[0]
    detail = await shop.look(f"millhand/job/{job.id}/change/")
    added = await shop.http.get("/admin/millhand/job/add/")
    async with httpx.AsyncClient(base_url=shop.http.base_url, follow_redirects=True) as stranger:
        asked = (await stranger.get(f"/admin/millhand/job/{job.id}/change/")).text

    assert re.findall(r'<input type="(?:text|number)"', detail) == []
    assert added.status_code == 403
    assert 'name="password"' in asked


async def answer(http: httpx.AsyncClient) -> httpx.Response | None:
    """Return the list of orders, or None as long as the server does not listen yet."""
    try:
        return await http.get("/orders/")
    except httpx.ConnectError:
        return None
