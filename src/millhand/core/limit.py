"""The values of limits: how many jobs of a queue run at once, and how many start in a time, in all clients together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from millhand.core.checks import check_number
from millhand.core.errors import ConfigError
from millhand.core.json_value import Json

NOTE_MAX = 500
COUNT_MAX = 2**31 - 1  # the largest integer of PostgreSQL
PER_MAX = timedelta(days=36_525)  # a hundred years, as of all durations


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """
    How many jobs may start in a time: `Rate(100, per=timedelta(minutes=1), burst=10)`.

    In any W seconds of the database's clock, at most `burst + allowed * W / per` jobs of a partition start.
    `Rate(90, per=timedelta(seconds=10), burst=1)` never starts more than 91 jobs in ten seconds. With `burst=90`, it may
    start 180. If an API allows at most N calls in any window P, choose a burst b and write `Rate(N - b, per=P, burst=b)`.

    Each attempt is a start, also one after a failure.

    Args:
        allowed: How many jobs start in each `per`.
        per: The time.
        burst: How many jobs may start at once after a pause.

    Raises: ConfigError if a value is invalid or `burst` is missing.
    """

    allowed: int = field(kw_only=False)
    per: timedelta
    if TYPE_CHECKING:
        burst: int
    else:
        burst: int = None  # so that the error of a missing burst can explain it

    def __post_init__(self) -> None:
        check_number("allowed", self.allowed, COUNT_MAX)
        if not isinstance(self.per, timedelta):
            raise ConfigError(f"per must be a timedelta, got {self.per!r}; write timedelta(seconds=…)")
        if not timedelta(0) < self.per <= PER_MAX:
            raise ConfigError(f"per must be positive and at most 100 years, got {self.per!r}")
        if self.burst is None:
            raise ConfigError(
                f"rate must have a burst, got none; write burst = 1 to start at most {self.allowed + 1:,} jobs in any "
                f"{self.per.total_seconds():g} s, because at most burst + allowed * W / per jobs start in any W"
            )
        check_number("burst", self.burst, COUNT_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """
    How many jobs of a queue run at once, and how many start in a time, in all clients together.

    `by_args` and `by_kind` divide the jobs into partitions, such as one for each tenant. Every partition has the limit for
    itself, and partitions take turns. Without them, all jobs of the queue are one partition.

    A job that would exceed the limit waits as `pending`, and no fetch reads it. A job of a client that died keeps its slot
    until another attempt has ended.

    Clients store the limit in the database. A value that is set at run time stays until the limit in the code changes.

    Args:
        at_once: How many jobs of a partition run at once.
        at_once_per_client: How many jobs of a partition run at once in one client.
        total: How many jobs of all partitions run at once.
        by_args: The fields of the args that make a partition. A job without the field belongs to the partition of null.
        by_kind: Whether each kind is a partition, or each kind and values of `by_args`.
        rate: How many jobs of a partition start in a time.
        in_order: Run the jobs of a partition one after the other, by id. A job that fails keeps its slot until its last
            attempt, so the next job waits for it. `at_once` is then 1.
        halt: Whether a partition starts no further job after one that failed finally, until a person resumes it or retries
            that job. A job fails finally if it is discarded, or cancels itself with `JobCancel`. It requires `in_order`.
        shared: Whether workers in Go work the queue too. They obey `at_once` without knowing it.
        note: A line for people, such as why the limit is as it is. The web page and `millhand limit show` show it.

    Raises: ConfigError if a value or a combination is invalid.
    """

    at_once: int | None = None
    at_once_per_client: int | None = None
    total: int | None = None
    by_args: Sequence[str] = ()
    by_kind: bool = False
    rate: Rate | None = None
    in_order: bool = False
    halt: bool = False
    shared: bool = False
    note: str | None = None

    def __post_init__(self) -> None:
        for name in ("at_once", "at_once_per_client", "total"):
            if (count := getattr(self, name)) is not None:
                check_number(name, count, COUNT_MAX)
        for name in ("by_kind", "in_order", "halt", "shared"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.rate is not None and not isinstance(self.rate, Rate):
            raise ConfigError(
                f"rate must be a Rate, got {self.rate!r}; write Rate(100, per=timedelta(minutes=1), burst=10)"
            )
        object.__setattr__(self, "by_args", _checked_names(self.by_args))
        object.__setattr__(self, "note", _checked_note(self.note))
        if self.in_order and self.at_once is None:
            object.__setattr__(self, "at_once", 1)
        _check_combination(self)

    def to_json(self) -> dict[str, Json]:
        """Return the limit as a JSON object, with `per` in seconds."""
        rate = self.rate and {
            "allowed": self.rate.allowed,
            "per": self.rate.per.total_seconds(),
            "burst": self.rate.burst,
        }
        return {
            "at_once": self.at_once,
            "at_once_per_client": self.at_once_per_client,
            "total": self.total,
            "by_args": list(self.by_args),
            "by_kind": self.by_kind,
            "rate": rate,
            "in_order": self.in_order,
            "halt": self.halt,
            "shared": self.shared,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Json]) -> Limit:
        """
        Return the limit that `to_json` returned as `fields`.

        Fields that this release does not know are left out, so that a newer client may write some. Raises: ConfigError.
        """
        known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        if (rate := known.get("rate")) is not None:
            per = timedelta(seconds=rate["per"])
            known["rate"] = Rate(rate["allowed"], per=per, burst=rate["burst"])
        return cls(**known)


class QueueLimit(msgspec.Struct, frozen=True, kw_only=True):
    """
    The limit of a queue as its row in `millhand_limit`. Instants are aware.

    Attributes:
        limit: The limit in force.
        declared: What the code of a client declared last; None if the limit was only set at run time.
        num_running: How many jobs of all partitions have a slot, counted only if the limit has a `total`; otherwise 0.
        updated_at: When the limit last changed.
    """

    queue: str
    limit: Limit
    declared: Limit | None
    num_running: int
    updated_at: datetime


class PartitionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """
    One partition of a limit. Instants are aware.

    Attributes:
        key: The values that make the partition, as the text of a JSON array: `["acme"]`. A text of more than 200 bytes is
            replaced by its digest, `sha256:…`.
        running: How many jobs have a slot.
        waiting: How many jobs wait for a slot.
        weight: How many jobs of the partition start in each turn.
        at_once: The partition's own `at_once`; None if it has the limit's.
        held_until: Until when no job of the partition starts; None if it is not held.
        next_start_at: When the rate allows the next start; None if it allows one now.
        halted_by: The id of the job that failed finally and halted the partition; None if it is not halted.
        halted_at: When it was halted.
    """

    queue: str
    key: str
    running: int
    waiting: int
    weight: int
    at_once: int | None
    held_until: datetime | None
    next_start_at: datetime | None
    halted_by: int | None = None
    halted_at: datetime | None = None


def key_values(key: str) -> list[Json] | None:
    """Return the values of a partition's key; None for a digest, or for a text that no key is."""
    try:
        values = msgspec.json.decode(key, type=list[Any])
        key.encode()  # no half of a pair of code units
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None
    return None if "\\u0000" in key else values  # PostgreSQL's texts have no NUL


