"""The web page, served by uvicorn in a thread of its own, on any free port."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from several import CLOSED_PORT
from visitors import ADMIN

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.orphans import Mode, OrphansConfig
from millhand.web import Dashboard, User, WebConfig, dashboard


def shop_page(url: str, schema: str = "", user: User = ADMIN) -> Dashboard:
    """Return the page of the invented shop as one user sees it."""
    orphans = OrphansConfig(mode=Mode.DELETE)
    config = WebConfig(authenticate=lambda _: user, name="shop", orphans=orphans, schema=schema)
    return dashboard(url, config)


def shops_page(url: str, production: str, staging: str, user: User = ADMIN) -> Dashboard:
    """Return the page of two schemas and of a database that is away."""
    config = WebConfig(
        authenticate=lambda _: user,
        colors={"production": "red", "staging": "green"},
        orphans=OrphansConfig(mode=Mode.DELETE),
    )
    databases = {"production": AsyncpgDriver(url, production), "staging": AsyncpgDriver(url, staging)}
    return dashboard(databases=databases | {"away": CLOSED_PORT}, config=config)


@contextlib.contextmanager
def serving(app: Dashboard) -> Iterator[str]:
    """Serve the application and return its address. Requests wait in the socket until the server is ready."""
    # A live connection would hold the server for ever, so it waits a second for them.
    config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
