"""
Millhand in a FastAPI or Starlette application: a client that starts and stops with it, and the way to it.

    app = FastAPI(lifespan=millhand_lifespan(os.environ["DATABASE_URL"], config))

    @app.post("/orders")
    async def order(client: Annotated[Client, Depends(get_client)]) -> None: ...

With queues in its configuration the client works jobs as well, in the process of the application. Each process of a
server has one of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import HTTPConnection

from millhand.client import Client
from millhand.config import Config
from millhand.errors import ConfigError

if TYPE_CHECKING:
    from millhand.client import Database

App = TypeVar("App")
Lifespan = Callable[[App], AbstractAsyncContextManager[Any]]

ATTRIBUTE = "millhand"


def millhand_lifespan(
    database: Database | Callable[[App], Database],
    config: Config | None = None,
    *,
    around: Lifespan[App] | None = None,
) -> Lifespan[App]:
    """
    Return a lifespan that starts a client with the application, and stops it in order before the application ends.

    `database` is as `Client` takes it, or a function of the application that gives it, for a pool that `around` opens:
    a lifespan of yours, which begins before the client and ends after it. What that yields as state is kept.

    Raises: ConfigError at once for what is known to be none; at the start, as `Client.start`.
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


def get_client(connection: HTTPConnection) -> Client:
    """
    Return the application's client; a dependency of FastAPI's, and for Starlette a function of the request.

    Raises: ConfigError if the application has none.
    """
    client = getattr(connection.app.state, ATTRIBUTE, None)
    if client is None:
        raise ConfigError(
            "application must have been started with a client, got none; write lifespan=millhand_lifespan(…), and in "
            "tests enter the application's lifespan"
        )
    return client  # type: ignore[no-any-return]  # put there above