def key_name(key: str) -> str:
    """Return a partition's key as a person reads it: `acme, eu` for `["acme", "eu"]`."""
    values = key_values(key)
    if values is None:
        return key
    return ", ".join(one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in values)


def _checked_names(names: object) -> tuple[str, ...]:
    """Return the names of fields as a tuple. A text is a sequence too, but of characters."""
    if isinstance(names, str):
        raise ConfigError(f"by_args must be a list of names of fields, got {names!r}; write [{names!r}]")
    if not isinstance(names, Sequence):
        raise ConfigError(f"by_args must be a list of names of fields, got {names!r}")
    for name in names:
        if not (isinstance(name, str) and name and name.isprintable()):
            raise ConfigError(f"by_args must have printable names of fields, got {name!r}")
    return tuple(names)


def _checked_note(note: object) -> str | None:
    """Return a note; an empty one is none."""
    if note is not None and not isinstance(note, str):
        raise ConfigError(f"note must be a text, got {note!r}")
    if note and not (note.isprintable() and len(note) <= NOTE_MAX):
        raise ConfigError(
            f"note must be one printable line of at most {NOTE_MAX} characters, got {note[:60]!r}"
        )
    return note or None


def _check_combination(limit: Limit) -> None:
    if limit.in_order and limit.at_once != 1:
        raise ConfigError(
            f"at_once must be 1 with in_order, got {limit.at_once}; jobs in order run one after the other"
        )
    if limit.halt and not limit.in_order:
        raise ConfigError("halt must be False without in_order, got True; write in_order = True")
    if limit.shared and limit.at_once is None:
        raise ConfigError("at_once must be set with shared, got None; write how many jobs run at once")
    if limit.shared and limit.at_once_per_client is not None:
        raise ConfigError(
            f"at_once_per_client must be None with shared, got {limit.at_once_per_client}; "
            "workers in Go do not obey it, so write at_once"
        )
    if limit.shared and limit.in_order:
        raise ConfigError("in_order must be False with shared, got True; workers in Go do not keep the order")
    bounds = (limit.at_once, limit.at_once_per_client, limit.total, limit.rate)
    if all(bound is None for bound in bounds):
        raise ConfigError(
            "limit must have at_once, at_once_per_client, total, rate or in_order, got none; write at_once = 1"
        )
