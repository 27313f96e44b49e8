"""The ASGI application: routes from the list of pages, and the answers to errors."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from millhand.client import Client
from millhand.driver.detect import driver_of
from millhand.version import VERSION
from millhand.web.access import Access, Visitor, full_path_of, path_of, visitor_of
from millhand.web.assets import assets
from millhand.web.bulk import BulkRunner
from millhand.web.change import Change, ChangeRequest, make_change
from millhand.web.changes import CHANGES
from millhand.web.config import WebConfig
from millhand.web.database import WebDatabase
from millhand.web.form import NOTICE_COOKIE, decode_notice, encode_notice, local_path, notice_of, read_form
from millhand.web.hiding import hide_rules
from millhand.web.live import Watcher, events, live_state, loaded_at
from millhand.web.login import Login
from millhand.web.openapi import API, openapi
from millhand.web.page import Page, PageRequest
from millhand.web.policy import WithPolicy
from millhand.web.problem import ERRORS, problem_of
from millhand.web.rendering import render
from millhand.web.routes import PAGES, TABS
from millhand.web.user import Role

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from millhand.client import Database

POOL_SIZE = 4
_A_YEAR = "public, max-age=31536000, immutable"


class Dashboard:
    """
    The web page as an ASGI application. Make it with `dashboard`.

    Serve it alone, or mount it below a path of your own application.
    """

    def __init__(self, database: WebDatabase, config: WebConfig) -> None:
        self.config = config
        self.database = database
        self._hide = hide_rules(config.hide)
        self._watcher = Watcher(database)
        self._bulk = BulkRunner(database, f"{socket.gethostname()}_{secrets.token_hex(4)}", self._hide)
        app = Starlette(
            lifespan=self._lifespan,
            middleware=[Middleware(GZipMiddleware, minimum_size=1_000)],
            exception_handlers=dict.fromkeys(ERRORS, self._on_error),
        )
        self._access = Access(app, config=config, on_error=self._on_error)
        self.routes = [*Login(self._access, config, self._rendered).routes(), *self._routes()]
        app.router.routes = self.routes
        self._app = WithPolicy(self._access)

    def stop_live(self) -> None:
        """End live updates, because the server stops."""
        self._watcher.close()

    async def stop(self) -> None:
        """Stop background work and close connections. A mounted page gets no end event, so call it in your lifespan."""
        await self._bulk.stop()
        await self._watcher.stop()
        await self.database.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        await self._bulk.start()
        try:
            yield
        finally:
            await self.stop()

    def _routes(self) -> list[BaseRoute]:
        routes: list[BaseRoute] = [
            Route("/static/{name}", _asset, name="static"),
            Route("/live", self._live, name="live"),
            Route(f"{API}/live-state", self._live_state, name="live_state"),
            Route(f"{API}/openapi.json", self._openapi, name="openapi"),
        ]
        for page in PAGES:
            if page.template is not None:
                routes.append(Route(page.path, self._html(page, page.template), name=page.name))
            routes.append(Route(API + page.path, self._json(page), name=f"api_{page.name}"))
        for change in CHANGES:
            routes += [
                Route(change.path, self._change(change), methods=["POST"], name=change.name),
                Route(
                    API + change.path, self._api_change(change), methods=["POST"], name=f"api_{change.name}"
                ),
            ]
        return routes

    async def _live(self, request: Request) -> Response:
        """Answer with server-sent events; a browser that is one too many polls instead."""
        await self._asked(request)
        if self._watcher.is_full:
            raise HTTPException(503, "Too many browsers listen; poll live-state.")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        since = loaded_at(request.query_params.get("since"))
        return StreamingResponse(
            events(self._watcher, since), media_type="text/event-stream", headers=headers
        )

    async def _live_state(self, request: Request) -> Response:
        """Answer with a fingerprint for each region of the page, for browsers that poll."""
        asked = await self._asked(request)
        state = await live_state(asked.database)
        regions = {region: hashlib.sha256(text.encode()).hexdigest()[:16] for region, text in state.items()}
        return Response(msgspec.json.encode({"regions": regions}), media_type="application/json")

    async def _openapi(self, request: Request) -> Response:
        self._visitor(request)
        content = msgspec.json.encode(openapi(PAGES, CHANGES))
        return Response(content, media_type="application/json")

    def _html(self, page: Page, template: str) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            asked = await self._asked(request, page.role)
            data = await page.load(asked)
            return self._rendered(request, template, asked=asked, tab=page.tab, title=page.title, page=data)

        return respond

    def _json(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            data = await page.load(await self._asked(request, page.role))
            return Response(msgspec.json.encode(data), media_type="application/json")

        return respond

    def _change(self, change: Change) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            asked = await self._asked_change(change, request)
            done = await make_change(change, asked)
            path = done.path or local_path(asked.field("return_to")) or "/"
            response = RedirectResponse(request.scope.get("root_path", "") + path, status_code=303)
            response.set_cookie(
                NOTICE_COOKIE, encode_notice(notice_of(done)), max_age=60, httponly=True, samesite="lax"
            )
            return response

        return respond

    def _api_change(self, change: Change) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            done = await make_change(change, await self._asked_change(change, request))
            return Response(msgspec.json.encode(done), media_type="application/json")

        return respond

    async def _asked_change(self, change: Change, request: Request) -> ChangeRequest:
        user = self._visitor(request).user
        user.require(change.role)
        await self.database.open()
        return ChangeRequest(
            database=self.database,
            user=user,
            hide=self._hide,
            wake_bulk=self._wake_bulk,
            address=self._access.peer(request).address,
            now=self.config.clock.now(),
            path=request.path_params,
            form=await read_form(request),
        )

    async def _wake_bulk(self) -> None:
        await self._bulk.start()  # a mounted application gets no start event
        self._bulk.wake_event.set()

    def _visitor(self, request: Request) -> Visitor:
        visitor = visitor_of(request)
        if visitor is None:
            raise HTTPException(403, "This needs a user.")
        return visitor

    async def _asked(self, request: Request, role: Role = Role.VIEWER) -> PageRequest:
        user = self._visitor(request).user
        user.require(role)
        await self.database.open()
        return PageRequest(
            database=self.database,
            user=user,
            hide=self._hide,
            now=self.config.clock.now(),
            orphans=self.config.orphans,
            path=request.path_params,
            query=dict(request.query_params),
        )

    def _rendered(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        **values: Any,  # noqa: ANN401 - of a template
    ) -> HTMLResponse:
        visitor = visitor_of(request)
        html = render(
            template,
            prefix=request.scope.get("root_path", ""),
            now=self.config.clock.now(),
            config=self.config,
            tabs=TABS,
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
            response.delete_cookie(NOTICE_COOKIE, httponly=True, samesite="lax")
        return response

    def _on_error(self, request: Request, error: Exception) -> Response:
        """Answer with an error page, or below the API with a problem as RFC 9457 describes it."""
        problem = problem_of(error)
        headers = error.headers if isinstance(error, HTTPException) else None
        if path_of(request).startswith(API):
            content = msgspec.json.encode(problem)
            return Response(content, problem.status, headers, "application/problem+json")
        page = self._rendered(
            request, "error.html", status=problem.status, title=problem.title, detail=problem.detail
        )
        page.headers.update(headers or {})
        return page


def dashboard(database: Client | Database, config: WebConfig | None = None) -> Dashboard:
    """
    Return the web page of a database as an ASGI application.

    Args:
        database: As `Client` takes it, or a client that you start and stop yourself.
        config: The settings. Without `authenticate` and `users`, the page is closed.

    Raises: ConfigError for an invalid database or setting.
    """
    config = config or WebConfig()
    if isinstance(database, Client):
        return Dashboard(WebDatabase(database.driver, config.clock, is_owner=False), config)
    size = POOL_SIZE if isinstance(database, str) else None
    return Dashboard(WebDatabase(driver_of(database, config.schema, size), config.clock), config)


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
