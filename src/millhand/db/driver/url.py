"""
Checks of a database URL that every driver makes.

A URL may be SQLAlchemy's, such as `postgresql+psycopg://…`; its scheme then also names the client's driver.

The syntax is checked before a library reads the URL, because a library's error may show a part of the password. An
unescaped character ends the password early, and the library reads the rest as a host or a port.
"""

from __future__ import annotations

import os
import re
import shlex
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from millhand.core.errors import ConfigError

POOL_SIZE = 10
POOL_SIZE_MAX = 1000

ASYNCPG = "asyncpg"
PSYCOPG = "psycopg"
SCHEMES = ("postgresql", "postgres")
# Every accepted scheme, and the driver that it names.
_DRIVERS = dict.fromkeys(SCHEMES) | {"postgresql+asyncpg": ASYNCPG, "postgresql+psycopg": PSYCOPG}
_PORT = re.compile(r"\s*\d{1,5}\s*", re.ASCII)
_SSL = re.compile(r"([?&])ssl=")
_PARTS = re.compile(
    r"[\w+.-]+://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?(?P<rest>#.*)?", re.DOTALL
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]*\]|[^\[\]:@]*)(?::(?P<port>[^:]*))?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")
_SPACE = re.compile(r"[\s\x00-\x20\x7f]")
_HASH = "a '#'"
_TWO_ATS = "more than one '@' before the host"
_REMEDIES = {_HASH: "write a '#' in a password as %23", _TWO_ATS: "write an '@' in a password as %40"}
ACCEPTED = "'postgresql://', 'postgresql+psycopg://' or 'postgresql+asyncpg://'"


def checked_url(url: str) -> str:
    """Return `url` with a scheme that libpq and asyncpg accept. Raises: ConfigError, without the password."""
    scheme = _scheme(url)
    if scheme not in _DRIVERS:
        raise ConfigError(f"database URL must begin with {ACCEPTED}, got scheme {scheme!r}")
    if fault := _syntax_fault(url):
        raise unreadable_url(fault)
    if scheme in SCHEMES:
        return url
    plain = SCHEMES[0] + url[len(scheme) :]
    # SQLAlchemy passes asyncpg's keyword arguments on; asyncpg has another name for this one in a URL.
    return _SSL.sub(r"\1sslmode=", plain) if _DRIVERS[scheme] == ASYNCPG else plain


def driver_named_in(url: str) -> str | None:
    """Return the driver that a URL's scheme names, `asyncpg` or `psycopg`; None if it names none."""
    return _DRIVERS.get(_scheme(url))


def is_scheme(scheme: str) -> bool:
    """Return whether a URL of PostgreSQL may have this scheme."""
    return scheme in _DRIVERS


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError as error:
        raise unreadable_url(type(error).__name__) from None  # the cause may show a part of the password


def unreadable_url(reason: str) -> ConfigError:
    """Return the error for a URL that a driver cannot read; `reason` must not show any of it."""
    remedy = _REMEDIES.get(reason, "write what is neither letter nor digit in a password as %XX")
    return ConfigError(
        f"database URL must be like 'postgresql://user@host:5432/name', got {reason}; {remedy}"
    )


def fault_of_pgport() -> ConfigError | None:
    """Return the error for an invalid PGPORT, the port of a URL without one; None if it is valid or not set."""
    port = os.environ.get("PGPORT", "")
    if not port or all(_PORT.fullmatch(part) for part in port.split(",")):
        return None
    return ConfigError(f"PGPORT must be a port number, got {port!r}; correct or unset it")


class DatabaseAddress(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL says about its database and its first server; empty where libpq would take its default."""

    name: str
    host: str
    port: str
    user: str


def database_address(url: str) -> DatabaseAddress:
    """Return where the database of a checked URL is."""
    parts = _PARTS.fullmatch(url)
    if parts is None:
        return DatabaseAddress(name="", host="", port="", user="")
    user, _, addresses = parts["authority"].rpartition("@")
    address = _HOST.fullmatch(addresses.partition(",")[0])
    host, port = (address["host"], address["port"]) if address is not None else ("", "")
    query = dict(parse_qsl(parts["query"] or ""))
    return DatabaseAddress(
        name=unquote((parts["path"] or "/")[1:]) or query.get("dbname", ""),
        host=unquote(host).strip("[]") or query.get("host", ""),
        port=port or query.get("port", ""),
        user=unquote(user.partition(":")[0]) or query.get("user", ""),
    )


def createdb_options(url: str) -> str:
    """Return the options of `createdb` for the first server of a checked URL, and its user, with a space at the end."""
    address = database_address(url)
    options = {"-h": address.host, "-p": address.port, "-U": address.user}
    return "".join(f"{name} {shlex.quote(value)} " for name, value in options.items() if value)


def checked_pool_size(pool_size: int) -> int:
    """Return `pool_size` if it is in range. Raises: ConfigError."""
    if not 1 <= pool_size <= POOL_SIZE_MAX:
        raise ConfigError(f"pool_size must be between 1 and {POOL_SIZE_MAX:,}, got {pool_size!r}")
    return pool_size


def _syntax_fault(url: str) -> str | None:
    """Return what is wrong with a URL, without showing any of it; None if it is valid."""
    if _SPACE.search(url):
        return "a space or a line break"
    if _BAD_ESCAPE.search(url) or "\ufffd" in unquote(url):
        return "a % that is not the start of %XX"
    parts = _PARTS.fullmatch(url)
    if parts is None:
        return "no ://"
    if parts["rest"]:
        return _HASH
    return _fault_of_authority(parts["authority"]) or _fault_of_query(parts["query"] or "")


def _fault_of_authority(authority: str) -> str | None:
    if authority.count("@") > 1:
        return _TWO_ATS
    for address in authority.rpartition("@")[2].split(","):
        host = _HOST.fullmatch(address)
        if host is None:
            return "an invalid host"
        if host["port"] and not (
            host["port"].isascii() and host["port"].isdigit() and int(host["port"]) < 2**16
        ):
            return "a port that is not a number up to 65,535"
    return None


def _fault_of_query(query: str) -> str | None:
    fields = query.split("&") if query else []
    return None if all(field.partition("=")[1] for field in fields) else "an option without a value"
