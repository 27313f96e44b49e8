"""What the page answers when a request cannot be served."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from starlette.exceptions import HTTPException

from millhand.core.errors import ConnectionLost, DriverError, MillhandError, NotFound, OperationTimeout
from millhand.shells.settings.web_user import RoleRequired

ERRORS: tuple[type[Exception], ...] = (HTTPException, MillhandError, ValueError)

NOT_FOUND = 404


class Problem(msgspec.Struct, frozen=True):
    """An error as RFC 9457 describes it. `detail` is for a person."""

    title: str
    status: int
    detail: str


def problem_of(error: Exception) -> Problem:
    """Return what to answer for an error of a page or a change."""
    match error:
        case HTTPException(status_code=404):
            return Problem("Not found", NOT_FOUND, "There is no such page.")
        case HTTPException():
            return Problem(HTTPStatus(error.status_code).phrase, error.status_code, error.detail)
        case NotFound():
            return Problem("Not found", NOT_FOUND, f"{error}")
        case RoleRequired():
            return Problem("Forbidden", 403, f"{error}")
        case ConnectionLost(is_read_only=True):
            return Problem("The database is read-only", 503, f"{error}")
        case ConnectionLost() | OperationTimeout():
            return Problem("The database did not answer", 503, f"{error}")
        case DriverError():
            return Problem("The database reported an error", 500, f"{error}")
        case MillhandError():
            return Problem("Conflict", 409, f"{error}")
        case _:
            return Problem("Invalid request", 400, f"{error}")
