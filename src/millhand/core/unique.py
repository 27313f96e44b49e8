"""
Unique jobs: their keys and masks of states, byte for byte River's.

Rule 1: a key is the SHA-256 of `&kind=…&args=…&period=…&queue=…`, with the requested parts in this order. The states are
        not part of it. Clients in different languages get the same key for the same options.
Rule 2: the args are the JSON text that Go's encoder writes. Whole args are sorted by the bytes of their top-level keys,
        and values stay as written. Of chosen fields, the values are put into a new object.
Rule 3: a period is counted from year 1 in UTC, so seven days begin on Mondays. It is the one that contains the job's
        `scheduled_at`, or now.
Rule 4: a row holds its key while the mask has the bit of its state. In other states the key is free.

Source: River v0.51.2, internal/dbunique/db_unique.go; rivershared/uniquestates/unique_states.go.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from millhand.core.args.adapters import ArgsType
from millhand.core.args.fields import json_fields
from millhand.core.args.go_json import encode_string
from millhand.core.errors import InvalidJob
from millhand.core.job import JobState

Path = tuple[str, ...]

REQUIRED_STATES = frozenset({JobState.AVAILABLE, JobState.PENDING, JobState.RUNNING, JobState.SCHEDULED})
DEFAULT_STATES = REQUIRED_STATES | {JobState.COMPLETED, JobState.RETRYABLE}

_BITS = {state: 1 << bit for bit, state in enumerate(JobState)}
_PERIOD_MIN = timedelta(seconds=1)
_YEAR_ONE = datetime(1, 1, 1, tzinfo=UTC)

_raw_decode = json.JSONDecoder().raw_decode


class Unique:
    """
    Marks a field of an args class as part of the unique key: `customer: Annotated[str, Unique]`.

    With `UniqueOpts(by_args=True)`, only marked fields count. A marked field in a nested class counts by itself. If a
    marked field's own class has no marks, the whole field counts.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueOpts:
    """
    Decides which jobs are duplicates of each other. Without any option, jobs are not unique.

    Args:
        by_args: True compares the fields marked with `Unique`, or the whole args if none is. A list names the fields to
            compare by their names in JSON: `"customer_id"`, `"customer.id"`, or `("customer.id",)` for one name that
            has a dot.
        by_period: Allow one job in each period of this length, at least one second, counted from year 1 in UTC.
        by_queue: Compare the queue.
        by_state: The states in which a job holds its key. The default is all but cancelled and discarded. Available,
            pending, running and scheduled are required. Discarded requires retryable, because the scheduler could not
            resolve a conflict otherwise.
        exclude_kind: Do not compare the kind; requires `by_args`, `by_period` or `by_queue`.

    Raises: InvalidJob if an option breaks a rule above.
    Source: River v0.51.2, insert_opts.go `UniqueOpts`.
    """

    by_args: bool | Sequence[str | Path] = False
    by_period: timedelta | None = None
    by_queue: bool = False
    by_state: Collection[JobState] | None = None
    exclude_kind: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.by_args, bool):
            _paths(self.by_args)
        if self.by_period is not None and not isinstance(self.by_period, timedelta):
            raise InvalidJob(
                f"by_period must be a timedelta, got {self.by_period!r}; write timedelta(seconds=…)"
            )
        if self.by_period is not None and self.by_period < _PERIOD_MIN:
            raise InvalidJob(f"by_period must be at least one second, got {self.by_period!r}")
        if self.by_state:
            _check_states(self.by_state)
        if self.exclude_kind and not (self.by_args or self.by_period or self.by_queue):
            raise InvalidJob("exclude_kind must have by_args, by_period or by_queue beside it, got it alone")

    @property
    def is_active(self) -> bool:
        """Whether any option is set."""
        is_set = self.by_args or self.by_period or self.by_queue or self.exclude_kind
        return bool(is_set) or self.by_state is not None

    @property
    def states(self) -> frozenset[JobState]:
        """The states in which a job holds its key."""
        return frozenset(map(JobState, self.by_state)) if self.by_state else DEFAULT_STATES


def unique_text(
    opts: UniqueOpts,
    *,
    kind: str,
    encoded_args: str,
    queue: str,
    scheduled_at: datetime,
    args_type: ArgsType = None,
) -> str:
    """
    Return the text whose hash is the unique key of a job.

    `encoded_args` is the text as Go's encoder writes it. `scheduled_at` is now for a job that is not scheduled. The
    marked fields of `args_type` count.

    Raises: InvalidJob if the args count and are not an object.
    """
    parts = []
    if not opts.exclude_kind:
        parts.append(f"&kind={kind}")
    if opts.by_args:
        parts.append(f"&args={_canonical_args(encoded_args, counted_paths(opts.by_args, args_type), kind)}")
    if opts.by_period is not None:
        parts.append(f"&period={_period_start(scheduled_at, opts.by_period)}")
    if opts.by_queue:
        parts.append(f"&queue={queue}")
    return "".join(parts)


def unique_key(text: str) -> bytes:
    """Return the unique key, 32 bytes, of the text from `unique_text`."""
    return hashlib.sha256(text.encode()).digest()


def states_mask(states: Collection[JobState]) -> int:
    """Return River's mask of eight bits: 0x01 for available … 0x80 for scheduled."""
    return sum(_BITS[state] for state in frozenset(states))


