"""
Millhand in a FastAPI or Starlette application: a client that starts and stops with the application.

    app = FastAPI(lifespan=millhand_lifespan(os.environ["DATABASE_URL"], config))

    @app.post("/orders")
    async def order(client: Annotated[Client, Depends(get_client)]) -> None: ...

If its configuration has queues, the client also works jobs in the application's process. Each process of a server has
its own client.

`page_user` lets your users into the web page: `dashboard(database, WebConfig(authenticate=page_user))`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import HTTPConnection

from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.shells.settings.web_user import Role, User

if TYPE_CHECKING:
    from millhand.client import Database

App = TypeVar("App")
Lifespan = Callable[[App], AbstractAsyncContextManager[Any]]

ATTRIBUTE = "millhand"
SCOPE = "millhand:"


def millhand_lifespan(
    database: Database | Callable[[App], Database],
    config: Config | None = None,
    *,
    around: Lifespan[App] | None = None,
) -> Lifespan[App]:
    """
    Return a lifespan that starts a client with the application and stops it gracefully at the end.

    `database` is a database as `Client` takes it, or a function of the application that returns one. `around` is your own
    lifespan, for example to open a pool: it starts before the client and ends after it, and its state is kept.

    Raises: ConfigError for an invalid database; at the start, the errors of `Client.start`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[Any]:
        async with contextlib.nullcontext() if around is None else around(app) as state:
            given = database(app) if callable(database) else database
            async with Client(given, config) as client:
                setattr(app.state, ATTRIBUTE, client)  # type: ignore[attr-defined]  # of every Starlette
                try:
                    yield state
                finally:
                    delattr(app.state, ATTRIBUTE)  # type: ignore[attr-defined]

    return lifespan


def page_user(request: HTTPConnection) -> User | None:
    """
    Return the web page's user for a request that Starlette's `AuthenticationMiddleware` has authenticated.

    Pass it to `WebConfig(authenticate=page_user)`. The credentials' scope is the role: `millhand:viewer`,
    `millhand:operator` or `millhand:admin`; of several, the highest one counts.
    """
    roles = [role for role in Role if f"{SCOPE}{role.label}" in request.auth.scopes]
    if not roles or not request.user.is_authenticated:
        return None
    return User(name=request.user.display_name, role=max(roles))


def get_client(connection: HTTPConnection) -> Client:
    """
    Return the application's client. Use it as a dependency in FastAPI, or call it with the request in Starlette.

    Raises: ConfigError if the application has none.
    """
    client = getattr(connection.app.state, ATTRIBUTE, None)
    if client is None:
        raise ConfigError(
            "application must have started a client, got none; pass lifespan=millhand_lifespan(…), and enter the "
            "application's lifespan in tests"
        )
    return client  # type: ignore[no-any-return]  # set above
