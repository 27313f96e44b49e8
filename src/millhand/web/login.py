"""The login page, and the end of a session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from millhand.core.log.logger import logger_of
from millhand.shells.web.form import local_path
from millhand.web.access import LOGIN, Access
from millhand.web.config import WebConfig
from millhand.web.credential import NO_PASSWORD, fingerprint, is_password
from millhand.web.session import DURATION

LOGOUT = "/logout"
TEMPLATE = "login.html"

logger = logger_of(__name__)


class Login:
    """
    Logs users in by a password or a token, and out.

    `render` returns the login page for a request, a status and the values of the template.
    """

    def __init__(self, access: Access, config: WebConfig, render: Callable[..., Response]) -> None:
        self._access = access
        self._config = config
        self._render = render
        # One check fills a core for a fifth of a second. Several at once would pass the limit of failures together.
        self._checking = asyncio.Lock()

    def routes(self) -> list[Route]:
        return [
            Route(LOGIN, self._show, methods=["GET"], name="login"),
            Route(LOGIN, self._log_in, methods=["POST"], name="log_in"),
            Route(LOGOUT, self._log_out, methods=["POST"], name="logout"),
        ]

    async def _show(self, request: Request) -> Response:
        token = request.query_params.get("token")
        next_path = local_path(request.query_params.get("next", "")) or "/"
        if token and self._config.is_local:  # the URL that `millhand web` printed
            return await self._answer(request, "", token, next_path)
        if not self._config.has_login:
            raise HTTPException(404)
        return self._page(request, next_path)

    async def _log_in(self, request: Request) -> Response:
        if not self._config.has_login:
            raise HTTPException(404)
        form = parse_qs((await request.body()).decode(errors="replace"))
        name, secret, next_path = (form.get(field, [""])[-1] for field in ("name", "secret", "next"))
        return await self._answer(request, name, secret, local_path(next_path) or "/")

    async def _log_out(self, request: Request) -> Response:
        response = RedirectResponse(self._path(request, LOGIN), status_code=303)
        response.delete_cookie(
            self._access.cookie_name(request),
            path=self._path(request, "/"),
            secure=self._access.peer(request).is_secure,  # a browser keeps a __Host- cookie otherwise
            httponly=True,
            samesite="lax",
        )
        return response

    async def _answer(self, request: Request, name: str, secret: str, next_path: str) -> Response:
        """Return the answer to a login: the page that was asked for, or the login page again."""
        peer = self._access.peer(request)
        async with self._checking:
            self._access.failures.check(peer.address)
            found = await self._user(name, secret)
            if found is None:
                self._access.failures.add(peer.address)
        if found is None:
            logger.warning("login failed", extra={"address": peer.address})
            return self._page(request, next_path, status=401, error="This name and password do not match.")
        response = RedirectResponse(self._path(request, next_path), status_code=303)
        response.set_cookie(
            self._access.cookie_name(request),
            self._access.sessions.new(
                found, fingerprint(self._config.users[found]), self._config.clock.now()
            ),
            max_age=int(DURATION.total_seconds()),
            path=self._path(request, "/"),
            secure=peer.is_secure,
            httponly=True,
            samesite="lax",
        )
        logger.info("user logged in", extra={"user": found, "address": peer.address})
        return response

    async def _user(self, name: str, secret: str) -> str | None:
        """Return the name of the user with this password or, without a name, with this token."""
        if not name:
            return self._access.name_by_token(secret)
        user = self._config.users.get(name)
        hashed = user.password if user and user.password else NO_PASSWORD
        return name if await asyncio.to_thread(is_password, secret, hashed) else None

    def _page(self, request: Request, next_path: str, *, status: int = 200, error: str = "") -> Response:
        return self._render(
            request, TEMPLATE, status=status, title="Log in", next_path=next_path, error=error
        )

    def _path(self, request: Request, path: str) -> str:
        return f"{request.scope.get('root_path', '')}{path}"
