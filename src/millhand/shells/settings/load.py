"""
Load settings: a flag overrides the environment, the environment the file, the file code. Each value has its origin.

Secrets come from the environment only (`DATABASE_URL`, `AWS_…`), and are never printed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from millhand.core.archive import Archive, archive_url_of_database
from millhand.core.config import Config, QueueConfig
from millhand.core.errors import ConfigError
from millhand.core.orphans import OrphansConfig
from millhand.core.periodic import IntervalSchedule
from millhand.core.secret import MASK, masked, masked_error, masked_url
from millhand.core.worker import NO_TIMEOUT
from millhand.db.sql import checked_schema
from millhand.observe.terminal_text import printable
from millhand.shells.settings.catalog import NO_TIMEOUT_SETTINGS, PREFIX, Setting, all_settings
from millhand.shells.settings.databases import SECTION as DATABASES
from millhand.shells.settings.databases import URL_VARIABLE, check_alone, named_databases, url_in
from millhand.shells.settings.decode import NONE, check_keys, decode, decode_text, guess
from millhand.shells.settings.file import read_settings
from millhand.shells.settings.web_database import DatabaseConfig
from millhand.shells.settings.web_user import UserConfig

ARCHIVE_SETTINGS = ("url", "format", "every", "keep", "max_delay")
FILE_NAME = "millhand.toml"
DEFAULT = "default"
# The default of a Config is not the default of these settings, so whatever one has was set.
SET_IN_CODE = ("log.completed_jobs", "worker.queues")
NO_ORPHANS = "no setting in [orphans]"
# Variables that other parts of Millhand read.
OTHER_VARIABLES = frozenset(
    {
        "MILLHAND_CONFIG",
        "MILLHAND_HEALTH_FD",
        "MILLHAND_NUM_PROCESSES",
        "MILLHAND_POSTGRES_BIN",
        "MILLHAND_SUPERVISOR_FD",
        "MILLHAND_WEB_SECRET",
    }
)
OTHER_PREFIX = "MILLHAND_TEST_"

# Kubernetes names variables of each pod after the Services of its namespace, and a Service may be `millhand-web`.
_SERVICE_VARIABLE = re.compile(
    r"MILLHAND\w*(_SERVICE_(HOST|PORT(_\w+)?)|_PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
_TIMEDELTA = re.compile(r"datetime\.timedelta\((0|(?:\w+=-?\d+(?:, )?)+)\)")


class Given(msgspec.Struct, frozen=True):
    """A value and its origin: a file, a variable, a flag, or `module:name`; the higher `layer` wins."""

    value: Any
    origin: str
    where: str  # the beginning of an error
    layer: int


CODE, FILE, ENVIRONMENT, FLAG = range(4)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """
    The settings in force: `given` has the values that were set, by path; the others are defaults.

    Attributes:
        database_url: The URL of the database that is used, from the environment variable `url_variable`.
        database_name: Its name in `[databases]`; empty where the settings name no databases.
        databases: The databases that `[databases]` names, in its order; `in_database` chooses one.
    """

    known: Mapping[str, Setting]
    given: Mapping[str, Given] = msgspec.field(default_factory=dict)
    database_url: str | None = None
    database_name: str = ""
    databases: Mapping[str, DatabaseConfig] = msgspec.field(default_factory=dict)

    @property
    def url_variable(self) -> str:
        """The environment variable with the URL of the database that is used."""
        return self.databases[self.database_name].url_variable if self.database_name else URL_VARIABLE

    def in_database(self, name: str, environment: Mapping[str, str] | None = None) -> Settings:
        """Return the settings for one of `databases`, with its URL and schema. Raises: ConfigError without its URL."""
        named = self.databases[name]
        text = (os.environ if environment is None else environment).get(named.url_variable)
        if text is None:
            raise ConfigError(
                f"variable {named.url_variable} must have the URL of database {name!r}, got none; set it in the environment"
            )
        given = dict(self.given)
        path = "database.schema"
        if named.schema and (path not in given or given[path].layer < FLAG):
            where = f"[{DATABASES}] {name}"
            given[path] = Given(named.schema, where, where, ENVIRONMENT)
        return msgspec.structs.replace(
            self,
            database_name=name,
            database_url=url_in(text, named.url_variable),
            given=MappingProxyType(given),
        )

    def get(self, path: str) -> Any:  # noqa: ANN401 - each setting has a type of its own
        """Return the value of a setting such as `worker.queues`."""
        return self.given[path].value if path in self.given else self.known[path].default

    def origin(self, path: str) -> str:
        return self.given[path].origin if path in self.given else DEFAULT

    def section(self, section: str) -> dict[str, Any]:
        return {
            self.known[path].key: given.value
            for path, given in self.given.items()
            if self.known[path].section == section
        }

    def with_fallback(self, path: str, *, value: object, origin: str) -> Settings:
        """Return the settings with a value that overrides only a default and a `Config`."""
        given = {path: Given(value, origin, origin, CODE), **self.given}
        return msgspec.structs.replace(self, given=MappingProxyType(given))

    def with_config(self, config: Config, origin: str) -> Settings:
        """
        Return the settings with those of a `Config` in code as the lowest layer; what it left at its default has no origin.

        The orphan cleanup then runs only if `[orphans]` has a setting: without sources it has nothing to do.
        """
        given = {}
        for path, setting in self.known.items():
            if setting.section == "worker":
                given[path] = Given(_of_config(config, setting.key), origin, origin, CODE)
        given["database.schema"] = Given(config.schema, origin, origin, CODE)
        for key in ARCHIVE_SETTINGS if config.archive is not None else ():
            given[f"archive.{key}"] = Given(getattr(config.archive, key), origin, origin, CODE)
        if config.log_completed_jobs is not None:
            given["log.completed_jobs"] = Given(config.log_completed_jobs, origin, origin, CODE)
        given["heartbeat.enabled"] = Given(config.heartbeat_interval is not None, origin, origin, CODE)
        if config.heartbeat_interval is not None:
            given["heartbeat.interval"] = Given(config.heartbeat_interval, origin, origin, CODE)
        given = {
            path: one
            for path, one in given.items()
            if one.value != self.known[path].default or path in SET_IN_CODE
        }
        if not self.section("orphans"):
            given["orphans.enabled"] = Given(value=False, origin=NO_ORPHANS, where=NO_ORPHANS, layer=CODE)
        if config.soft_stop_timeout is None:  # no limit suits only programs that stop the client themselves
            given.pop("worker.soft_stop_timeout", None)
        return msgspec.structs.replace(self, given=MappingProxyType(given | dict(self.given)))

    def config(self, base: Config | None = None, **parts: Any) -> Config:  # noqa: ANN401 - as Config takes them
        """Return `base`, or a new Config, with the settings in force. Raises: ConfigError that names the origin."""
        values = {
            setting.key: self.get(path) for path, setting in self.known.items() if setting.section == "worker"
        }
        for key in NO_TIMEOUT_SETTINGS:
            values[key] = NO_TIMEOUT if values[key] is None else values[key]
        interval = self.get("heartbeat.interval") if self.get("heartbeat.enabled") else None
        values |= {"heartbeat_interval": interval, "schema": self.get("database.schema")}
        name = self.database_name or ("" if base is None else base.database)
        values |= {"log_completed_jobs": self.get("log.completed_jobs"), "archive": self.archive()}
        values |= {"database": name, **parts}
        with self.errors_with_origin("database"):
            checked_schema(values["schema"])
        with self.errors_with_origin("heartbeat"):
            IntervalSchedule(self.get("heartbeat.interval"))
        with self.errors_with_origin("worker"):
            return Config(**values) if base is None else dataclasses.replace(base, **values)

    def archive(self) -> Archive | None:
        """
        Return the archive of the settings, or None without a URL. A database of `[databases]` has a folder with its name.

        Raises: ConfigError that names the origin.
        """
        if not self.get("archive.url"):
            return None
        values = {key: self.get(f"archive.{key}") for key in ARCHIVE_SETTINGS}
        if self.database_name:
            values["url"] = archive_url_of_database(values["url"], self.database_name)
        with self.errors_with_origin("archive"):
            return Archive(**values)

    def orphans_config(self) -> OrphansConfig:
        values = self.section("orphans")
        own = {key: value for key, value in values.items() if key not in ("enabled", "interval")}
        with self.errors_with_origin("orphans"):
            return OrphansConfig(**own)

    @contextlib.contextmanager
    def errors_with_origin(self, section: str) -> Iterator[None]:
        """Add the origin of the setting that a ConfigError of the block names; of several, the highest layer's."""
        try:
            yield
        except ConfigError as error:
            text = _TIMEDELTA.sub(_as_written, str(error)).removeprefix(f"{section}.")
            raise ConfigError(masked_error(self._with_origin(section, text))) from error

    def _with_origin(self, section: str, text: str) -> str:
        # Without the plural, because an error about `queues` may name one queue.
        named = [
            (given.layer, -text.find(word), given)
            for path, given in self.given.items()
            if self.known[path].section == section
            and (word := self.known[path].key.removesuffix("s")) in text
        ]
        if not named:
            return f"[{section}] {text}"
        # Of two settings that conflict, the one in the higher layer was set last.
        source = max(named, key=lambda each: each[:2])[2]
        if source.layer == FILE:
            return f"{source.where.rpartition(' ')[0]} {text}"
        return f"{source.where}: {text}"


