"""The first page of several databases: each with its verdict in one line, and those that do not answer."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from millhand.core.errors import MillhandError
from millhand.shells.settings.web_user import User
from millhand.shells.web.database import WebDatabase
from millhand.web.access import full_path_of, require_visitor
from millhand.web.config import WebConfig
from millhand.web.job_search import Count
from millhand.web.live import Watcher
from millhand.web.live_response import live_response, state_response
from millhand.web.openapi import API
from millhand.web.place import SEGMENT
from millhand.web.problem import problem_of
from millhand.web.routes import PAGES
from millhand.web.summary import load_summary

TEMPLATE = "databases.html"
# The list does not wait longer for a database.
ANSWER_SECONDS = 2.0
# Each look costs every database its verdict.
LIVE_SECONDS = 10.0


class DatabaseState(enum.StrEnum):
    """The level of a verdict, or that there is none."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNAVAILABLE = "unavailable"


class DatabaseLine(msgspec.Struct, frozen=True, kw_only=True):
    """
    One database.

    `text` is the worst finding, or why the database is unavailable; None if nothing is wrong. Its pages are below `path`.
    """

    name: str
    path: str
    state: DatabaseState
    text: str | None = None
    num_findings: int = 0
    num_clients: int | None = None
    counts: tuple[Count, ...] = ()


class DatabaseLines(msgspec.Struct, frozen=True):
    """The databases that a user sees."""

    databases: tuple[DatabaseLine, ...]


class DatabaseList:
    """
    The list as a page and as JSON.

    Links of a page that had one database lead to the first one. `render` returns a page for a request and a template.
    """

    def __init__(
        self, databases: Mapping[str, WebDatabase], config: WebConfig, render: Callable[..., Response]
    ) -> None:
        self._databases = databases
        self._config = config
        self._render = render
        self._watcher = Watcher(self._state, config.clock, LIVE_SECONDS)

    def stop_live(self) -> None:
        """End live updates, because the server stops."""
        self._watcher.close()

    async def stop(self) -> None:
        await self._watcher.stop()

    def routes(self) -> list[Route]:
        """Return the routes of the site."""
        paths = {page.path: page.name for page in PAGES if page.template is not None and page.path != "/"}
        return [
            Route("/", self._html, name="databases"),
            Route(f"{API}/databases", self._json, name="api_databases"),
            Route("/live", self._live, name="live"),
            Route(f"{API}/live-state", self._live_state, name="live_state"),
            *(Route(path, self._lead_on, name=name) for path, name in paths.items()),
        ]

    async def _html(self, request: Request) -> Response:
        page = await self._load(require_visitor(request).user)
        return self._render(request, TEMPLATE, title="Databases", colors=self._config.colors, page=page)

    async def _json(self, request: Request) -> Response:
        page = await self._load(require_visitor(request).user)
        return Response(msgspec.json.encode(page), media_type="application/json")

    async def _live(self, request: Request) -> Response:
        require_visitor(request)
        return live_response(self._watcher, request)

    async def _live_state(self, request: Request) -> Response:
        require_visitor(request)
        return state_response(await self._state())

    async def _state(self, _before: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return what all users together see, as text: a user with limits sees a part of it."""
        page = await self._load(User(name=""))
        return {"databases": msgspec.json.encode(page).decode()}

    async def _lead_on(self, request: Request) -> Response:
        first = next(iter(self._databases))
        if require_visitor(request).user.in_database(first) is None:
            raise HTTPException(404)
        path = f"{request.scope.get('root_path', '')}{SEGMENT}{first}{full_path_of(request)}"
        return RedirectResponse(path, status_code=307)

    async def _load(self, user: User) -> DatabaseLines:
        seen = [(database, user.in_database(name)) for name, database in self._databases.items()]
        lines = [self._line(database, there) for database, there in seen if there is not None]
        return DatabaseLines(tuple(await asyncio.gather(*lines)))

    async def _line(self, database: WebDatabase, user: User) -> DatabaseLine:
        name, path = database.name, f"{SEGMENT}{database.name}/"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await database.open()
                summary = await load_summary(database, user, self._config.clock.now())
        except TimeoutError:
            text = f"no answer within {ANSWER_SECONDS:g} s"
            return DatabaseLine(name=name, path=path, state=DatabaseState.UNAVAILABLE, text=text)
        except MillhandError as error:
            return DatabaseLine(
                name=name, path=path, state=DatabaseState.UNAVAILABLE, text=problem_of(error).detail
            )
        verdict = summary.verdict
        return DatabaseLine(
            name=name,
            path=path,
            state=DatabaseState(verdict.level),
            text=verdict.findings[0].text if verdict.findings else None,
            num_findings=len(verdict.findings),
            num_clients=summary.num_clients,
            counts=summary.counts,
        )
