"""Claims about who may see and do what, on each route of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute, Route
from visitors import NO_DATABASE, USERS, bearer, is_in, visiting

from dead_jobs import dead_ids, put_dead_jobs
from factory import get_job, insert_job
from millhand.capabilities import JOB_CHANGES
from millhand.core.clock import SystemClock
from millhand.core.job import JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.control import JobControl
from millhand.schedules.control import ScheduleControl
from millhand.web import Dashboard, Role, User, UserConfig, WebConfig, dashboard
from millhand.web.routes import PAGES

# What another user did before, and the beginnings of what a search line completes.
ADMIN_CHANGES = {"/bulk": {"q": "queue:hidden_queue", "action": "retry"}, "/jobs/{id:int}/copy": {}}
SUGGESTIONS = [
    f"/suggestions?q={line}" for line in ("", "hid", "kind:", "queue:", "kind:hid", "queue:hid", "tag:")
]
EVERYONE = None
CHANGES = {
    "/jobs/{id:int}/retry": Role.OPERATOR,
    "/jobs/{id:int}/cancel": Role.OPERATOR,
    "/jobs/{id:int}/snooze": Role.OPERATOR,
    "/jobs/{id:int}/delete": Role.ADMIN,
    "/jobs/{id:int}/copy": Role.ADMIN,
    "/jobs/insert": Role.ADMIN,
    "/jobs/selected/retry": Role.OPERATOR,
    "/jobs/selected/cancel": Role.OPERATOR,
    "/jobs/selected/delete": Role.ADMIN,
    "/dead/{id:int}/retry": Role.OPERATOR,
    "/dead/{id:int}/delete": Role.ADMIN,
    "/dead/selected/retry": Role.OPERATOR,
    "/dead/selected/delete": Role.ADMIN,
    "/bulk": Role.OPERATOR,
    "/bulk/{id:int}/start": Role.OPERATOR,
    "/bulk/{id:int}/stop": Role.OPERATOR,
    "/flows/{id:int}/cancel": Role.OPERATOR,
    "/flows/{id:int}/retry": Role.OPERATOR,
    "/orphans/run": Role.OPERATOR,
    "/orphans/restore": Role.OPERATOR,
    "/periodic/{name:path}/run": Role.OPERATOR,
    "/schedules": Role.ADMIN,
    "/schedules/{name:path}/pause": Role.OPERATOR,
    "/schedules/{name:path}/resume": Role.OPERATOR,
    "/schedules/{name:path}/run": Role.OPERATOR,
    "/schedules/{name:path}/remove": Role.ADMIN,
    "/queues/{name}/pause": Role.OPERATOR,
    "/queues/{name}/resume": Role.OPERATOR,
    "/queues/{name}/limit": Role.OPERATOR,
    "/queues/{name}/limit/reset": Role.OPERATOR,
    "/queues/{name}/limit/remove": Role.ADMIN,
    "/queues/{name}/partition": Role.OPERATOR,
    "/queues/{name}/partition/hold": Role.OPERATOR,
    "/queues/{name}/partition/release": Role.OPERATOR,
    "/queues/{name}/partition/resume": Role.OPERATOR,
}
# Pages that not every viewer sees.
PAGE_ROLES = {"/jobs/new": Role.ADMIN, "/audit": Role.OPERATOR}
# The role that each route needs. A new page needs a viewer; every other new route, and each change, needs a line here.
ROLES: dict[tuple[str, str], Role | None] = {
    ("GET", "/static/{name}"): EVERYONE,
    ("GET", "/login"): EVERYONE,
    ("POST", "/login"): EVERYONE,
    ("POST", "/logout"): Role.VIEWER,
    **{("GET", page.path): PAGE_ROLES.get(page.path, Role.VIEWER) for page in PAGES if page.template},
    **{("GET", f"/api/v1{page.path}"): PAGE_ROLES.get(page.path, Role.VIEWER) for page in PAGES},
    **{
        ("GET", f"{prefix}/jobs.{name}"): Role.VIEWER
        for prefix in ("", "/api/v1")
        for name in ("csv", "ndjson")
    },
    ("GET", "/live"): Role.VIEWER,
    ("GET", "/api/v1/live-state"): Role.VIEWER,
    ("GET", "/api/v1/openapi.json"): Role.VIEWER,
    **{("POST", prefix + path): role for prefix in ("", "/api/v1") for path, role in CHANGES.items()},
}


PAGE_ROUTES = {("GET", page.path) for page in PAGES if page.template} | {
    ("GET", "/live"),
    ("GET", "/api/v1/live-state"),
}
# Around several databases. Links of a page that had one database lead on.
SITE_ROLES = {
    **{route: ROLES[route] for route in ROLES if route[1] in ("/static/{name}", "/login", "/logout")},
    **{("GET", page.path): Role.VIEWER for page in PAGES if page.template},
    ("GET", "/api/v1/databases"): Role.VIEWER,
    ("GET", "/live"): Role.VIEWER,
    ("GET", "/api/v1/live-state"): Role.VIEWER,
}


def _paths(routes: Sequence[BaseRoute]) -> set[tuple[str, str]]:
    assert all(isinstance(route, Route) for route in routes)
    return {
        (method, route.path)
        for route in routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }


def test_every_route_has_a_role() -> None:
    """The table above has each route of the application, and no other."""
    assert _paths(dashboard(NO_DATABASE).routes) == set(ROLES)


def test_every_route_of_several_databases_has_a_role() -> None:
    """Each database has the routes of a page with one, and the site around them those of its own table."""
    app = dashboard(databases={"shop": NO_DATABASE, "mail": NO_DATABASE})

    assert _paths(app.routes) == set(SITE_ROLES)
    for pages in app.pages.values():
        assert _paths(pages.routes()) == {
            route for route in ROLES if route not in SITE_ROLES or route in PAGE_ROUTES
        }


@pytest.mark.slow
async def test_each_route_is_open_to_its_role_and_to_no_lower_one(schema_driver: AsyncpgDriver) -> None:
    """Without a user, every route but the login is closed; a user below a route's role is refused."""
    job = await insert_job(schema_driver.pool, queue="mail", kind="send_email")
    app = dashboard(schema_driver, WebConfig(users=USERS))

    assert await _wrong_answers(app, ROLES, job) == []
    await app.stop()  # a change of many jobs goes on otherwise


