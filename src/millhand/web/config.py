"""The settings of the web page in code."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, get_args

from millhand.core.clock import Clock, SystemClock
from millhand.core.errors import ConfigError
from millhand.core.orphans import OrphansConfig
from millhand.shells.settings.web_database import Color
from millhand.shells.settings.web_user import User, UserConfig
from millhand.shells.web.hiding import hide_rules
from millhand.web.origin import networks_of
from millhand.web.search_conditions import check_views
from millhand.web.time_zone import check_zone

if TYPE_CHECKING:
    from starlette.requests import Request

ANY_USER = "*"  # in `users`: whom the proxy names and no other entry does


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig:
    """
    The settings of the web page. Without `authenticate` and `users` it is closed.

    Attributes:
        authenticate: Returns the user of a request, or None to refuse it. A function, or a coroutine function.
        clock: The source of the time; tests pass their own.
        colors: Of the name of a database on its pages, by name: red, orange, green, blue, violet or gray.
        completed_job_retention: How long your clients keep completed jobs, as in their `Config`. With it, the verdict says
            when the leader deletes them late. A client that is given to `dashboard` brings its own.
        hide: Values that no user sees, such as `args.password` or `args.*.token`.
        is_local: Serve only the person at this machine: accept local host names only, and a token in the login URL.
        name: What the page calls the database, or the list of several. By default the name in the URL of the database.
        orphans: The settings of the orphan cleanup, for the ages on its page.
        proxy_header: The header in which a trusted proxy names the user.
        proxy_networks: The networks of trusted proxies, such as `10.0.0.0/8`.
        schema: The schema of the tables, if it is not in the search path.
        secret: Signs sessions. Processes that share it accept each other's; by default each process makes its own.
        time_zone: The zone of times and searches, such as `Europe/Berlin`. By default the browser's, or UTC without script.
        users: Who may log in, by name. `*` is every other user whom the proxy names.
        views: Searches of jobs by name, which the list of jobs links to. Users with limits do not see them.

    Raises: ConfigError for an invalid rule, network, zone or search.
    """

    authenticate: Callable[[Request], User | Awaitable[User | None] | None] | None = None
    clock: Clock = dataclasses.field(default_factory=SystemClock)
    colors: Mapping[str, Color] = dataclasses.field(default_factory=dict)
    completed_job_retention: timedelta | None = None
    hide: Sequence[str] = ()
    is_local: bool = False
    name: str = ""
    orphans: OrphansConfig | None = None
    proxy_header: str = ""
    proxy_networks: Sequence[str] = ()
    schema: str = ""
    secret: str = dataclasses.field(default="", repr=False)
    time_zone: str = ""
    users: Mapping[str, UserConfig] = dataclasses.field(default_factory=dict)
    views: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_views(self.views, hide_rules(self.hide))
        networks_of(self.proxy_networks)
        check_zone(self.time_zone)
        for name, color in self.colors.items():
            if color not in get_args(Color):
                raise ConfigError(
                    f"color of database {name!r} must be one of {', '.join(get_args(Color))}, got {color!r}"
                )
        if self.proxy_header and not self.proxy_networks:
            raise ConfigError(
                "proxy_networks must name the networks of your proxies, got none with a proxy_header; "
                "without them any program could name itself as any user"
            )
        if self.users.get(ANY_USER, UserConfig()).can_log_in:
            raise ConfigError(
                f"user {ANY_USER!r} must have neither password nor token; it is whom the proxy names"
            )

    @property
    def has_tokens(self) -> bool:
        """Whether the API takes tokens of this page's own users."""
        return any(user.token for user in self.users.values())

    @property
    def has_login(self) -> bool:
        """Whether users log in on this page, and not in the application around it."""
        return self.authenticate is None and any(user.can_log_in for user in self.users.values())

    @property
    def is_open(self) -> bool:
        """Whether there is a way in for any user."""
        return self.authenticate is not None or self.has_login or bool(self.proxy_header and self.users)
