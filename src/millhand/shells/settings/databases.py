"""The databases that `[databases]` of millhand.toml names: each by the environment variable that has its URL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from millhand.core.errors import ConfigError
from millhand.core.secret import masked_url
from millhand.db.driver.url import ACCEPTED, is_scheme
from millhand.shells.settings.decode import decode, refusal
from millhand.shells.settings.web_database import DatabaseConfig, check_names

SECTION = "databases"
URL_VARIABLE = "DATABASE_URL"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def named_databases(tables: Mapping[str, Any], file: str) -> dict[str, DatabaseConfig]:
    """Return the databases that the tables of a file name, in the file's order. Raises: ConfigError."""
    where = f"{file}: [{SECTION}]"
    table = tables.get(SECTION)
    if table is None:
        return {}
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} must be a table, got {masked_url(repr(table))}; write a line [{SECTION}]")
    if not table:
        raise ConfigError(f'{where} must name a database, got none; write one such as eu = "EU_DATABASE_URL"')
    try:
        check_names(table, {}, {})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    found = {name: _database(value, f"{where} {name}") for name, value in table.items()}
    _check_distinct({name: given.url_variable for name, given in found.items()}, where)
    return found


def url_in(text: str | None, variable: str) -> str | None:
    """Return the URL that an environment variable has, or None without the variable. Raises: ConfigError."""
    if text is None:
        return None
    if not text:
        raise ConfigError(f"{variable} must name a database, got an empty value; set it, or unset it")
    scheme = text.partition(":")[0]
    if "://" not in text or not is_scheme(scheme):
        meant = "; write postgresql://" if scheme.startswith(("postgres", "psql")) else ""
        raise ConfigError(f"{variable} must begin with {ACCEPTED}, got {masked_url(text)!r}{meant}")
    try:
        urlsplit(text)
    except ValueError:
        raise ConfigError(
            f"{variable} must be like 'postgresql://user@host:5432/name', got {masked_url(text)!r}; "
            "write an IPv6 address in []"
        ) from None  # the cause may show a part of the password
    return text


def check_alone(databases: Mapping[str, DatabaseConfig], *, has_url: bool, is_embedded: bool) -> None:
    """
    Return unless another setting names a database that `[databases]` does not name.

    A command would otherwise act on one that its user may not mean. Raises: ConfigError.
    """
    names = ", ".join(databases)
    if has_url and all(given.url_variable != URL_VARIABLE for given in databases.values()):
        raise ConfigError(
            f"{URL_VARIABLE} must be unset where [{SECTION}] names databases, got both it and {names}; unset it, or "
            f'name it too, such as main = "{URL_VARIABLE}"'
        )
    if is_embedded:
        raise ConfigError(
            f"[database] embedded must be false where [{SECTION}] names databases, got true and {names}"
        )


def _database(value: object, where: str) -> DatabaseConfig:
    if isinstance(value, str):
        value = {"url_variable": value}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where} must be the name of an environment variable or a table, got {masked_url(repr(value))}"
        )
    variable = value.get("url_variable")
    if isinstance(variable, str) and "://" in variable:
        raise ConfigError(
            f"{where} must not have a database URL, because it may contain a password; write the name of an environment "
            "variable that has it"
        )
    found = decode(value, DatabaseConfig, where)
    if not isinstance(found, DatabaseConfig):
        raise refusal(where, DatabaseConfig, value)
    if not _VARIABLE.fullmatch(found.url_variable):
        raise ConfigError(
            f"{where} must name an environment variable such as 'EU_DATABASE_URL', got {found.url_variable!r}"
        )
    return found


def _check_distinct(variables: Mapping[str, str], where: str) -> None:
    names: dict[str, str] = {}
    for name, variable in variables.items():
        if variable in names:
            raise ConfigError(
                f"{where} must name each variable once, got {variable} for {names[variable]} and {name}"
            )
        names[variable] = name