@pytest.mark.slow
async def test_each_route_of_several_databases_is_open_to_its_role(
    several_page: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """The same holds around the databases and below the segment of each, and a user of another database finds nothing."""
    job = await insert_job(schema_driver.pool, queue="mail", kind="send_email")
    below = {
        (method, f"/db/production{path}"): role
        for (method, path), role in ROLES.items()
        if (method, path) not in SITE_ROLES or (method, path) in PAGE_ROUTES
    }

    assert await _wrong_answers(several_page, SITE_ROLES | below, job) == []
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(several_page), base_url="http://page", headers=bearer("staging")
    ) as http:
        statuses = {(await http.request(method, _path(path, job))).status_code for method, path in below}
    assert statuses == {404}


def _path(template: str, job: JobRow) -> str:
    name = "millhand.css" if template.startswith("/static") else "mail"
    return template.replace("{id:int}", str(job.id)).replace("{name}", name).replace("{name:path}", name)


async def _wrong_answers(
    app: Dashboard, roles: Mapping[tuple[str, str], Role | None], job: JobRow
) -> list[tuple[str, str, str, int]]:
    """Return the routes that are open to a role below theirs, or closed to their own."""
    app.stop_live()  # so that the answer with live updates ends
    wrong = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
        for (method, template), needed in roles.items():
            path = _path(template, job)
            for name, role in {"": None, "viewer": 1, "operator": 2, "admin": 3}.items():
                answer = await http.request(method, path, headers=bearer(name) if name else {})
                is_refused = answer.status_code in (401, 403) or "/login?next=" in answer.headers.get(
                    "location", ""
                )
                is_open = needed is EVERYONE or (role is not None and role >= needed)
                if template != "/login" and is_refused == is_open:
                    wrong.append((method, path, name, answer.status_code))
    return wrong


