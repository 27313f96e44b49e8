"""Serves the web page by uvicorn on an event loop whose process handles the signals itself."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence

import uvicorn

from millhand.core.errors import ConfigError
from millhand.shells.web.database import WebDatabase
from millhand.web.app import Dashboard

# A live update ends at once when the server stops, and every other answer is short.
STOP_SECONDS = 1
_BACKLOG = 2_048


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address. Raises: ConfigError if it cannot, as for a port in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        errno = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(errno) if errno and errno > 0 else "no address of this machine"
        raise ConfigError(
            f"address {host}:{port} must be free and of this machine, got: {reason}; "
            "stop the program that uses it, or set another --port"
        ) from error


class PageServer(uvicorn.Server):
    """
    Serves a page until `stop`.

    Concurrency: belongs to one event loop. It handles no signals.
    """

    def __init__(self, page: Dashboard, *, prefix: str = "") -> None:
        super().__init__(
            uvicorn.Config(
                page,
                access_log=False,
                lifespan="on",
                log_config=None,
                log_level="warning",
                proxy_headers=False,  # the page trusts the networks of its settings only
                root_path=prefix,
                server_header=False,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self._page = page

    @property
    def databases(self) -> Sequence[WebDatabase]:
        return self._page.databases

    def stop(self) -> None:
        """End live updates and the server."""
        self._page.stop_live()
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
