"""The pages, the API and the changes of one database."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from millhand.shells.settings.web_user import Role
from millhand.shells.web.change import Change, ChangeRequest, make_change
from millhand.shells.web.database import WebDatabase
from millhand.shells.web.form import ID_MAX, local_path, notice_of, read_form, set_notice
from millhand.shells.web.hiding import hide_rules
from millhand.shells.web.page import Page, PageRequest
from millhand.web.access import require_visitor
from millhand.web.bulk import BulkRunner
from millhand.web.config import WebConfig
from millhand.web.export import FORMATS, Export, ExportFormat
from millhand.web.live import Watcher, live_state
from millhand.web.live_response import LivePages, live_response, state_response
from millhand.web.openapi import API, openapi
from millhand.web.routes import CHANGES, PAGES
from millhand.web.time_zone import zone_of


class DatabasePages:
    """
    What the page shows and changes in one database.

    `render` returns a page for a request, a template and its values. `address` returns that of the browser.
    """

    def __init__(
        self,
        database: WebDatabase,
        config: WebConfig,
        *,
        render: Callable[..., Response],
        address: Callable[[Request], str],
    ) -> None:
        self.database = database
        self._address = address
        self._bulk = BulkRunner(
            database, f"{socket.gethostname()}_{secrets.token_hex(4)}", hide_rules(config.hide)
        )
        self._config = config
        self._export = Export()
        self._hide = hide_rules(config.hide)
        self._render = render
        self._watcher = Watcher(
            partial(live_state, database), database.clock, busy_seconds=lambda: database.times.busy_seconds
        )
        self._live_pages = LivePages(self._watcher)

    async def start(self) -> None:
        """Work on changes of many jobs."""
        await self._bulk.start()

    def stop_live(self) -> None:
        """End live updates, because the server stops."""
        self._watcher.close()

    async def stop(self) -> None:
        await self._bulk.stop()
        await self._watcher.stop()
        await self.database.close()

    def routes(self) -> list[Route]:
        """Return the routes, with paths below those of the database."""
        routes: list[Route] = [
            Route("/live", self._live, name="live"),
            Route(f"{API}/live-state", self._live_state, name="live_state"),
            Route(f"{API}/openapi.json", self._openapi, name="openapi"),
        ]
        routes += [
            Route(f"{prefix}/jobs.{name}", self._exported(form), name=f"jobs_{name}")
            for name, form in FORMATS.items()
            for prefix in ("", API)
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
        await self._asked(request)
        return live_response(self._watcher, request)

    async def _live_state(self, request: Request) -> Response:
        return state_response(await live_state((await self._asked(request)).database))

    async def _openapi(self, request: Request) -> Response:
        require_visitor(request)
        prefix = request.scope.get("root_path", "")
        servers = [{"url": prefix}] if prefix else []
        content = msgspec.json.encode({**openapi(PAGES, CHANGES), "servers": servers})
        return Response(content, media_type="application/json")

    def _html(self, page: Page, template: str) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            asked = await self._asked(request, page.role)
            data = await self._live_pages.load(page, asked, request.headers.get("Millhand-Look", ""))
            return self._render(request, template, asked=asked, tab=page.tab, title=page.title, page=data)

        return respond

    def _json(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            data = await page.load(await self._asked(request, page.role))
            return Response(msgspec.json.encode(data), media_type="application/json")

        return respond

    def _exported(self, form: ExportFormat) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            parts = await self._export.begin(await self._asked(request), form)
            name = request.url.path.rpartition("/")[2]
            headers = {"Content-Disposition": f'attachment; filename="{name}"'}
            return StreamingResponse(parts, media_type=form.media_type, headers=headers)

        return respond

    def _change(self, change: Change) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            asked = await self._asked_change(change, request)
            done = await make_change(change, asked)
            path = done.path or local_path(asked.field("return_to")) or "/"
            prefix = request.scope.get("root_path", "")
            response = RedirectResponse(prefix + path, status_code=303)
            set_notice(response, notice_of(done, self.database.name), prefix)
            return response

        return respond

    def _api_change(self, change: Change) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            done = await make_change(change, await self._asked_change(change, request))
            return Response(msgspec.json.encode(done), media_type="application/json")

        return respond

    async def _asked_change(self, change: Change, request: Request) -> ChangeRequest:
        user = require_visitor(request).user
        user.require(change.role)
        await self.database.open()
        return ChangeRequest(
            database=self.database,
            user=user,
            hide=self._hide,
            wake_bulk=self._wake_bulk,
            address=self._address(request),
            now=self._config.clock.now(),
            path=_path_of(request),
            form=await read_form(request),
            zone=zone_of(request.cookies, self._config.time_zone or "UTC"),
        )

    async def _wake_bulk(self) -> None:
        await self._bulk.start()  # a mounted application gets no start event
        self._bulk.wake_event.set()

    async def _asked(self, request: Request, role: Role = Role.VIEWER) -> PageRequest:
        user = require_visitor(request).user
        user.require(role)
        await self.database.open()
        return PageRequest(
            database=self.database,
            user=user,
            hide=self._hide,
            now=self._config.clock.now(),
            orphans=self._config.orphans,
            path=_path_of(request),
            query=dict(request.query_params),
            zone=zone_of(request.cookies, self._config.time_zone or "UTC"),
        )


def _path_of(request: Request) -> Mapping[str, Any]:
    """Return the parameters of the path. Raises: HTTPException for an id that no row can have."""
    if request.path_params.get("id", 0) > ID_MAX:
        raise HTTPException(404)
    return request.path_params