@pytest.mark.slow
async def test_user_of_another_queue_finds_no_job(schema_driver: AsyncpgDriver) -> None:
    """A job outside the user's queues or kinds is 404, as one that does not exist."""
    mail = await insert_job(schema_driver.pool, queue="mail", kind="other")
    email = await insert_job(schema_driver.pool, queue="other", kind="send_email")
    other = await insert_job(schema_driver.pool, queue="other", kind="other")
    app = dashboard(schema_driver, WebConfig(users=USERS))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
        found = {
            (prefix, id): (await http.get(f"{prefix}/jobs/{id}", headers=bearer("other"))).status_code
            for id in (mail.id, email.id, other.id)
            for prefix in ("", "/api/v1")
        }

    assert {id for (_, id), status in found.items() if status == 200} == {other.id}
    assert set(found.values()) == {200, 404}


@pytest.mark.slow
async def test_user_of_another_queue_sees_no_name_of_it(schema_driver: AsyncpgDriver) -> None:
    """No page shows a user a queue or a kind outside their limits, nor a change of another user there."""
    columns: dict[str, Any] = {"queue": "hidden_queue", "kind": "hidden_kind", "tags": ["hidden_tag"]}
    states = (JobState.AVAILABLE, JobState.RETRYABLE, JobState.DISCARDED, JobState.COMPLETED)
    [job, *_] = [await insert_job(schema_driver.pool, state, **columns) for state in states]
    await put_dead_jobs(schema_driver.pool)
    app = dashboard(schema_driver, WebConfig(users=USERS))
    seen = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
        for path, form in ADMIN_CHANGES.items():
            url = f"/api/v1{path}".replace("{id:int}", str(job.id))
            assert (await http.post(url, data=form, headers=bearer("admin"))).status_code == 200
        paths = [page.path for page in PAGES] + SUGGESTIONS + ["/jobs.csv", "/jobs.ndjson"]
        for path in paths:
            url = path.replace("{id:int}", str(job.id)).replace("{name:path}", "hidden_queue")
            for prefix in ("", "/api/v1"):
                for name in ("other", "admin"):
                    answer = await http.get(prefix + url, headers=bearer(name))
                    if answer.status_code == 200 and "hidden_" in answer.text:
                        seen.append((name, prefix + path))
    await app.stop()

    assert [path for name, path in seen if name == "other"] == []
    # The overview, the lists of jobs, queues and changes, the pages of each, and suggestions have the names.
    assert len(seen) >= 20


