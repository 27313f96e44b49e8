"""
Who may come in. Every request passes here before a route sees it, so a new route is closed to visitors by default.

    a bearer token      users whose `token` it is; the request needs no protection from forged forms
    authenticate        the user that your application returns
    the proxy's header  users by name, from trusted networks only
    the session         users who logged in

Roles are checked where a change is made, and limits to queues and kinds where rows are loaded.
"""

from __future__ import annotations

import hmac
import inspect
import math
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from millhand.shells.settings.web_user import User
from millhand.shells.web.form import BODY_BYTES_MAX, FIELDS_MAX
from millhand.web.config import ANY_USER, WebConfig
from millhand.web.credential import fingerprint, hashed_token
from millhand.web.origin import (
    LOCAL_NAMES,
    Peer,
    host_name,
    is_same_origin,
    limited_address,
    networks_of,
    peer_of,
)
from millhand.web.place import is_api
from millhand.web.session import Session, Sessions, cookie_name

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGIN = "/login"
CSRF_FIELD, CSRF_HEADER = "csrf", "millhand-csrf"
NUM_FAILURES_MAX, FAILURE_SECONDS = 5, 60.0

CLOSED = (
    "This page is closed, because no user may see it. Pass WebConfig(authenticate=…), a function from the request to "
    "User or None, or WebConfig(users=…) to dashboard()."
)
_OLD_FORM = "The form is of another session or too old. Load the page again and repeat it."
_COOKIE_OF_PROGRAM = (
    "A cookie is not enough for a change by a program. Send the header 'Authorization: Bearer TOKEN', with the token of "
    "a user, and no cookie."
)
VISITOR_BYTES_MAX = 16 * 1024  # a login has a name and a password
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_NUM_ADDRESSES_MAX = 10_000
_VISITOR = "millhand.visitor"


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent a request. `csrf` is the token that the visitor's forms must bring; None with a bearer token."""

    user: User
    csrf: str | None = None


def visitor_of(request: Request) -> Visitor | None:
    """Return who sent a request, or None for a path that is open to all."""
    visitor: Visitor | None = request.scope.get(_VISITOR)
    return visitor


def require_visitor(request: Request) -> Visitor:
    """Return who sent a request. Raises: HTTPException with status 403 for a path that is open to all."""
    visitor = visitor_of(request)
    if visitor is None:
        raise HTTPException(403, "This needs a user.")
    return visitor


def with_visitor(scope: Mapping[str, Any], visitor: Visitor | None) -> MutableMapping[str, Any]:
    """Return a request's scope with another visitor."""
    return {**scope, _VISITOR: visitor}


