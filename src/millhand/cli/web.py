"""`millhand web`: serve the web page until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import ipaddress
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click
import msgspec

from millhand.core.errors import ConfigError, error_type
from millhand.core.log.logger import logger_of
from millhand.db.driver.detect import driver_at
from millhand.db.driver.protocol import Driver
from millhand.db.driver.url import checked_url
from millhand.engine.error_handler import error_text
from millhand.observe.log import configure_logging
from millhand.process.signals import StopRequested, StopSignals
from millhand.shells.cli.chosen_database import chosen_name
from millhand.shells.cli.command import Choice, Command
from millhand.shells.cli.database import Database, database, migrate_all_lines, named_database, opened
from millhand.shells.cli.output import WrongUse
from millhand.shells.cli.param_types import OneOf, Whole, not_empty
from millhand.shells.exit_code import DONE
from millhand.shells.settings.catalog import WEB_HOST, WEB_PORT
from millhand.shells.settings.load import DEFAULT, Settings, load_settings
from millhand.shells.settings.web_database import DatabaseConfig, check_names, check_one
from millhand.shells.settings.web_user import RoleName
from millhand.web import UserConfig, WebConfig, credential

if TYPE_CHECKING:
    from millhand.web.server import PageServer

POOL_SIZE = 4
# Retrying and pausing can be undone; deleting and inserting need --role admin.
LOCAL_ROLE: RoleName = "operator"
# The setting of the workers. Without it the page does not know that of the leader.
RETENTION = "worker.completed_job_retention"
SECRET_VARIABLE = "MILLHAND_WEB_SECRET"  # noqa: S105 - the name of a variable
NO_USER = (
    "host must be 127.0.0.1 or ::1 while the page has no users, got {host!r}: anyone who reaches the address could read "
    "and change jobs; add a user to [web.users] of millhand.toml, or set proxy_header and proxy_networks there"
)
NO_WAY_IN = (
    "users must have a password or a token, got none with either; make one with millhand web --hash-password or "
    "--new-token, or set proxy_header and proxy_networks"
)

logger = logger_of(__name__)


@click.command(
    cls=Command,
    choice=Choice.ONE,
    example="millhand web --port 8440",
    epilog="Without users in the settings, the page is for you alone: it listens on this machine only, and prints a URL "
    "with a token that is valid until the command ends.",
)
@click.option(
    "--host", callback=not_empty, metavar="ADDRESS", help=f"Listen on this address; {WEB_HOST} by default."
)
@click.option(
    "--port",
    type=Whole(0, 65_535),
    metavar="N",
    help=f"Listen on this port; {WEB_PORT} by default, 0 for any.",
)
@click.option(
    "--role",
    type=OneOf(["viewer", "operator", "admin"]),
    help=f"What the printed URL allows; {LOCAL_ROLE} by default: retry, cancel and pause, but not delete and insert.",
)
@click.option(
    "--hash-password", is_flag=True, help="Ask for a password, print its hash for millhand.toml, and exit."
)
@click.option("--new-token", is_flag=True, help="Print a new token and its hash for millhand.toml, and exit.")
@click.pass_obj
def web(
    config_path: Path | None,
    *,
    host: str | None,
    port: int | None,
    role: RoleName | None,
    hash_password: bool,
    new_token: bool,
) -> int:
    """
    Serve the web page until Ctrl-C.

    It shows the jobs, queues and clients of the database, of every language. Without --database, it serves all databases
    of [databases].
    """
    if hash_password:
        click.echo(f'password = "{credential.hashed_password(_asked_password())}"')
        return DONE
    if new_token:
        _print_token()
        return DONE
    flags = {"web.host": ("--host", host), "web.port": ("--port", None if port is None else str(port))}
    given = {path: (flag, text) for path, (flag, text) in flags.items() if text is not None}
    settings = page_choice(load_settings(config_path, flags=given))
    configure_logging(
        settings.get("log.format"), settings.get("log.level"), schema=settings.get("log.schema")
    )
    page = page_settings(settings, role)
    # A signal before the server runs is a stop like any other.
    with contextlib.suppress(StopRequested), StopSignals() as signals:
        if page.databases:
            asyncio.run(_serve_several(page, signals))
        else:
            with database(settings) as base:
                asyncio.run(_serve(settings, base, page, signals))
    logger.info("web page stopped")
    return DONE


def page_settings(settings: Settings, role: RoleName | None, names: Sequence[str] = ()) -> PageSettings:
    """Return how the settings serve the page, for these databases or all. Raises: ConfigError; WrongUse."""
    users, token = settings.get("web.users"), None
    if users and role is not None:
        raise WrongUse(
            f"--role must be left out with users in the settings, got {role!r}; set the role of each user there"
        )
    if not users:
        token = credential.new_token()
        users = {_user_name(): UserConfig(role=role or LOCAL_ROLE, token=credential.hashed_token(token))}
    with settings.errors_with_origin("web"):
        if token is not None and not _is_loopback(settings.get("web.host")):
            raise ConfigError(NO_USER.format(host=settings.get("web.host")))
        databases = _page_databases(settings)
        if names:
            check_names(databases, {}, users)
            databases = {name: databases[name] for name in names}
            users = {name: _within(user, names) for name, user in users.items()}
        config = WebConfig(
            colors={name: given.color for name, given in databases.items()},
            completed_job_retention=None
            if settings.origin(RETENTION) == DEFAULT
            else settings.get(RETENTION),
            hide=settings.get("web.hide"),
            is_local=token is not None,
            name=settings.get("web.name"),
            orphans=settings.orphans_config() if settings.section("orphans") else None,
            proxy_header=settings.get("web.proxy_header"),
            proxy_networks=settings.get("web.proxy_networks"),
            schema=settings.get("database.schema"),
            secret=os.environ.get(SECRET_VARIABLE, ""),
            time_zone=settings.get("web.time_zone"),
            users=users,
            views=settings.get("web.views"),
        )
        if databases:
            check_names(databases, config.colors, config.users)
        else:
            check_one(config.users)
        if not config.is_open:
            raise ConfigError(NO_WAY_IN)
        return PageSettings(
            config=config,
            databases={name: _driver_of(settings, name, given) for name, given in databases.items()},
            host=settings.get("web.host"),
            port=settings.get("web.port"),
            prefix=checked_prefix(settings.get("web.prefix")),
            token=token,
        )


def page_choice(settings: Settings) -> Settings:
    """Return the settings for the one database that the page serves, or unchanged for several. Raises: WrongUse."""
    name = chosen_name(settings)
    return settings if name is None else settings.in_database(name)


def _page_databases(settings: Settings) -> Mapping[str, DatabaseConfig]:
    """Return the databases of the page, or none for the one of the settings. Raises: ConfigError."""
    own: Mapping[str, DatabaseConfig] = settings.get("web.databases")
    if own and settings.databases:
        raise ConfigError(
            f"databases must be left out where [databases] names them, got {', '.join(own)}; move them there"
        )
    return own if settings.database_name else own or settings.databases


def _within(user: UserConfig, names: Sequence[str]) -> UserConfig:
    """Return a user with the roles in these databases."""
    if user.databases is None:
        return user
    return replace(user, databases={name: role for name, role in user.databases.items() if name in names})


def _driver_of(settings: Settings, name: str, given: DatabaseConfig) -> Driver:
    """Return the driver of one of several databases, not open. Raises: ConfigError."""
    if name in settings.databases:
        named = settings.in_database(name)
        return named_database(named).driver(named, POOL_SIZE)
    url = os.environ.get(given.url_variable)
    if not url:
        raise ConfigError(
            f"databases.{name}: variable {given.url_variable} must have the URL of the database, got none; set it in "
            "the environment"
        )
    try:
        checked_url(url)
        return driver_at(url, given.schema, pool_size=POOL_SIZE)
    except ConfigError as error:
        raise ConfigError(f"databases.{name}: {error}") from error


class PageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    How to serve the page.

    `databases` is empty for the one database of the settings. `token` is that of the person at this machine, None with
    users in the settings.
    """

    config: WebConfig
    databases: Mapping[str, Driver]
    host: str
    port: int
    prefix: str
    token: str | None

    def server(self, driver: Driver | None = None) -> tuple[PageServer, socket.socket]:
        """Return the server of one database or several, and the socket on which it listens. Raises: ConfigError."""
        try:
            from millhand.web import dashboard  # noqa: PLC0415 - the extra `web` may not be installed
            from millhand.web.server import PageServer, bound_socket  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                f"the web page must have its libraries, got {error}; write: pip install 'millhand[web]'"
            ) from error
        page = dashboard(driver, self.config, databases=None if driver else self.databases)
        server = PageServer(page, prefix=self.prefix)
        return server, bound_socket(self.host, self.port)

    @contextlib.asynccontextmanager
    async def serving(self, base: Database, settings: Settings) -> AsyncIterator[None]:
        """Serve the page beside the block, on connections of its own. Raises: ConfigError."""
        from millhand.web.page_history import history_written  # noqa: PLC0415 - of the extra `web`

        server, listening = self.server(None if self.databases else base.driver(settings, POOL_SIZE))
        # The worker writes the history of its own database.
        written = history_written(server.databases if self.databases else ())
        async with written, asyncio.TaskGroup() as group:
            group.create_task(_serve_beside(server, listening))
            self.announce(listening)
            try:
                yield
            finally:
                server.stop()

    def announce(self, listening: socket.socket) -> None:
        """Log the address, and print the URL with the token on standard error, which the log does not use."""
        host, port = listening.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}{self.prefix}/"
        logger.info("web page started", extra={"url": url})
        if self.token is not None:
            click.echo(f"Open {url}login?{urlencode({'token': self.token})}", err=True)