@pytest.mark.slow
async def test_user_of_another_queue_changes_no_job(schema_driver: AsyncpgDriver) -> None:
    """No change reaches a job or a queue outside the user's limits, and none inserts one there."""
    job = await insert_job(schema_driver.pool, queue="mail", kind="send_email")
    await put_dead_jobs(schema_driver.pool)
    app = dashboard(schema_driver, WebConfig(users=USERS))
    form = {
        "seconds": "5",
        "ids": str(job.id),
        "kind": "send_email",
        "queue": "mail",
        "args": "{}",
        "action": "retry",
        "key": "a.png",
        "schedule": "mail",
        "cron": "@daily",
    }
    answers = {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
        for template in CHANGES:
            path = (
                template.replace("{id:int}", str(job.id))
                .replace("{name}", "mail")
                .replace("{name:path}", "mail")
            )
            answer = await http.post(f"/api/v1{path}", data=form, headers=bearer("other"))
            answers[template] = answer.json().get("num_jobs", answer.status_code)

    assert set(answers.values()) <= {0, 404, 409}, answers
    assert await get_job(schema_driver.pool, job.id) == job
    assert (await JobControl(schema_driver, SystemClock(), changes=JOB_CHANGES).list()).jobs == (job,)
    assert await ScheduleControl(schema_driver).list() == []
    assert await dead_ids(schema_driver.pool) == [job.id]
    await app.stop()


async def test_page_without_a_way_in_is_closed_and_names_the_remedy() -> None:
    """A mounted page that nobody configured shows nothing, and the answer has what to pass."""
    async with visiting() as http:
        html = await http.get("/jobs")
        json = await http.get("/api/v1/jobs")
        login = await http.get("/login")

    assert (html.status_code, json.status_code, login.status_code) == (403, 403, 404)
    assert "WebConfig(authenticate=…)" in html.text
    assert "WebConfig(users=…)" in json.json()["detail"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_host_s_function_decides_who_comes_in(is_async: bool) -> None:
    """`authenticate` is a function or a coroutine function; None refuses, and there is no login page."""

    def plain(request: httpx.Request) -> User | None:
        return User(name="ada") if request.headers.get("x-name") == "ada" else None

    async def awaited(request: httpx.Request) -> User | None:
        return plain(request)

    async with visiting(authenticate=awaited if is_async else plain, users=USERS) as http:
        assert await is_in(http, **{"X-Name": "ada"})
        assert not await is_in(http, **{"X-Name": "eve"})
        assert (await http.get("/login")).status_code == 404
        assert await is_in(http, **bearer("viewer"))


async def test_bearer_token_of_no_user_is_refused() -> None:
    """A wrong token is 401, and not another way in."""
    async with visiting(users=USERS) as http:
        answer = await http.get("/api/v1/nowhere", headers=bearer("eve"))
        right = await http.get("/api/v1/nowhere", headers=bearer("viewer"))

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert right.status_code == 404


async def test_page_has_no_websockets() -> None:
    """A websocket is closed before any route sees it."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await dashboard(NO_DATABASE, WebConfig(users=USERS))(
        {"type": "websocket", "path": "/live"}, receive, send
    )

    assert sent == [{"type": "websocket.close"}]


PROXY = {"proxy_header": "X-Forwarded-User", "proxy_networks": ["10.0.0.0/8", "fd00::/8"]}


@pytest.mark.parametrize(
    ("address", "headers", "is_user"),
    [
        ("10.1.2.3", [("X-Forwarded-User", "viewer")], True),
        ("fd00::1", [("X-Forwarded-User", "viewer")], True),
        ("10.1.2.3", [("X-Forwarded-User", "eve")], False),
        ("10.1.2.3", [], False),
        ("10.1.2.3", [("X-Forwarded-User", "")], False),
        ("10.1.2.3", [("X-Forwarded-User", "viewer"), ("X-Forwarded-User", "admin")], False),
        ("192.0.2.7", [("X-Forwarded-User", "viewer")], False),
        ("192.0.2.7", [("X-Forwarded-User", "viewer"), ("X-Forwarded-For", "10.1.2.3")], False),
        ("testclient", [("X-Forwarded-User", "viewer")], False),
    ],
)
async def test_proxy_names_users_from_its_networks_only(
    address: str, headers: list[tuple[str, str]], is_user: bool
) -> None:
    """The header counts if the connection is from a trusted network and names one known user."""
    async with visiting(users=USERS, client=(address, 1), **PROXY) as http:
        http.headers = httpx.Headers(headers)
        assert await is_in(http) is is_user


async def test_every_other_user_of_the_proxy_may_have_a_role() -> None:
    """The user `*` stands for each name that has no entry of its own."""
    users = {"*": UserConfig(role="viewer")}
    async with visiting(users=users, client=("10.0.0.1", 1), **PROXY) as http:
        assert await is_in(http, **{"X-Forwarded-User": "eve"})
        assert not await is_in(http)