def load_settings(
    config_path: Path | None = None,
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, tuple[str, str]] | None = None,
) -> Settings:
    """Return the settings in force in `directory`; `flags` are (flag, text) by path. Raises: ConfigError."""
    directory = _working_directory() if directory is None else directory
    environment = os.environ if environment is None else environment
    known = all_settings()
    given: dict[str, Given] = {}
    file, tables = _read_file(config_path, directory)
    databases = named_databases(tables, file)
    for layer in (_from_file(known, file, tables), _from_environment(known, environment)):
        given |= dict(layer)
    for path, (flag, text) in (flags or {}).items():
        given[path] = Given(decode_text(text, known[path].hint, flag), flag, flag, FLAG)
    settings = Settings(
        known=known,
        given=MappingProxyType(given),
        databases=MappingProxyType(databases),
        database_url=None if databases else url_in(environment.get(URL_VARIABLE), URL_VARIABLE),
    )
    if databases:
        check_alone(
            databases,
            has_url=bool(environment.get(URL_VARIABLE)),
            is_embedded=settings.get("database.embedded"),
        )
    return settings


def environment_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings of an environment alone. Raises: ConfigError."""
    known = all_settings()
    return Settings(known=known, given=MappingProxyType(dict(_from_environment(known, environment))))


def _read_file(config_path: Path | None, directory: Path) -> tuple[str, dict[str, Any]]:
    """Return the name and content of the file with the settings. Raises: ConfigError if both files have some."""
    if config_path is not None:
        return str(config_path), _parsed(config_path, str(config_path))
    own, project = directory / FILE_NAME, directory / "pyproject.toml"
    in_project = _tool_table(project) if _exists(project) else None
    if not _exists(own):
        return f"{project.name}, [tool.millhand]", in_project or {}
    if in_project is not None:
        raise ConfigError(
            f"settings must be in one file, got {FILE_NAME} and [tool.millhand] of pyproject.toml; remove one"
        )
    return FILE_NAME, _parsed(own, FILE_NAME)


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the working directory must exist, got: {error.strerror}; change to another"
        ) from error


def _exists(path: Path) -> bool:
    """Return whether `path` exists, also as something that `_parsed` refuses."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _tool_table(project: Path) -> dict[str, Any] | None:
    table = _parsed(project, project.name)
    for name in ("tool", "millhand"):
        if name not in table:
            return None
        found = table[name]
        if not isinstance(found, dict):
            raise ConfigError(
                f"{project.name}: [{name}] must be a table, got {masked_url(repr(found))}; write [tool.millhand]"
            )
        table = found
    return table


