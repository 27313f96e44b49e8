"""Settings of the orphan cleanup: which rows name objects, how old is old, and how much one run may remove."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields
from datetime import timedelta
from enum import StrEnum

from millhand.core.blob import BLOB_PREFIX
from millhand.core.errors import ConfigError

MIN_GRACE = timedelta(hours=1)
# A path of names only leads to one value, which can have an index.
PLAIN_PATH = re.compile(r'\$((?:\.(?:[A-Za-z_]\w*|"[^"\\]+"))+)')
MAX_NAME = 64
MEMORY = re.compile(r"[1-9][0-9]*(MB|GB)")
# The source that the cleanup adds by itself, and the pattern of its keys.
BLOB_SOURCE = "millhand_blobs"
BLOB_PATTERN = f"{BLOB_PREFIX}.*"
SOURCE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Derived:
    """
    The pattern of a derived key, made from its parent's key: `variants/{key}/*`, `{key}.thumb.webp`.

    A pattern has one `{key}`. A `*` at its end matches anything; it needs text between `{key}` and `*`.
    """

    head: str
    tail: str
    is_open: bool

    @classmethod
    def of(cls, pattern: str) -> Derived:
        """Raises: ConfigError."""
        head, mark, tail = pattern.partition("{key}")
        tail, is_open = tail.removesuffix("*"), tail.endswith("*")
        if not mark or "{key}" in tail or "*" in head + tail or not (tail or (head and not is_open)):
            raise _bad(
                "derived",
                "must hold patterns like variants/{key}/*, with one {key} and * at the end",
                pattern,
            )
        return cls(head, tail, is_open)

    def parents(self, key: str) -> list[str]:
        """Return the keys that `key` may be derived from. A pattern that ends with `*` may fit several parents."""
        if not key.startswith(self.head):
            return []
        rest = key[len(self.head) :]
        if not self.is_open:
            return [rest.removesuffix(self.tail)] if rest.endswith(self.tail) and rest != self.tail else []
        # `variants/a/b/c` is a variant of `a`, or of `a/b`; either keeps it.
        ends = range(1, len(rest) + 1)
        return [rest[:end] for end in ends if rest.startswith(self.tail, end)]


class Mode(StrEnum):
    """What a run does with its findings. Each mode does more than the one before."""

    REPORT = "report"
    QUARANTINE = "quarantine"
    DELETE = "delete"


class Cascades(StrEnum):
    """Whether a run may delete rows whose deletion changes other tables, by foreign keys ON DELETE."""

    REFUSE = "refuse"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSource:
    """
    One place where rows name objects: a table, or a SELECT of yours.

    `key`, `id`, `size`, `etag`, `created_at`, `deleted_at`, `upload_id` are column names; `pending`, `ready`,
    `soft_deleted` and `unattached` are SQL conditions on a row. A row that meets none of them is ready, so its object lives.
    Rows are deleted only from a `table`. `delete` replaces the DELETE statement; its `$1` is an array of ids as text.
    If the source has fewer rows than `min_rows`, the run aborts. `cascades` accepts that a deletion changes other tables.

    `key` may also be an array (`array`), or JSON, of which `json` is the path to the keys: `$.cover`, `$.files[*].key`.
    If values are URLs, list their bases in `url`: `https://cdn.example.com/`, or `//cdn.example.com/` for any scheme.
    `function` names an SQL function of yours that returns the key for a value. `prepend` is put in front of the key.
    """

    name: str
    table: str | None = None
    select: str | None = None
    key: str = "key"
    id: str = "id"
    size: str | None = None
    etag: str | None = None
    created_at: str | None = None
    deleted_at: str | None = None
    time_zone: str | None = None
    pending: str | None = None
    ready: str | None = None
    soft_deleted: str | None = None
    unattached: str | None = None
    delete: str | None = None
    cascades: Cascades = Cascades.REFUSE
    min_rows: int | None = None
    upload_id: str | None = None
    array: bool = False
    json: str | None = None
    url: tuple[str, ...] = ()
    function: str | None = None
    prepend: str = ""

    def __post_init__(self) -> None:
        self._check_place()
        self._check_columns_and_conditions()
        self._check_form()
        self._check_many()

    @property
    def is_deletable(self) -> bool:
        """Whether rows of this source may be deleted at all."""
        return self.table is not None and not self.has_many

    @property
    def has_states(self) -> bool:
        """Whether a row may be in another state than ready."""
        return not (self.pending is None and self.soft_deleted is None and self.unattached is None)

    @property
    def has_many(self) -> bool:
        """Whether one row may name several keys."""
        return self.array or (self.json is not None and not PLAIN_PATH.fullmatch(self.json))

    @property
    def is_bare(self) -> bool:
        """Whether each value of the column is a whole key."""
        return not (self.has_many or self.url or self.function or self.prepend)

    def _check_place(self) -> None:
        if not SOURCE_NAME.fullmatch(self.name):
            raise self._bad("name", "must be 1 to 64 letters, digits, dots, dashes or underscores", self.name)
        if (self.table is None) == (self.select is None):
            raise self._bad("table", "must be given, or select, and not both", self.table or self.select)
        if self.table is not None and not 1 <= len([part for part in self.table.split(".") if part]) <= 2:  # noqa: PLR2004
            raise self._bad("table", "must be a table's name, or schema.table", self.table)
        if self.delete is not None and (self.table is None or "$1" not in self.delete):
            raise self._bad("delete", "needs a table, and $1 for the ids of the rows", self.delete)
        if self.min_rows is not None and self.min_rows < 0:
            raise self._bad("min_rows", "must not be negative", self.min_rows)

    def _check_columns_and_conditions(self) -> None:
        for name in ("key", "id", "size", "etag", "created_at", "deleted_at", "upload_id"):
            value = getattr(self, name)
            if value is not None and (not value or "\0" in value):
                raise self._bad(name, "must be the name of a column", value)
        for name in ("select", "pending", "ready", "soft_deleted", "unattached"):
            value = getattr(self, name)
            if value is not None and not value.strip().rstrip(";").strip():
                raise self._bad(name, "must be SQL", value)

    def _check_form(self) -> None:
        if self.array and self.json is not None:
            raise self._bad("json", "must not be given with array", self.json)
        if self.url and self.function is not None:
            raise self._bad("function", "must not be given with url", self.function)
        if self.json is not None and not self.json.removeprefix("strict ").startswith("$"):
            raise self._bad("json", "must be a path such as $.cover or $.files[*].key", self.json)
        for base in self.url:
            if not base.endswith("/"):
                raise self._bad("url", "must hold the part before the key, and end with /", base)
        if "\0" in self.prepend + (self.json or ""):
            raise self._bad("prepend", "must be text without a null character", self.prepend)

    def _check_many(self) -> None:
        if not self.has_many:
            return
        rule = "must not be given if one row may name several keys, because all of them would be removed together"
        for name in ("pending", "soft_deleted", "unattached"):
            if (value := getattr(self, name)) is not None:
                raise self._bad(name, rule, value)

    def _bad(self, field: str, rule: str, value: object) -> ConfigError:
        return ConfigError(f"{field} of orphans source {self.name!r} {rule}, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphansConfig:
    """
    The section `[orphans]`.

    Units: shares are fractions of 1; durations are `timedelta`.
    Raises: ConfigError, for an impossible value.
    """

    sources: tuple[ReferenceSource, ...] = ()
    mode: Mode = Mode.REPORT
    prefix: str = ""
    exclude: tuple[str, ...] = ()
    key_patterns: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    canaries: tuple[str, ...] = ()
    not_references: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()
    unsearched: tuple[str, ...] = ()
    grace: timedelta = timedelta(days=7)
    retention: timedelta = timedelta(days=30)
    quarantine_for: timedelta = timedelta(days=7)
    allow_short_grace: bool = False
    max_share: float = 0.01
    max_objects: int = 10_000
    max_keys_per_second: int = 1_000
    min_overlap: float = 0.95
    max_clock_skew: timedelta = timedelta(minutes=5)
    page_size: int = 1_000
    partitions: int = 4
    split_at: tuple[str, ...] = ()
    source_timeout: timedelta = timedelta(seconds=30)
    search_timeout: timedelta = timedelta(hours=1)
    inventory: str | None = None
    inventory_memory: str = "1GB"
    inventory_directory: str | None = None
    price_per_gb: float = 0.023

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise _bad("sources", "must have different names", twice)
        self._check_prefixes()
        self._check_durations()
        self._check_numbers()
        if not MEMORY.fullmatch(self.inventory_memory):
            raise _bad("inventory_memory", "must be a number of MB or GB, such as 1GB", self.inventory_memory)
        for pattern in self.derived:
            Derived.of(pattern)

    @property
    def key_range(self) -> tuple[str, str | None]:
        """A key before all keys that start with `prefix`, and one after them; None stands for the last key."""
        # In the order of bytes `.` comes right before the slash, and `0` right after.
        prefix = self.prefix
        return (f"{prefix[:-1]}.\U0010ffff", f"{prefix[:-1]}0") if prefix else ("", None)

    @property
    def min_object_age(self) -> timedelta:
        """A younger object without a row is not recorded: its row may not be committed yet."""
        return min(MIN_GRACE, self.grace)

    @property
    def fingerprint(self) -> str:
        """
        Hashes of what decides about keys and rows. When it changes, the next run is a first run.

        The first one is of the prefix, because prefixes of one bucket may take turns.

        The source of blobs is not part of it: the first and the last blob of a bucket change nothing for other keys.
        """
        patterns = [pattern for pattern in self.key_patterns if pattern != BLOB_PATTERN]
        sources = [source for source in self.sources if source.name != BLOB_SOURCE]
        about: list[object] = [self.prefix, list(self.exclude), patterns, list(self.derived)]
        about += [[str(getattr(source, field.name)) for field in fields(source)] for source in sources]
        return f"{_hash(self.prefix)[:8]}-{_hash(about)[:16]}"

    def _check_prefixes(self) -> None:
        if self.prefix and not self.prefix.endswith("/"):
            raise _bad(
                "prefix", "must end with / or be empty, because it would match its siblings too", self.prefix
            )
        for prefix in self.exclude:
            if not prefix.endswith("/"):
                raise _bad("exclude", "must hold prefixes that end with /", prefix)
        for pattern in self.key_patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise _bad("key_patterns", f"must be regular expressions ({error})", pattern) from error

    def _check_numbers(self) -> None:
        if self.price_per_gb < 0:
            raise _bad("price_per_gb", "must not be negative", self.price_per_gb)
        for name in ("max_share", "min_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise _bad(name, "must be a share between 0 and 1", getattr(self, name))
        for name in ("max_objects", "max_keys_per_second"):
            if getattr(self, name) < 1:
                raise _bad(name, "must be 1 or more", getattr(self, name))
        for name, highest in (("page_size", 1_000), ("partitions", 64)):
            if not 1 <= getattr(self, name) <= highest:
                raise _bad(name, f"must be 1 to {highest:,}", getattr(self, name))

    def _check_durations(self) -> None:
        least = timedelta(0) if self.allow_short_grace else MIN_GRACE
        for name in ("grace", "retention", "quarantine_for"):
            value = getattr(self, name)
            if value < least:
                remedy = "must not be negative" if self.allow_short_grace else "must be at least 1 hour"
                hint = "" if self.allow_short_grace else "; for a demo, set orphans.allow_short_grace = true"
                raise ConfigError(f"orphans.{name} {remedy}, got {value!r}{hint}")
        for name in ("max_clock_skew", "search_timeout", "source_timeout"):
            if getattr(self, name) <= timedelta(0):
                raise _bad(name, "must be more than zero", getattr(self, name))


def _hash(about: object) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def source_name(text: str) -> str:
    """Return a valid source name for any text. Different texts have different names."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", text)
    if name == text and len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - len(digest) - 1]}-{digest}"


def _bad(field: str, rule: str, value: object) -> ConfigError:
    return ConfigError(f"orphans.{field} {rule}, got {value!r}")