async def _serve(settings: Settings, base: Database, page: PageSettings, signals: StopSignals) -> None:
    driver = base.driver(settings, POOL_SIZE)
    async with opened(driver, base.url, base.url_variable):
        if base.is_embedded:
            await migrate_all_lines(driver)
        await _serve_until(page, signals, *page.server(driver))


async def _serve_until(
    page: PageSettings, signals: StopSignals, server: PageServer, listening: socket.socket
) -> None:
    """Serve until a signal. Of several databases, one that does not answer is opened later."""
    from millhand.web.page_history import history_written  # noqa: PLC0415 - of the extra `web`

    signals.listen(lambda *_: server.stop())
    page.announce(listening)
    try:
        async with history_written(server.databases):
            await server.serve(sockets=[listening])
    finally:
        signals.end()


async def _serve_several(page: PageSettings, signals: StopSignals) -> None:
    await _serve_until(page, signals, *page.server())


async def _serve_beside(server: PageServer, listening: socket.socket) -> None:
    """Serve the page until it is stopped. A failure of it must not end the worker."""
    try:
        await server.serve(sockets=[listening])
    except Exception as error:
        logger.exception(
            "web page failed", extra={"error": error_text(error), "error_type": error_type(error)}
        )


def checked_prefix(prefix: str) -> str:
    """Return the prefix. Raises: ConfigError if it is not a path such as /jobs."""
    if prefix and (not prefix.startswith("/") or prefix.endswith("/") or "//" in prefix):
        raise ConfigError(f"prefix must be empty or a path such as '/jobs', got {prefix!r}")
    return prefix


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _user_name() -> str:
    """Return the name of the person at this machine, for the audit."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a user without an entry in the password database
        return "local"


def _asked_password() -> str:
    """Return the password that the user types, or that is piped in. Raises: WrongUse if it is empty."""
    if sys.stdin.isatty():
        password = str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise WrongUse("password must not be empty; type it, or pipe it in as one line")
    return password


def _print_token() -> None:
    token = credential.new_token()
    click.echo(f'# The token, for its user only: {token}\ntoken = "{credential.hashed_token(token)}"')