def _parsed(path: Path, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_settings(path, name))
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise ConfigError(f"{name} must be TOML, got: {error}") from error


def _from_file(
    known: Mapping[str, Setting], name: str, tables: Mapping[str, Any]
) -> Iterator[tuple[str, Given]]:
    sections = list(dict.fromkeys(setting.section for setting in known.values()))
    sections.append(DATABASES)
    for section, table in tables.items():
        if section == DATABASES:
            continue
        if section.lower() == "database_url":
            raise _url_in_file(name)
        if section not in sections:
            raise ConfigError(f"{name} has no section {section!r}{guess(section, sections)}")
        where = f"{name}: [{section}]"
        if not isinstance(table, Mapping):
            raise ConfigError(
                f"{where} must be a table, got {masked_url(repr(table))}; write a line [{section}]"
            )
        if section == "database" and not table.keys().isdisjoint({"url", "database_url"}):
            raise _url_in_file(where)
        check_keys(table, [setting.key for setting in known.values() if setting.section == section], where)
        for key, value in table.items():
            setting = known[f"{section}.{key}"]
            decoded = decode(value, setting.hint, f"{where} {key}")
            yield setting.path, Given(decoded, name, f"{where} {key}", FILE)


def _url_in_file(where: str) -> ConfigError:
    return ConfigError(
        f"{where} must not have a database URL, because it may contain a password; set DATABASE_URL in the environment"
    )


