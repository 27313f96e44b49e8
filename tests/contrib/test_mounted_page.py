"""Claims about the web page inside an application with users of its own."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Mount

from factory import get_job, insert_job
from millhand.contrib.starlette import page_user
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.web import WebConfig, dashboard


class ByHeader(AuthenticationBackend):
    """The application's users: `X-User: ada millhand:viewer …`."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        name, *scopes = conn.headers.get("x-user", "").split() or [""]
        return (AuthCredentials(scopes), SimpleUser(name)) if name else None


@pytest.fixture(params=["starlette", "fastapi"])
async def http(
    request: pytest.FixtureRequest, schema_driver: AsyncpgDriver
) -> AsyncIterator[httpx.AsyncClient]:
    page = dashboard(schema_driver, WebConfig(authenticate=page_user))
    if request.param == "starlette":
        app: Starlette = Starlette(routes=[Mount("/staff/jobs", page)])
    else:
        app = FastAPI()
        app.mount("/staff/jobs", page)
    app.add_middleware(AuthenticationMiddleware, backend=ByHeader())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as http:
        yield http


@pytest.mark.slow
async def test_several_databases_are_mounted_below_the_prefix(schema_driver: AsyncpgDriver) -> None:
    """The list of databases, their pages and the switch between them stay below the path of the host."""
    config = WebConfig(authenticate=page_user)
    page = dashboard(databases={"shop": schema_driver, "mail": schema_driver}, config=config)
    app = Starlette(routes=[Mount("/staff/jobs", page)])
    app.add_middleware(AuthenticationMiddleware, backend=ByHeader())
    headers = {"X-User": "ada millhand:admin"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://app", headers=headers, follow_redirects=True
    ) as http:
        pages = [
            await http.get(f"/staff/jobs{path}") for path in ("/", "/db/shop", "/db/shop/queues", "/jobs")
        ]

    links = {link for answer in pages for link in re.findall(r'(?:href|src|action)="(/[^"]*)"', answer.text)}
    assert [answer.status_code for answer in pages] == [200] * 4
    assert all(link.startswith("/staff/jobs/") for link in links)
    assert {"/staff/jobs/", "/staff/jobs/db/shop/jobs", "/staff/jobs/db/mail/queues"} <= links


async def test_users_of_the_application_have_the_role_of_their_scopes(
    http: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A user with a scope of the page comes in below the prefix; an operator's form changes a job, a viewer's does not."""
    job = await insert_job(schema_driver.pool, JobState.DISCARDED)
    path = f"/staff/jobs/jobs/{job.id}"
    closed = [
        (await http.get(path, headers={"X-User": user})).status_code
        for user in ("", "eve", "eve millhand", "eve viewer")
    ]
    changed = {}
    for scopes in ("millhand:viewer", "millhand:viewer millhand:operator"):
        user = {"X-User": f"ada {scopes}"}
        page = (await http.get(path, headers=user)).text
        csrf = re.findall(r'name="csrf" content="([^"]+)"', page)[0]
        answer = await http.post(
            f"{path}/retry", data={"csrf": csrf, "return_to": f"/jobs/{job.id}"}, headers=user
        )
        changed[scopes] = (answer.status_code, answer.headers.get("location"))

    assert closed == [403] * 4
    assert list(changed.values()) == [(403, None), (303, path)]
    assert (await get_job(schema_driver.pool, job.id)).state is JobState.AVAILABLE


async def test_every_link_of_a_mounted_page_stays_below_its_prefix(http: httpx.AsyncClient) -> None:
    """Links, forms and assets have the prefix, and the stylesheet is there."""
    page = (await http.get("/staff/jobs/", headers={"X-User": "ada millhand:viewer"})).text
    targets = re.findall(r'(?:href|src|action)="(/[^"]*)"', page)
    styles = await http.get(next(target for target in targets if ".css" in target))

    assert [target for target in targets if not target.startswith("/staff/jobs/")] == []
    assert styles.status_code == 200
