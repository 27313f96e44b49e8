"""The ASGI application: the pages of one database or of several, behind the login, and the answers to errors."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from millhand.client import Client
from millhand.core.errors import ConfigError
from millhand.core.log.logger import logger_of
from millhand.db.driver.detect import driver_of
from millhand.shells.settings.web_database import DatabaseLabel, check_names, check_one
from millhand.shells.settings.web_user import User
from millhand.shells.web.database import WebDatabase
from millhand.shells.web.form import NOTICE_COOKIE, clear_notice, decode_notice
from millhand.version import VERSION
from millhand.web.access import Access, full_path_of, path_of, visitor_of, with_visitor
from millhand.web.assets import assets
from millhand.web.config import WebConfig
from millhand.web.database_list import DatabaseList
from millhand.web.database_pages import DatabasePages
from millhand.web.login import Login
from millhand.web.place import database_in, is_api, place_of, placed
from millhand.web.policy import WithPolicy
from millhand.web.problem import ERRORS, problem_of
from millhand.web.rendering import render
from millhand.web.routes import TABS
from millhand.web.time_zone import zone_of

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from millhand.client import Database

logger = logger_of(__name__)

POOL_SIZE = 4
UNNAMED = "millhand"  # to visitors, and where no URL names the database
_A_YEAR = "public, max-age=31536000, immutable"


class Dashboard:
    """
    The web page as an ASGI application. Make it with `dashboard`.

    Serve it alone, or mount it below a path of your own application. `databases` are by name; without names there is one.

        request ──▶ policy ──▶ access ──▶ the site: login, static files, list of databases
                                     └──▶ /db/{name}: the pages of a database
    """

    def __init__(self, databases: WebDatabase | Mapping[str, WebDatabase], config: WebConfig) -> None:
        self.config = config
        self._access = Access(self._dispatch, config=config, on_error=self._on_error)
        self._app = WithPolicy(self._access)
        login = Login(self._access, config, self._rendered)
        site: list[Route] = [Route("/static/{name}", _asset, name="static"), *login.routes()]
        if isinstance(databases, WebDatabase):
            check_one(config.users)
            self._databases = [self._pages(databases)]
            self._parts: list[DatabasePages | DatabaseList] = [*self._databases]
            self.pages: Mapping[str, DatabasePages] = {}
            self.routes = [*site, *self._databases[0].routes()]
        else:
            check_names(databases, config.colors, config.users)
            self.pages = {name: self._pages(database) for name, database in databases.items()}
            self._databases = list(self.pages.values())
            listed = DatabaseList(databases, config, self._rendered)
            self._parts = [*self._databases, listed]
            self.routes = [*site, *listed.routes()]
        self._site = self._starlette(self.routes, lifespan=self._lifespan)
        self._apps = {name: self._starlette(pages.routes()) for name, pages in self.pages.items()}

    def _pages(self, database: WebDatabase) -> DatabasePages:
        return DatabasePages(
            database,
            self.config,
            render=self._rendered,
            address=lambda request: self._access.peer(request).address,
        )

    def _starlette(self, routes: Sequence[BaseRoute], **options: Any) -> Starlette:  # noqa: ANN401 - as Starlette takes them
        return Starlette(
            routes=routes,
            middleware=[Middleware(GZipMiddleware, minimum_size=1_000, compresslevel=6)],
            exception_handlers=dict.fromkeys(ERRORS, self._on_error),
            **options,
        )

    @property
    def databases(self) -> Sequence[WebDatabase]:
        return [pages.database for pages in self._databases]

    def stop_live(self) -> None:
        """End live updates, because the server stops."""
        for part in self._parts:
            part.stop_live()

    async def stop(self) -> None:
        """Stop background work and close connections. A mounted page gets no end event, so call it in your lifespan."""
        for part in self._parts:
            await part.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        for pages in self._databases:
            await pages.start()
        try:
            yield
        finally:
            await self.stop()

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request below /db/{name} to the pages of that database, if its user sees it; others to the site."""
        visitor = visitor_of(Request(scope)) if scope["type"] == "http" else None
        if visitor is None:
            await self._site(scope, receive, send)
            return
        name = database_in(path_of(Request(scope))) if self.pages else self.config.name
        user = visitor.user.in_database(name or "")
        there = None if user is None else msgspec.structs.replace(visitor, user=user)
        if not self.pages:
            await self._site(with_visitor(scope, there), receive, send)
        elif there is None or name not in self._apps:
            await self._site(scope, receive, send)
        else:
            await self._apps[name](with_visitor(placed(scope, name), there), receive, send)

    def _rendered(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        **values: Any,  # noqa: ANN401 - of a template
    ) -> HTMLResponse:
        visitor, place = visitor_of(request), place_of(request)
        is_site = bool(self.pages) and place.database is None
        html = render(
            template,
            site=place.site,
            prefix=request.scope.get("root_path", ""),
            now=self.config.clock.now(),
            zone=zone_of(request.cookies, self.config.time_zone or "UTC"),
            config=self.config,
            database=self._label(
                place.database, has_address=visitor is not None and not visitor.user.is_limited
            ),
            databases=[] if visitor is None else self._labels(visitor.user),
            tab_path=next((path for name, _, path in TABS if name == values.get("tab")), "/"),
            tabs=() if is_site else TABS,
            version=VERSION,
            user=visitor and visitor.user,
            csrf=visitor and visitor.csrf,
            can_log_out=self.config.has_login and visitor is not None,
            query=dict(request.query_params),
            here=full_path_of(request),
            notice=decode_notice(request.cookies.get(NOTICE_COOKIE)),
            **{"asked": None, "tab": "", "title": "Error", **values},
        )
        response = HTMLResponse(html, status_code=status)
        if NOTICE_COOKIE in request.cookies:
            clear_notice(response, request.scope.get("root_path", ""))
        return response

    def _on_error(self, request: Request, error: Exception) -> Response:
        """Answer with an error page, or below the API with a problem as RFC 9457 describes it; log a fault of the server."""
        problem = problem_of(error)
        if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            fields = {"path": request.url.path, "error": problem.detail}
            logger.warning("page request failed", extra=fields)
        headers = error.headers if isinstance(error, HTTPException) else None
        if is_api(path_of(request)):
            content = msgspec.json.encode(problem)
            return Response(content, problem.status, headers, "application/problem+json")
        page = self._rendered(
            request, "error.html", status=problem.status, title=problem.title, detail=problem.detail
        )
        page.headers.update(headers or {})
        return page

    def _labels(self, user: User) -> list[DatabaseLabel]:
        """Return the databases that a user may switch to."""
        return [self._label(name) for name in self.pages if user.in_database(name) is not None]

    def _label(self, name: str | None, *, has_address: bool = False) -> DatabaseLabel:
        """Return how the page names a database, or without a name the only one, or the site of several."""
        pages = self.pages.get(name or "") if self.pages else self._databases[0]
        at = pages.database.driver.address if pages and has_address else None
        name = name or self.config.name or (at.name if at else "") or UNNAMED
        address = " at ".join(filter(None, (at.name, at.host))) if at else ""
        return DatabaseLabel(name=name, color=self.config.colors.get(name), address=address)


