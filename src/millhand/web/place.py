"""
Where a request belongs: to one of several databases, or to the page around them.

    /prefix/login               site /prefix, no database
    /prefix/db/shop/jobs/7      site /prefix, database shop: its pages see /jobs/7 below /prefix/db/shop
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import msgspec
from starlette.requests import HTTPConnection

SEGMENT = "/db/"
_PLACE = "millhand.place"


class Place(msgspec.Struct, frozen=True):
    """`site` is the path at which the application is mounted. `database` is None outside the pages of one of several."""

    site: str
    database: str | None = None


def place_of(request: HTTPConnection) -> Place:
    """Return where a request belongs."""
    place: Place | None = request.scope.get(_PLACE)
    return place or Place(request.scope.get("root_path", ""))


def database_in(path: str) -> str | None:
    """Return the name of the database in a path below the site."""
    return path.removeprefix(SEGMENT).partition("/")[0] if path.startswith(SEGMENT) else None


def is_api(path: str) -> bool:
    """Return whether a path below the site is of the API, of one database or of all."""
    database = database_in(path)
    return path.removeprefix(f"{SEGMENT}{database}" if database else "").startswith("/api/")


def placed(scope: Mapping[str, Any], database: str) -> MutableMapping[str, Any]:
    """Return a request's scope as the pages of a database see it: below their own prefix."""
    site = scope.get("root_path", "")
    return {**scope, "root_path": f"{site}{SEGMENT}{database}", _PLACE: Place(site, database)}
