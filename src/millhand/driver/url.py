"""What every driver checks of a database's URL, and how it calls what has no name."""

from __future__ import annotations

from urllib.parse import urlsplit

from millhand.errors import ConfigError

POOL_SIZE = 10
POOL_SIZE_MAX = 1000


def checked_url(url: str) -> str:
    """Return `url` if it may be PostgreSQL's. Raises: ConfigError, without the password."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise unreadable_url(type(error).__name__) from error
    if scheme not in ("postgres", "postgresql"):
        raise ConfigError(f"database URL must begin with 'postgresql://', got scheme {scheme!r}")
    return url


def unreadable_url(reason: str) -> ConfigError:
    """Return the error for a URL that a driver cannot read; `reason` must be sure to hold no password."""
    return ConfigError(
        f"database URL must be like 'postgresql://user@host:5432/name', got {reason}; "
        "write what is neither letter nor digit in a password as %XX"
    )


def checked_pool_size(pool_size: int) -> int:
    """Return `pool_size` if a server may have so many. Raises: ConfigError."""
    if not 1 <= pool_size <= POOL_SIZE_MAX:
        raise ConfigError(f"pool_size must be between 1 and {POOL_SIZE_MAX:,}, got {pool_size!r}")
    return pool_size


def beginning(sql: str) -> str:
    """Return what an operation is called whose SQL is not ours."""
    return " ".join(sql.split())[:60]
