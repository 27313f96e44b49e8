"""The list of settings: their sections, types, defaults and meanings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, get_args, get_type_hints

import msgspec

from millhand.config import Config, QueueConfig
from millhand.observe.log import LogFormat, LogLevel
from millhand.orphans.config import OrphansConfig
from millhand.settings.decode import unwrapped

PREFIX = "MILLHAND_"
HEARTBEAT_INTERVAL = timedelta(seconds=60)
ORPHANS_INTERVAL = timedelta(hours=1)
# Less than the ten seconds after which `docker stop` kills the process, to leave time for the rest of the shutdown.
SOFT_STOP_TIMEOUT = timedelta(seconds=8)
STORAGE_URL = "file:.millhand/objects"
POOL_SIZE = 10


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One key of one section of millhand.toml."""

    section: str
    key: str
    hint: Any
    default: object
    about: str

    @property
    def path(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str | None:
        """The environment variable, or None for a list of tables, which a variable cannot hold."""
        parts = get_args(unwrapped(self.hint)[0])
        if parts and dataclasses.is_dataclass(parts[0]):
            return None
        return f"{PREFIX}{self.section}_{self.key}".upper()


# The meaning of each field of `Config` that millhand.toml can set. The other fields hold objects.
WORKER_SETTINGS: Mapping[str, str] = {
    "queues": "the queues to work, each with its maximum of running jobs: a number, or a table with `max_workers`, "
    "`fetch_cooldown` and `fetch_poll_interval`",
    "client_id": "the client's id; made from host name and time if empty",
    "job_timeout": "the maximum duration of an attempt, unless its worker sets one; `none` for no limit",
    "soft_stop_timeout": "how long a stop waits for running jobs before it interrupts them; `none` for no limit",
    "max_attempts": "the maximum number of attempts of a job, unless its insert sets one",
    "max_threads": "how many plain functions run at the same time, each in a thread",
    "fetch_poll_interval": "how often a queue is polled without a notification",
    "fetch_cooldown": "the shortest time between two fetches of a queue",
    "fetch_only_known_kinds": "leave jobs of kinds that this worker does not know to other workers",
    "poll_only": "never use LISTEN, for connection poolers without it",
    "leader_election": "take part in the election of the leader, which runs maintenance for all clients",
    "prefer_other_leaders": "let clients in other languages become leader first, so that their periodic jobs continue",
    "client_heartbeat_interval": "how often this client writes its heartbeat; after two missed ones it may be declared dead",
    "job_stuck_threshold": "how long past its timeout an attempt counts as stuck",
    "rescue_stuck_jobs_after": "how long an attempt of a client without heartbeats may run before its rescue; `none` means "
    "one hour, or one hour more than a changed `job_timeout`",
    "skip_unknown_job_check": "allow inserts of kinds that have no worker here",
    "completed_job_retention": "how long completed jobs are kept; `none` for no limit",
    "cancelled_job_retention": "how long cancelled jobs are kept; `none` for no limit",
    "discarded_job_retention": "how long discarded jobs are kept; `none` for no limit",
    "reindexer_index_names": "the indexes that are rebuilt every night",
    "reindexer_timeout": "the maximum duration of rebuilding one index; `none` for no limit",
}

ORPHANS_SETTINGS: Mapping[str, str] = {
    "sources": "the tables or queries whose rows reference objects, see below",
    "mode": "`report` only reports, `quarantine` moves objects aside, `delete` removes them",
    "prefix": "check only objects whose key starts with this; empty, or ending with `/`",
    "exclude": "prefixes that are not checked, each ending with `/`",
    "key_patterns": "regular expressions; an object whose key matches none is kept and counted as unclassified",
    "derived": "patterns of derived keys, `variants/{key}/*`: a derived object lives as long as a row references its parent",
    "canaries": "keys that are known to be live; a run that does not find them aborts",
    "not_references": "tables, or `table.column`, that may mention keys without being references, such as audit logs",
    "grace": "how long an object or a row must have been an orphan before anything is done",
    "retention": "how long soft-deleted rows and their objects are kept",
    "quarantine_for": "how long a removed object can be restored",
    "allow_short_grace": "allow a grace of less than an hour",
    "max_share": "the share of all objects, and of all bytes, that one run may remove",
    "max_objects": "how many objects one run may remove",
    "max_keys_per_second": "the maximum rate of removals",
    "min_overlap": "the share of referenced objects that must exist; otherwise the run aborts",
    "max_clock_skew": "how far the clocks of database, store and worker may differ",
    "page_size": "how many objects are read at a time",
    "partitions": "how many partitions of a bucket on a server are listed in parallel",
    "split_at": "keys at which the bucket is divided, instead of those from the statistics of the largest table",
    "source_timeout": "the maximum duration of a source's query",
    "inventory": "the folder of an S3 Inventory configuration, `s3://reports/…`, to read instead of listing the bucket",
    "price_per_gb": "the price of a gigabyte per month, in your currency, for the cost in the report",
}

# Settings whose None is the sentinel of `Config` for "no timeout".
NO_TIMEOUT_SETTINGS = frozenset({"job_timeout", "reindexer_timeout"})


def all_settings() -> dict[str, Setting]:
    """Return every setting by its path, section by section."""
    settings = (
        _setting("database.schema", str, "", "the schema of River's tables; empty for the search path"),
        _setting("database.pool_size", int, POOL_SIZE, "the maximum number of connections"),
        *_worker(),
        _setting("heartbeat.enabled", bool, default=True, about="run the built-in heartbeat"),
        _setting("heartbeat.interval", timedelta, HEARTBEAT_INTERVAL, "the interval of the heartbeat job"),
        _setting("orphans.enabled", bool, default=True, about="run the built-in orphan cleanup"),
        _setting("orphans.interval", timedelta, ORPHANS_INTERVAL, "the interval of the cleanup job"),
        *_of_dataclass("orphans", OrphansConfig, ORPHANS_SETTINGS),
        _setting(
            "storage.url", str, STORAGE_URL, "the object store: `file:./directory` or `s3://bucket/prefix`"
        ),
        _setting(
            "log.format", LogFormat, "auto", "`text`, `json`, or `auto`: text on a terminal, JSON in a pipe"
        ),
        _setting("log.level", LogLevel, "info", "the lowest level that is logged"),
    )
    return {setting.path: setting for setting in settings}


def _setting(path: str, hint: object, default: object, about: str) -> Setting:
    section, _, key = path.partition(".")
    return Setting(section=section, key=key, hint=hint, default=default, about=about)


def _worker() -> Iterator[Setting]:
    defaults: dict[str, object] = {"queues": {"default": QueueConfig(max_workers=100)}}
    defaults["soft_stop_timeout"] = SOFT_STOP_TIMEOUT
    hints = {"queues": Mapping[str, QueueConfig], "reindexer_index_names": tuple[str, ...]}
    hints |= dict.fromkeys(NO_TIMEOUT_SETTINGS, timedelta | None)  # type: ignore[arg-type]
    for setting in _of_dataclass("worker", Config, WORKER_SETTINGS):
        key = setting.key
        default, hint = defaults.get(key, setting.default), hints.get(key, setting.hint)
        yield msgspec.structs.replace(setting, default=default, hint=hint)


def _of_dataclass(section: str, table: type, about: Mapping[str, str]) -> Iterator[Setting]:
    """Yield a setting for each field in `about`, in that order."""
    hints = get_type_hints(table)
    fields = {field.name: field for field in dataclasses.fields(table)}
    for key, meaning in about.items():
        yield Setting(section=section, key=key, hint=hints[key], default=_default(fields[key]), about=meaning)


def _default(field: dataclasses.Field[Any]) -> object:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