@functools.lru_cache(maxsize=1024)
def marked_paths(args_type: ArgsType) -> tuple[Path, ...]:
    """Return the paths of the fields that are marked with `Unique`."""
    return tuple(_marked_paths(args_type, ()))


def _marked_paths(args_type: ArgsType, parents: tuple[Any, ...]) -> Iterator[Path]:
    if args_type in parents:  # a class that contains itself would have paths without end
        return
    for field in json_fields(args_type):
        inner = [path for cls in field.classes for path in _marked_paths(cls, (*parents, args_type))]
        if inner:
            yield from ((field.name, *path) for path in inner)
        elif any(mark is Unique or isinstance(mark, Unique) for mark in field.annotations):
            yield (field.name,)


def counted_paths(by_args: bool | Sequence[str | Path], args_type: ArgsType) -> tuple[Path, ...]:
    """Return the paths of the fields to compare, in order; none for the whole args."""
    if by_args is True:
        return _sorted_paths(marked_paths(args_type)) if args_type is not None else ()
    return () if by_args is False else _sorted_paths(_paths(by_args))


def _paths(by_args: Sequence[str | Path]) -> tuple[Path, ...]:
    if isinstance(by_args, str):
        raise InvalidJob(f"by_args must be True or a list of fields, got {by_args!r}; write [{by_args!r}]")
    paths = tuple(tuple(one.split(".")) if isinstance(one, str) else tuple(one) for one in by_args)
    for path in paths:
        if not path or not all(isinstance(step, str) for step in path):
            raise InvalidJob(f"by_args must name fields by texts, got {path!r}")
        if any(path[:length] in paths for length in range(1, len(path))):
            raise InvalidJob(
                f"by_args must not name a field and a part of it, got {'.'.join(path)!r} and its whole"
            )
    if not paths:
        raise InvalidJob(
            "by_args must name at least one field, got an empty list; True is for the whole args"
        )
    return paths


def _sorted_paths(paths: Collection[Path]) -> tuple[Path, ...]:
    """Return `paths` in the order of the bytes of their steps joined with dots; River's escape of dots breaks ties."""

    def order(path: Path) -> tuple[bytes, bytes]:
        escaped = (step.replace("\\", "\\\\").replace(".", "\\.") for step in path)
        return ".".join(path).encode(), ".".join(escaped).encode()

    return tuple(sorted(set(paths), key=order))


def _check_states(states: Collection[JobState]) -> None:
    known = set(JobState)
    for state in states:
        if state not in known:
            raise InvalidJob(f"by_state must hold states, got {state!r}; known states: {', '.join(JobState)}")
    missing = ", ".join(sorted(REQUIRED_STATES - set(states)))
    if missing:
        raise InvalidJob(
            f"by_state must hold available, pending, running and scheduled, got them without {missing}"
        )
    if JobState.DISCARDED in states and JobState.RETRYABLE not in states:
        raise InvalidJob(
            "by_state must hold retryable when it holds discarded, got discarded alone; "
            "the scheduler could not discard the second of two such jobs, and would stop for all"
        )


def _canonical_args(encoded_args: str, paths: Sequence[Path], kind: str) -> str:
    members = _members(encoded_args)
    if members is None:
        raise InvalidJob(f"unique args of kind {kind!r} must be a JSON object, got {encoded_args[:60]}")
    if not paths:
        return _object({key: members[key] for key in sorted(members, key=str.encode)})
    chosen: dict[str, Any] = {}
    for path in paths:
        value = _value_at(members, path)
        if value is not None:
            _set_at(chosen, path, value)
    return _object(chosen) if chosen else ""


def _members(text: str) -> dict[str, str] | None:
    """Return the members of a JSON object with the text of their values; the first of equal keys; None for no object."""
    if text in ("", "[]"):  # River takes both for an empty object
        return {}
    if not text.startswith("{"):
        return None
    members: dict[str, str] = {}
    position = _skip_blanks(text, 1)
    while text[position] != "}":
        key, position = _raw_decode(text, _skip_blanks(text, position + (text[position] == ",")))
        start = _skip_blanks(text, _skip_blanks(text, position) + 1)
        _, end = _raw_decode(text, start)
        members.setdefault(key, text[start:end])
        position = _skip_blanks(text, end)
    return members


def _skip_blanks(text: str, position: int) -> int:
    while text[position] in " \t\r\n":
        position += 1
    return position


def _value_at(members: Mapping[str, str], path: Path) -> str | None:
    value = members.get(path[0])
    if value is None or len(path) == 1:
        return value
    inner = _members(value)
    return None if inner is None else _value_at(inner, path[1:])


def _set_at(document: dict[str, Any], path: Path, value: str) -> None:
    for step in path[:-1]:
        document = document.setdefault(step, {})
    document[path[-1]] = value


def _object(members: Mapping[str, Any]) -> str:
    texts = (
        f"{_key_text(key)}:{value if isinstance(value, str) else _object(value)}"
        for key, value in members.items()
    )
    return "{" + ",".join(texts) + "}"


def _key_text(key: str) -> str:
    """Return a key as River writes it: as it is, even with `<`, `>` and `&`, unless JSON requires an escape."""
    is_plain = all(" " <= char <= "\x7f" and char not in '"\\' for char in key)
    return f'"{key}"' if is_plain else encode_string(key)


def _period_start(instant: datetime, period: timedelta) -> str:
    start = _YEAR_ONE + (instant - _YEAR_ONE) // period * period
    return start.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
