"""The time zone of a page: the one that the browser asks for, that of the settings, or UTC."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from millhand.core.errors import ConfigError

ZONE_COOKIE = "millhand_zone"
_NAME = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*")  # no path that leaves the directory of zones


def zone_named(name: str) -> tzinfo:
    """Return a time zone by its name, which `str` gives back. UTC needs no files. Raises: ValueError."""
    if name == "UTC":
        return UTC
    try:
        if _NAME.fullmatch(name):
            return ZoneInfo(name)
    except (ValueError, ZoneInfoNotFoundError, OSError):
        pass  # a name that is none, or a directory of names
    raise ValueError(f"time_zone must be the name of a time zone such as Europe/Berlin, got {name!r}")


def check_zone(name: str) -> None:
    """Check a setting, which may be empty. Raises: ConfigError."""
    try:
        zone_named(name or "UTC")
    except ValueError as error:
        raise ConfigError(f"{error}") from None


def zone_of(cookies: Mapping[str, str], default: str) -> tzinfo:
    """Return the zone of a request. The script of the page keeps the reader's choice in a cookie."""
    try:
        return zone_named(cookies.get(ZONE_COOKIE, default))
    except ValueError:
        return zone_named(default)
