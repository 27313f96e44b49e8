"""
`MILLHAND` in Django's settings: each key is a field of `Config` in capitals, decoded as strictly as millhand.toml.

Durations are timedeltas, numbers of seconds or strings such as "30s"; None means no limit where that is allowed. An object
may be given as a dotted path, because a settings module cannot import most of them; a class is called without arguments.
Workers and periodic jobs belong into `<app>/jobs.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import get_type_hints

from django.conf import settings
from django.utils.module_loading import import_string

from millhand.core.config import Config, QueueConfig
from millhand.core.errors import ConfigError
from millhand.core.limit import Limit, Rate
from millhand.core.worker import NO_TIMEOUT
from millhand.db.driver.url import checked_pool_size
from millhand.shells.settings.catalog import (
    NO_TIMEOUT_SETTINGS,
    POOL_SIZE,
    SOFT_STOP_TIMEOUT,
    WORKER_SETTINGS,
)
from millhand.shells.settings.decode import NONE, check_keys, decode, refusal, unwrapped

NAME = "MILLHAND"
QUEUES = {"default": QueueConfig(max_workers=100)}

# Fields of `Config` that hold one object or several.
OBJECTS = ("archive", "clock", "job_stuck_handler", "reindexer_schedule", "retry_policy", "secret_keys")
LISTS_OF_OBJECTS = ("error_handlers", "hooks", "middleware")

CLEANUP = "ORPHANS"  # `cleanup` reads it
PLAIN = (*WORKER_SETTINGS, "blob_store", "heartbeat_interval", "log_completed_jobs")

_EARLY: Mapping[str, object] = {"DATABASE": str, "POOL_SIZE": int, "SCHEMA": str}


def database_alias() -> str:
    """Return the alias of Django's database that holds the jobs. Raises: ConfigError."""
    alias = str(_early("DATABASE", "default"))
    if alias not in settings.DATABASES:
        known = ", ".join(map(repr, sorted(settings.DATABASES)))
        raise ConfigError(f"{_where('DATABASE')} must be one of DATABASES, {known}, got {alias!r}")
    return alias


def schema_name() -> str:
    """Return the schema of River's tables; empty means the search path. Raises: ConfigError."""
    return str(_early("SCHEMA", ""))


def pool_size() -> int:
    """Return the size of a worker's own pool. Raises: ConfigError."""
    with errors_of(NAME):
        return checked_pool_size(_early("POOL_SIZE", POOL_SIZE))  # type: ignore[arg-type]  # decoded as a number


def project_config() -> Config:
    """Return the configuration of `MILLHAND`, without workers. Raises: ConfigError that begins with the key."""
    given = _given()
    known = {*_EARLY, CLEANUP, *map(str.upper, (*PLAIN, *OBJECTS, *LISTS_OF_OBJECTS))}
    check_keys(given, known, NAME)
    database_alias()
    pool_size()
    defaults = {"log_completed_jobs": True, "queues": QUEUES, "soft_stop_timeout": SOFT_STOP_TIMEOUT}
    values = {**defaults, **dict(_values(given))}
    with errors_of(NAME):
        return Config(schema=schema_name(), **values)  # type: ignore[arg-type]  # decoded as the field's type


@contextlib.contextmanager
def errors_of(where: str) -> Iterator[None]:
    """Begin the text of a ConfigError with `where`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def is_given(key: str) -> bool:
    return key in _given()


def decoded_setting(key: str, hint: object) -> object:
    """Return the value of a key, or None. Raises: ConfigError."""
    return _decoded(_given().get(key), hint, _where(key))


def _values(given: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    hints = get_type_hints(Config)
    hints["queues"] = Mapping[str, QueueConfig]
    hints["reindexer_index_names"] = tuple[str, ...]
    hints |= dict.fromkeys(NO_TIMEOUT_SETTINGS, timedelta | None)
    for key, value in given.items():
        field, where = key.lower(), _where(key)
        if field in OBJECTS:
            yield field, _object(value, where)
        elif field in LISTS_OF_OBJECTS:
            if not isinstance(value, list | tuple):
                raise ConfigError(f"{where} must be a list, got {value!r}")
            yield field, [_object(part, f"{where}[{index}]") for index, part in enumerate(value)]
        elif field in PLAIN:
            decoded = _decoded(value, hints[field], where)
            yield field, NO_TIMEOUT if decoded is None and field in NO_TIMEOUT_SETTINGS else decoded


def _given() -> Mapping[str, object]:
    given = getattr(settings, NAME, {})
    if not isinstance(given, Mapping):
        raise ConfigError(f"{NAME} must be a dictionary, got {given!r}")
    return given


def _early(key: str, default: object) -> object:
    """Return a setting that models need while Django still imports them."""
    return _decoded(_given().get(key, default), _EARLY[key], _where(key))


def _where(key: str) -> str:
    return f"{NAME}[{key!r}]"


def _decoded(value: object, hint: object, where: str) -> object:
    if value is None and not unwrapped(hint)[1]:
        raise refusal(where, hint, None)
    return decode(_as_in_toml(value), hint, where)


def _as_in_toml(value: object) -> object:
    """Return a Python value in the form that TOML would have."""
    if value is None:
        return NONE
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, QueueConfig | Limit | Rate):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return _as_in_toml({name: part for name, part in fields.items() if part is not None})
    if isinstance(value, Mapping):
        return {key: _as_in_toml(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_in_toml(part) for part in value]
    return value


def _object(value: object, where: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        found = import_string(value)
    except ImportError as error:
        raise ConfigError(
            f"{where} must be an object or the dotted path of one, got {value!r}: {error}"
        ) from error
    return found() if isinstance(found, type) else found
