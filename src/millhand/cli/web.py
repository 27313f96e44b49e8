"""`millhand web`: serve the web page until a signal ends it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from millhand.cli.command import Command
from millhand.cli.database import database
from millhand.cli.param_types import Whole
from millhand.errors import ConfigError
from millhand.log.logger import logger_of
from millhand.observe.log import configure_logging
from millhand.process import DONE
from millhand.settings.load import load_settings

if TYPE_CHECKING:
    from millhand.web import Dashboard

HOST = "127.0.0.1"
PORT = 8440

logger = logger_of(__name__)


@click.command(cls=Command, example="millhand web --port 8440")
@click.option("--host", default=HOST, metavar="ADDRESS", help=f"Listen on this address; {HOST} by default.")
@click.option(
    "--port",
    type=Whole(0, 65_535),
    default=PORT,
    metavar="N",
    help=f"Listen on this port; {PORT} by default.",
)
@click.pass_obj
def web(config_path: Path | None, *, host: str, port: int) -> int:
    """
    Serve the web page until Ctrl-C.

    It shows the jobs, queues and clients of the database, of every language.
    """
    settings = load_settings(config_path)
    configure_logging(settings.get("log.format"), settings.get("log.level"))
    with database(settings) as base:
        _serve(_dashboard(base.url), host, port)
    return DONE


def _dashboard(url: str) -> Dashboard:
    try:
        from millhand.web import dashboard  # noqa: PLC0415 - the extra `web` may not be installed
    except ImportError as error:
        raise ConfigError(
            f"the web page must have its libraries, got {error}; write: pip install 'millhand[web]'"
        ) from error
    return dashboard(url)


def _serve(app: Dashboard, host: str, port: int) -> None:
    import uvicorn  # noqa: PLC0415 - as above

    uvicorn.run(app, host=host, port=port, log_config=None, access_log=False)
