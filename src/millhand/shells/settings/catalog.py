"""The list of settings: their sections, types and defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, get_args, get_type_hints

import msgspec

from millhand.core.archive import Archive
from millhand.core.config import HEARTBEAT_INTERVAL, Config, QueueConfig
from millhand.core.orphans import OrphansConfig
from millhand.observe.log import LogFormat, LogLevel
from millhand.observe.log_schema import LogSchema
from millhand.shells.settings.decode import is_short, unwrapped
from millhand.shells.settings.web_database import DatabaseConfig
from millhand.shells.settings.web_user import UserConfig
from millhand.tracing import Propagation, Style

PREFIX = "MILLHAND_"
ORPHANS_INTERVAL = timedelta(hours=1)
# Less than the ten seconds after which `docker stop` kills the process, to leave time for the rest of the shutdown.
SOFT_STOP_TIMEOUT = timedelta(seconds=8)
# After this silence of a client whose session PostgreSQL still has, the leader declares it dead.
LIVE_AFTER = timedelta(minutes=2)
STORAGE_URL = "file:.millhand/objects"
POOL_SIZE = 10
WEB_HOST, WEB_PORT = "127.0.0.1", 8440


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One key of one section of millhand.toml."""

    section: str
    key: str
    hint: Any
    default: object

    @property
    def path(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str | None:
        """The environment variable, or None for several tables, which a variable cannot hold."""
        parts = get_args(unwrapped(self.hint)[0])
        if any(dataclasses.is_dataclass(part) and not is_short(part) for part in parts):
            return None
        return f"{PREFIX}{self.section}_{self.key}".upper()


# The fields of `Config` that millhand.toml can set. The other fields hold objects.
WORKER_SETTINGS = (
    "queues",
    "client_id",
    "job_timeout",
    "soft_stop_timeout",
    "max_attempts",
    "max_threads",
    "fetch_poll_interval",
    "fetch_cooldown",
    "fetch_only_known_kinds",
    "poll_only",
    "leader_election",
    "prefer_other_leaders",
    "client_heartbeat_interval",
    "job_stuck_threshold",
    "rescue_stuck_jobs_after",
    "skip_unknown_job_check",
    "keep_completed",
    "completed_job_retention",
    "cancelled_job_retention",
    "discarded_job_retention",
    "dead_job_retention",
    "reindexer_index_names",
    "reindexer_timeout",
)
# Settings whose None is the sentinel of `Config` for "no timeout".
NO_TIMEOUT_SETTINGS = frozenset({"job_timeout", "reindexer_timeout"})


def all_settings() -> dict[str, Setting]:
    settings = (
        _setting("database.schema", str, ""),
        _setting("database.pool_size", int, POOL_SIZE),
        _setting("database.embedded", bool, default=False),
        *_worker(),
        _setting("heartbeat.enabled", bool, default=True),
        _setting("heartbeat.interval", timedelta, HEARTBEAT_INTERVAL),
        _setting("orphans.enabled", bool, default=True),
        _setting("orphans.interval", timedelta, ORPHANS_INTERVAL),
        *_of_dataclass("orphans", OrphansConfig, [field.name for field in dataclasses.fields(OrphansConfig)]),
        _setting("storage.url", str, STORAGE_URL),
        _setting("archive.url", str, ""),
        *_of_dataclass("archive", Archive, ("format", "every", "keep", "max_delay")),
        _setting("web.host", str, WEB_HOST),
        _setting("web.port", int, WEB_PORT),
        _setting("web.prefix", str, ""),
        _setting("web.name", str, ""),
        _setting("web.databases", Mapping[str, DatabaseConfig], {}),
        _setting("web.users", Mapping[str, UserConfig], {}),
        _setting("web.proxy_header", str, ""),
        _setting("web.proxy_networks", tuple[str, ...], ()),
        _setting("web.hide", tuple[str, ...], ()),
        _setting("web.time_zone", str, ""),
        _setting("web.views", Mapping[str, str], {}),
        _setting("observe.listen", str, ""),
        _setting("observe.file", str, ""),
        _setting("observe.live_after", timedelta, LIVE_AFTER),
        _setting("log.format", LogFormat, "auto"),
        _setting("log.level", LogLevel, "info"),
        _setting("log.schema", LogSchema, "millhand"),
        _setting("log.completed_jobs", bool, default=True),
        _setting("otel.enabled", bool, default=False),
        _setting("otel.propagation", Propagation, "link"),
        _setting("otel.style", Style, "semconv"),
    )
    return {setting.path: setting for setting in settings}


def _setting(path: str, hint: object, default: object) -> Setting:
    section, _, key = path.partition(".")
    return Setting(section=section, key=key, hint=hint, default=default)


def _worker() -> Iterator[Setting]:
    defaults: dict[str, object] = {"queues": {"default": QueueConfig(max_workers=100)}}
    defaults["soft_stop_timeout"] = SOFT_STOP_TIMEOUT
    hints = {"queues": Mapping[str, QueueConfig], "reindexer_index_names": tuple[str, ...]}
    hints |= dict.fromkeys(NO_TIMEOUT_SETTINGS, timedelta | None)  # type: ignore[arg-type]
    for setting in _of_dataclass("worker", Config, WORKER_SETTINGS):
        key = setting.key
        default, hint = defaults.get(key, setting.default), hints.get(key, setting.hint)
        yield msgspec.structs.replace(setting, default=default, hint=hint)


def _of_dataclass(section: str, table: type, keys: Sequence[str]) -> Iterator[Setting]:
    hints = get_type_hints(table)
    fields = {field.name: field for field in dataclasses.fields(table)}
    for key in keys:
        make = fields[key].default_factory
        default = fields[key].default if make is dataclasses.MISSING else make()
        yield Setting(section=section, key=key, hint=hints[key], default=default)
