"""A database of a page that serves several: its name, its color, and where its URL is."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from millhand.core.errors import ConfigError
from millhand.shells.settings.web_user import UserConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")  # a part of a path

Color = Literal["red", "orange", "green", "blue", "violet", "gray"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseConfig:
    """
    A database in the settings of the web page, by name.

    Attributes:
        url_variable: The environment variable that has its URL.
        color: The color of its name on each of its pages: red, orange, green, blue, violet or gray.
        schema: The schema of the tables, if it is not in the search path.
    """

    url_variable: str
    color: Color = "gray"
    schema: str = ""


def check_names(names: Collection[str], colors: Mapping[str, Color], users: Mapping[str, UserConfig]) -> None:
    """Return if databases may have these names, and users and colors name no others. Raises: ConfigError."""
    if not names:
        raise ConfigError("databases must have at least one database, got none")
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"the name of a database must have at most 40 letters, digits, '-' and '_', got {name!r}"
            )
    named = [("colors", name) for name in colors]
    named += [(f"user {user!r}", name) for user, given in users.items() for name in given.databases or ()]
    for subject, name in named:
        if name not in names:
            raise ConfigError(
                f"{subject} must name databases of the page, got {name!r}; known: {', '.join(names)}"
            )


def check_one(users: Mapping[str, UserConfig]) -> None:
    """Return if users are those of a page of one database. Raises: ConfigError."""
    for name, user in users.items():
        if user.databases is not None:
            raise ConfigError(
                f"databases of user {name!r} must be left out on a page of one database; name the databases of the page"
            )


class DatabaseLabel(msgspec.Struct, frozen=True, kw_only=True):
    """How the page names a database; `address` is that of its URL, without user and password."""

    name: str
    color: str | None = None
    address: str = ""