def dashboard(
    database: Client | Database | None = None,
    config: WebConfig | None = None,
    *,
    databases: Mapping[str, Client | Database] | None = None,
) -> Dashboard:
    """
    Return the web page of a database, or of several, as an ASGI application.

    Args:
        database: As `Client` takes it, or a client that you start and stop yourself.
        config: The settings. Without `authenticate` and `users`, the page is closed.
        databases: Several databases by name, in place of `database`. Each has its pages below `/db/{name}/`.

    Raises: ConfigError for an invalid database or setting.
    """
    config = config or WebConfig()
    if (database is None) == (databases is None):
        raise ConfigError(
            f"dashboard must have a database or databases, got {'neither' if database is None else 'both'}"
        )
    if databases is None:
        return Dashboard(_web_database(database, config), config)
    return Dashboard({name: _web_database(one, config, name) for name, one in databases.items()}, config)


def _web_database(database: object, config: WebConfig, name: str = "") -> WebDatabase:
    if isinstance(database, Client):
        retention = database.config.completed_job_retention
        return WebDatabase(
            database.driver, config.clock, name=name, is_owner=False, completed_retention=retention
        )
    size = POOL_SIZE if isinstance(database, str) else None
    driver, retention = driver_of(database, config.schema, size), config.completed_job_retention
    return WebDatabase(driver, config.clock, name=name, completed_retention=retention)


async def _asset(request: Request) -> Response:
    asset = assets().get(request.path_params["name"])
    if asset is None:
        raise HTTPException(404)
    is_current = request.query_params.get("v") == asset.version
    return Response(
        asset.content,
        media_type=asset.content_type,
        headers={"Cache-Control": _A_YEAR if is_current else "no-cache", "ETag": f'"{asset.version}"'},
    )