class Failures:
    """
    Counts failed logins by address: five a minute.

    It keeps the last 10,000 addresses, so that a visitor with many addresses does not fill the memory.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, address: str) -> None:
        times = self._times.setdefault(limited_address(address), deque(maxlen=NUM_FAILURES_MAX))
        times.append(self._monotonic())
        self._times.move_to_end(limited_address(address))
        if len(self._times) > _NUM_ADDRESSES_MAX:
            self._times.popitem(last=False)

    def check(self, address: str) -> None:
        """Return if the address may try. Raises: HTTPException with status 429."""
        times = self._times.get(limited_address(address))
        if times is None or len(times) < NUM_FAILURES_MAX:
            return
        if (wait := times[0] + FAILURE_SECONDS - self._monotonic()) > 0:
            seconds = math.ceil(wait)
            raise HTTPException(
                429,
                f"Five logins from this address failed within a minute. Try again in {seconds} s.",
                {"Retry-After": str(seconds)},
            )


class Access:
    """The application behind its access checks. `on_error` renders a refusal."""

    def __init__(
        self, app: ASGIApp, *, config: WebConfig, on_error: Callable[[Request, Exception], Response]
    ) -> None:
        self._app = app
        self._config = config
        self._networks = networks_of(config.proxy_networks)
        self._on_error = on_error
        self.failures = Failures(config.clock.monotonic)
        self.sessions = Sessions(config.secret or secrets.token_urlsafe(32))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # the page has none, and this class would not check it
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            answer = await self._check(request)
        except HTTPException as error:
            answer = self._on_error(request, error)
        if isinstance(answer, Response):
            await answer(scope, receive, send)
        else:
            await self._app(scope, answer, send)

    async def _check(self, request: Request) -> Receive | Response:
        """Return how the application receives the request's body, or the answer to a refused request."""
        self._check_host(request)
        path = path_of(request)
        is_change = request.method not in _SAFE_METHODS
        if is_change and not is_same_origin(request.headers):
            raise HTTPException(
                403, "A page of another site sent this form. Open the page itself and repeat it there."
            )
        visitor = await self._visitor(request)
        request.scope[_VISITOR] = visitor
        if visitor is None and path != LOGIN and not path.startswith("/static/"):
            return self._refuse(request, path)
        max_bytes = VISITOR_BYTES_MAX if visitor is None else BODY_BYTES_MAX
        body = await _body(request, max_bytes) if is_change else None
        if visitor is not None and visitor.csrf is not None and body is not None and path != LOGIN:
            _check_form(request, body, visitor.csrf)
        return request.receive if body is None else _receiver(body, request.receive)

    def _check_host(self, request: Request) -> None:
        """Refuse the name of another site that points to this machine, by which its scripts could read the page."""
        host = request.headers.get("host", "")
        if self._config.is_local and host_name(host) not in LOCAL_NAMES:
            raise HTTPException(
                421,
                f"This page answers to localhost and 127.0.0.1 only, got {host!r}. Open it by one of them.",
            )

    def peer(self, request: Request) -> Peer:
        return peer_of(
            address=request.client.host if request.client else None,
            scheme=request.scope.get("scheme", "http"),
            headers=request.headers,
            networks=self._networks,
        )

    async def _visitor(self, request: Request) -> Visitor | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # A host application may have bearer tokens of its own, which `authenticate` knows.
        if scheme.lower() == "bearer" and self._config.has_tokens:
            return self._by_token(request, token.strip())
        if self._config.authenticate is not None:
            found = self._config.authenticate(request)
            user = await found if inspect.isawaitable(found) else found
            return None if user is None else self._with_forms(user, f"user {user.name}")
        if self._config.proxy_header and (user := self._by_proxy(request)):
            return self._with_forms(user, f"user {user.name}")
        session = self.session(request)
        if session is None:
            return None
        return self._with_forms(self._config.users[session.name].user(session.name), session.id)

    def _with_forms(self, user: User, key: str) -> Visitor:
        return Visitor(user=user, csrf=self.sessions.csrf(key))

    def _by_token(self, request: Request, token: str) -> Visitor:
        address = self.peer(request).address
        self.failures.check(address)
        name = self.name_by_token(token)
        if name is None:
            self.failures.add(address)
            raise HTTPException(401, "The token is not valid.", {"WWW-Authenticate": "Bearer"})
        return Visitor(user=self._config.users[name].user(name))

    def name_by_token(self, token: str) -> str | None:
        hashed, found = hashed_token(token), None
        for name, user in self._config.users.items():
            if hmac.compare_digest(user.token, hashed):
                found = name
        return found

    def _by_proxy(self, request: Request) -> User | None:
        names = request.headers.getlist(self._config.proxy_header)
        if len(names) != 1 or not names[0] or not self.peer(request).is_proxied:
            return None
        name = names[0]
        user = self._config.users.get(name) or self._config.users.get(ANY_USER)
        return None if user is None else user.user(name)

    def session(self, request: Request) -> Session | None:
        """Return the session of a request, if its user still has the same password and token."""
        cookie = request.cookies.get(self.cookie_name(request))
        session = self.sessions.read(cookie, self._config.clock.now()) if cookie else None
        user = self._config.users.get(session.name) if session else None
        is_current = session and user and user.can_log_in and fingerprint(user) == session.fingerprint
        return session if is_current else None

    def cookie_name(self, request: Request) -> str:
        return cookie_name(
            is_secure=self.peer(request).is_secure,
            prefix=request.scope.get("root_path", ""),
            port=(request.scope.get("server") or (None, None))[1],
        )

    def _refuse(self, request: Request, path: str) -> Response:
        """Return the way to the login page, or an error where there is none."""
        if not self._config.is_open:
            raise HTTPException(403, CLOSED)
        if not self._config.has_login:
            raise HTTPException(403, "You are not a user of this page. Ask the person who runs it.")
        login = f"{request.scope.get('root_path', '')}{LOGIN}?{urlencode({'next': full_path_of(request)})}"
        if request.method not in _SAFE_METHODS or is_api(path):
            raise HTTPException(401, "Log in, or send a bearer token.", {"WWW-Authenticate": "Bearer"})
        return RedirectResponse(login, status_code=303)


def path_of(request: Request) -> str:
    """Return the path below the prefix at which the page is mounted; `request.url` fails for some Host headers."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", "")) or "/"


def full_path_of(request: Request) -> str:
    """Return the path below the prefix with its query."""
    query = request.scope.get("query_string", b"").decode("latin-1")
    return f"{path_of(request)}?{query}" if query else path_of(request)


async def _body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a change. Raises: HTTPException with status 413 if it is too large."""
    chunks, num_bytes = [], 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise HTTPException(413, f"This request must have at most {max_bytes:,} bytes.")
        chunks.append(chunk)
    return b"".join(chunks)


def _receiver(body: bytes, receive: Receive) -> Receive:
    """Return a function that receives a body that was read already, and then what follows it."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


def _check_form(request: Request, body: bytes, expected: str) -> None:
    given = request.headers.get(CSRF_HEADER) or _form_field(request.headers, body)
    if not hmac.compare_digest(given.encode(), expected.encode()):
        is_page = _is_form(request.headers) or CSRF_HEADER in request.headers
        raise HTTPException(403, _OLD_FORM if is_page else _COOKIE_OF_PROGRAM)


def _is_form(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip() == "application/x-www-form-urlencoded"


def _form_field(headers: Mapping[str, str], body: bytes) -> str:
    if not _is_form(headers):
        return ""
    try:
        fields = parse_qs(body.decode(errors="replace"), max_num_fields=FIELDS_MAX)
    except ValueError:
        return ""
    return fields.get(CSRF_FIELD, [""])[-1]