def _from_environment(
    known: Mapping[str, Setting], environment: Mapping[str, str]
) -> Iterator[tuple[str, Given]]:
    by_variable = {setting.variable: setting for setting in known.values() if setting.variable is not None}
    for name, text in environment.items():
        if not name.startswith(PREFIX) or name.startswith(OTHER_PREFIX) or name in OTHER_VARIABLES:
            continue
        is_address = name.endswith("_PORT") and text.startswith(("tcp://", "udp://", "sctp://"))
        if is_address or _SERVICE_VARIABLE.fullmatch(name):  # Kubernetes set it for a Service
            continue
        if name not in by_variable:
            names = [*by_variable, *OTHER_VARIABLES]
            raise ConfigError(f"the environment has no setting {name!r}{guess(name, names)}")
        if text:
            setting = by_variable[name]
            yield setting.path, Given(decode_text(text, setting.hint, name), name, name, ENVIRONMENT)


def _of_config(config: Config, key: str) -> Any:  # noqa: ANN401 - as Settings.get
    value = getattr(config, key)
    if key == "queues":
        return {
            name: QueueConfig(max_workers=queue) if isinstance(queue, int) else queue
            for name, queue in config.queues.items()
        }
    return None if key in NO_TIMEOUT_SETTINGS and value == NO_TIMEOUT else value


def _as_written(match: re.Match[str]) -> str:
    """Return a duration as in the file, not as Python shows it."""
    parts = {} if match[1] == "0" else dict(part.split("=") for part in match[1].split(", "))
    return repr(_duration(timedelta(**{name: int(number) for name, number in parts.items()})))


def shown_settings(settings: Settings) -> Iterator[str]:
    """
    Yield the settings in force as lines of a millhand.toml, each with its origin.

    Secrets are masked, and those of the environment are comments, because the file cannot hold them.
    """
    if settings.database_url is not None:
        url = masked_url(settings.database_url)
    elif settings.databases:
        url = "not used, because [databases] names databases"
    elif settings.get("database.embedded"):
        url = "not set: an embedded PostgreSQL in .millhand/postgres"
    else:
        url = "not set, and embedded is false: the worker does not start"
    yield f"# {settings.url_variable}: {url}"
    if settings.databases:
        yield from ("", f"[{DATABASES}]")
        yield from (f"{_key(name)} = {toml(given)}" for name, given in settings.databases.items())
    section = ""
    for path, setting in settings.known.items():
        if setting.section != section:
            section = setting.section
            yield ""
            yield f"[{section}]"
        yield f"{f'{setting.key} = {toml(settings.get(path))}':<48}  # {settings.origin(path)}"


def toml(value: object) -> str:
    match value:
        case None:
            return f'"{NONE}"'
        case bool():
            return "true" if value else "false"
        case timedelta():
            return f'"{_duration(value)}"'
        case str():
            text = masked_url(value) if "://" in value else masked(value)
            return printable(json.dumps(text, ensure_ascii=False))  # JSON escapes are valid in TOML
        case UserConfig():
            return _table(_user_fields(value))
        case QueueConfig() if value == QueueConfig(max_workers=value.max_workers):
            return str(value.max_workers)
        case Mapping():
            return _table(dict(value))
        case list() | tuple():
            return f"[{', '.join(toml(part) for part in value)}]"
        case _ if dataclasses.is_dataclass(value):
            fields = ((each.name, getattr(value, each.name)) for each in dataclasses.fields(value))
            return _table({name: part for name, part in fields if part is not None})
        case _:
            return str(value)


def _user_fields(user: UserConfig) -> dict[str, object]:
    """Return the settings of a user of the web page, with a mask for each hash."""
    limits = {"queues": user.queues, "kinds": user.kinds, "databases": user.databases}
    hashes = {"password": user.password, "token": user.token}
    return {
        "role": user.role,
        **{name: MASK for name, text in hashes.items() if text},
        **{name: names for name, names in limits.items() if names is not None},
    }


def _table(parts: Mapping[str, object]) -> str:
    if not parts:
        return "{}"
    return "{ " + ", ".join(f"{_key(key)} = {toml(part)}" for key, part in parts.items()) + " }"


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else toml(key)


def _duration(value: timedelta) -> str:
    milliseconds, rest = divmod(value, timedelta(milliseconds=1))
    if rest:
        return f"{value / timedelta(milliseconds=1):.15g}ms"
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"
