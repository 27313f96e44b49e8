"""A page: its path, the function that loads its data, and its template."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any

import msgspec

from millhand.core.orphans import OrphansConfig
from millhand.shells.settings.web_user import Role, User
from millhand.shells.web.database import WebDatabase
from millhand.shells.web.hiding import Hiding


class PageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a page is loaded with. `query` has the last value of each parameter of the URL.

    A page loads only what `user` sees, and passes rows through `hide`. Times of a search are in `zone`. `orphans` is as in
    `WebConfig`.
    """

    database: WebDatabase
    user: User
    hide: Hiding
    now: datetime
    orphans: OrphansConfig | None = None
    path: Mapping[str, Any] = {}
    query: Mapping[str, str] = {}
    zone: tzinfo = UTC


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """
    One page.

    `load` returns a frozen struct, for users who have at least `role`. `template` renders it as HTML at `path`, and the API
    returns it as JSON at `/api/v1` plus `path`; without a template there is only JSON. `tab` is the entry of the navigation
    that the page belongs to.
    Raises (of `load`): NotFound for 404, ValueError for 400, DriverError and OperationTimeout for 503.
    """

    path: str
    name: str
    tab: str
    title: str
    template: str | None
    load: Callable[[PageRequest], Awaitable[msgspec.Struct]]
    role: Role = Role.VIEWER
