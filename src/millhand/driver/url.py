"""
What every driver checks of a database's URL, and how it calls what has no name.

A URL may be SQLAlchemy's, `postgresql+psycopg://…`: then it also says which driver a client is to take. What is the
database's is the same in both.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from millhand.driver.url_errors import fault_of
from millhand.errors import ConfigError

POOL_SIZE = 10
POOL_SIZE_MAX = 1000

ASYNCPG = "asyncpg"
PSYCOPG = "psycopg"
SCHEMES = ("postgresql", "postgres")
# Every scheme that is taken, and the driver that it names.
_DRIVERS = dict.fromkeys(SCHEMES) | {"postgresql+asyncpg": ASYNCPG, "postgresql+psycopg": PSYCOPG}
_PORT = re.compile(r"\s*\d{1,5}\s*", re.ASCII)
_SSL = re.compile(r"([?&])ssl=")
ACCEPTED = "'postgresql://', 'postgresql+psycopg://' or 'postgresql+asyncpg://'"


def checked_url(url: str) -> str:
    """Return `url` as libpq and asyncpg take it, if it may be PostgreSQL's. Raises: ConfigError, without the password."""
    scheme = _scheme(url)
    if scheme not in _DRIVERS:
        raise ConfigError(f"database URL must begin with {ACCEPTED}, got scheme {scheme!r}")
    if fault := fault_of(url):
        raise unreadable_url(fault)
    if scheme in SCHEMES:
        return url
    plain = SCHEMES[0] + url[len(scheme) :]
    # SQLAlchemy hands asyncpg's parameters on by their names in Python, of which this one has another in a URL.
    return _SSL.sub(r"\1sslmode=", plain) if _DRIVERS[scheme] == ASYNCPG else plain


def driver_named_in(url: str) -> str | None:
    """Return the driver that a URL names by its scheme, `asyncpg` or `psycopg`; None if it leaves that to us."""
    return _DRIVERS.get(_scheme(url))


def is_scheme(scheme: str) -> bool:
    """Whether URLs of PostgreSQL's may begin so."""
    return scheme in _DRIVERS


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError as error:
        raise unreadable_url(type(error).__name__) from None  # what led there may show a part of the password


def unreadable_url(reason: str) -> ConfigError:
    """Return the error for a URL that a driver cannot read; `reason` must be sure to hold no password."""
    return ConfigError(
        f"database URL must be like 'postgresql://user@host:5432/name', got {reason}; "
        "write what is neither letter nor digit in a password as %XX"
    )


def fault_of_pgport() -> ConfigError | None:
    """Return what is wrong with the port that a URL without one leaves to the environment; None if nothing is."""
    port = os.environ.get("PGPORT", "")
    if not port or all(_PORT.fullmatch(part) for part in port.split(",")):
        return None
    return ConfigError(f"PGPORT must be a port's number, got {port!r}; set it right, or unset it")


def checked_pool_size(pool_size: int) -> int:
    """Return `pool_size` if a server may have so many. Raises: ConfigError."""
    if not 1 <= pool_size <= POOL_SIZE_MAX:
        raise ConfigError(f"pool_size must be between 1 and {POOL_SIZE_MAX:,}, got {pool_size!r}")
    return pool_size


def beginning(sql: str) -> str:
    """Return what an operation is called whose SQL is not ours."""
    return " ".join(sql.split())[:60]
