"""
The web page in a Django project, for staff with the permissions of the admin.

    # asgi.py
    application = with_web_page(get_asgi_application(), "/jobs")

A user needs `is_staff` and `millhand.view_job`; `millhand.change_job` makes an operator, and `millhand.add_job` with
`millhand.delete_job` an admin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import django.apps
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.db import close_old_connections
from django.http import HttpRequest

from millhand.contrib.django import LABEL
from millhand.contrib.django.setting import database_alias, schema_name
from millhand.core.errors import ConfigError
from millhand.db.driver.django import django_url
from millhand.db.driver.psycopg import PsycopgDriver
from millhand.web import Role, User, WebConfig, dashboard
from millhand.web.place import SEGMENT

if TYPE_CHECKING:
    from starlette.requests import Request

    from millhand.contrib.django.apps import MillhandConfig

App = Callable[[MutableMapping[str, Any], Callable[..., Any], Callable[..., Any]], Awaitable[None]]

POOL_SIZE = 4


def with_web_page(
    application: App, path: str, config: WebConfig | None = None, *, aliases: Sequence[str] = ()
) -> App:
    """
    Return Django's ASGI application with the web page below `path`, on the database that MILLHAND names.

    With `aliases` of DATABASES, the page has these databases, each with the schema that MILLHAND names. Without
    `config.authenticate`, the page is for the staff. The admin links to it.
    Raises: ConfigError for an invalid path or setting.
    """
    if not path.startswith("/") or path.endswith("/"):
        raise ConfigError(f"path must begin with a slash and not end with one, got {path!r}; write '/jobs'")
    given = config or WebConfig()
    given = replace(given, authenticate=given.authenticate or staff_user)
    several = {alias: _driver(alias) for alias in aliases}
    page = (
        dashboard(config=given, databases=several) if several else dashboard(_driver(database_alias()), given)
    )
    of_jobs = f"{path}{SEGMENT}{database_alias()}" if several else path
    cast("MillhandConfig", django.apps.apps.get_app_config(LABEL)).page_path = of_jobs

    async def route(
        scope: MutableMapping[str, Any], receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        root = scope.get("root_path", "")
        below = scope.get("path", "").removeprefix(root)
        if scope["type"] == "lifespan":  # Django has none
            await page(scope, receive, send)
        elif scope["type"] == "http" and f"{below}/".startswith(f"{path}/"):
            await page({**scope, "root_path": f"{root}{path}"}, receive, send)
        else:
            await application(scope, receive, send)

    return route


def _driver(alias: str) -> PsycopgDriver:
    return PsycopgDriver(django_url(alias), schema_name(), pool_size=POOL_SIZE)


async def staff_user(request: Request) -> User | None:
    """Return the page's user for a member of the staff who is logged in to Django, with the role of their permissions."""
    found: User | None = await sync_to_async(_staff_user)(request.cookies.get(settings.SESSION_COOKIE_NAME))
    return found


def _staff_user(session_key: str | None) -> User | None:
    close_old_connections()  # as at the begin and end of a request of Django's own
    try:
        request = HttpRequest()
        request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
        user = get_user(request)
        role = _role(user) if user.is_active and user.is_staff else None
        return None if role is None else User(name=user.get_username(), role=role)
    finally:
        close_old_connections()


def _role(user: Any) -> Role | None:  # noqa: ANN401 - of the project's user model
    if not user.has_perm(f"{LABEL}.view_job"):
        return None
    if user.has_perms([f"{LABEL}.{action}_job" for action in ("add", "change", "delete")]):
        return Role.ADMIN
    return Role.OPERATOR if user.has_perm(f"{LABEL}.change_job") else Role.VIEWER
