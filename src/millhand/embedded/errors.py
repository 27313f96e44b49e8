"""Errors of an embedded database, each with a remedy."""

from __future__ import annotations

import contextlib
import errno
import getpass
import pwd
from collections.abc import Iterator
from pathlib import Path

from millhand.core.errors import MillhandError

ELSEWHERE = "set DATABASE_URL to another database"


class EmbeddedError(MillhandError):
    """The embedded PostgreSQL cannot be prepared, started or stopped; nothing was deleted."""


@contextlib.contextmanager
def explain_os_errors(directory: Path) -> Iterator[None]:
    """Raise an OSError of the block as an EmbeddedError with a remedy."""
    try:
        yield
    except OSError as error:
        raise _explain(directory, error) from error


def _explain(directory: Path, error: OSError) -> EmbeddedError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return disk_is_full(directory)
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return EmbeddedError(
            f"directory {str(directory)!r} must be writable for user {getpass.getuser()!r}, got {error.strerror!r} at "
            f"{str(error.filename)!r}; run as its owner, or {ELSEWHERE}"
        )
    return EmbeddedError(
        f"directory {str(directory)!r} must be fit for a database, got {str(error)!r}; repair that, or {ELSEWHERE}"
    )


def disk_is_full(directory: Path) -> EmbeddedError:
    return EmbeddedError(
        f"the disk of {str(directory)!r} must have free space for the database, got 'No space left on device'; "
        "free some space and start again, nothing was deleted"
    )


def wrong_owner(path: Path, *, expected: int, found: int) -> EmbeddedError:
    """Return the error for a path that belongs to another user; `expected` and `found` are user ids."""
    return EmbeddedError(
        f"{str(path)!r} must belong to user {_name(expected)!r}, got {_name(found)!r}; "
        f"run as the user who made it, or {ELSEWHERE}"
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
