"""
Rows of `river_job`, read and written.

Rule 1: jsonb is exchanged as text. Reading never raises, because one unexpected value must not stop the other jobs of
        its fetch. It is read as the nearest valid value. (The fragment `job_columns` limits instants, infinite ones
        included, to the years that Python has.)
Rule 2: writing is strict, and contains only what PostgreSQL can store: no U+0000, no unpaired surrogate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from types import MappingProxyType
from typing import Any

import msgspec

from millhand.core.job import AttemptError, JobRow, JobState, Json
from millhand.core.json_value import NESTING_RULE, UNSTORABLE
from millhand.db.query import Row

# Go's zero time, which River also shows for an invalid instant.
GO_ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)

# A job that no attempt has changed and that has no unique key.
NEW_JOB: Mapping[str, Any] = MappingProxyType(
    {
        "attempt": 0,
        "attempted_at": None,
        "attempted_by": (),
        "errors": (),
        "finalized_at": None,
        "unique_key": None,
        "unique_states": None,
    }
)

_STATES = {state.value: state for state in JobState}

_decode_strict = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_decode_error = msgspec.json.Decoder(AttemptError).decode


def parse_jobs(rows: Sequence[Row]) -> list[JobRow]:
    """Read rows with the columns of the fragment `job_columns`, and perhaps more after them."""
    return _parse_jobs(rows)


def parse_job(row: Row) -> JobRow:
    """Read one row, as `parse_jobs`."""
    return _parse_jobs((row,))[0]


def new_jobs(**columns: Iterable[Any]) -> Iterator[JobRow]:
    """Build jobs from one iterable for each field; a field that is not given is as in `NEW_JOB`."""
    fields = JobRow.__struct_fields__
    return map(JobRow, *(columns[field] if field in columns else repeat(NEW_JOB[field]) for field in fields))


def flat_texts(values: Sequence[Any]) -> tuple[str, ...]:
    """Return an array's texts; another program may write nulls and several dimensions."""
    try:
        "".join(values)  # the fastest check that all are texts
    except TypeError:
        return tuple(text for text in _flat(values) if text is not None)
    return tuple(values)


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def parse_object(text: str) -> dict[str, Json]:
    """Read a JSON object; any other JSON value is read as an empty one."""
    value = _decode(text)
    return value if isinstance(value, dict) else {}


def parse_error(text: str | None) -> AttemptError:
    """Read one element of `errors` as leniently as River's `UnmarshalAttemptError`; None is a null element of the array."""
    try:
        error = _decode_error(text or "null")
    except msgspec.DecodeError:
        return _parse_invalid_error(_decode(text or "null"))
    return error if error.at.tzinfo else msgspec.structs.replace(error, at=GO_ZERO_TIME)


def encode_error(error: AttemptError) -> str:
    """Return an element of `errors` with all four keys, which every version of River can read."""
    at = error.at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    return encode_json({"at": at, "attempt": error.attempt, "error": error.error, "trace": error.trace})


def encode_json(value: Json) -> str:
    """Return the JSON text of `value`, with U+FFFD in place of what PostgreSQL cannot store. Raises: ValueError."""
    try:
        text = _encode(value).decode()
    except UnicodeEncodeError:
        return _encode(sanitized(value)).decode()
    except RecursionError as error:
        raise ValueError(f"JSON {NESTING_RULE}, got {type(value).__name__}; flatten it") from error
    return _encode(sanitized(value)).decode() if "\\u0000" in text else text


def sanitized(value: Json) -> Json:
    """Return `value` with U+FFFD for each U+0000 and unpaired surrogate, in all texts and keys."""
    if isinstance(value, str):
        return UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {sanitized(key): sanitized(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [sanitized(item) for item in value]
    return value


def _decode(text: str) -> Json:
    try:
        return _decode_strict(text)
    except msgspec.DecodeError:  # a number that msgspec cannot read; jsonb is always well-formed
        return _decode_by_json(text)
    except RecursionError:
        return None


def _decode_by_json(text: str) -> Json:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a number with more digits than Python reads, or nested too deeply
        return None


def _parse_invalid_error(value: Json) -> AttemptError:
    if not isinstance(value, dict):
        return AttemptError(GO_ZERO_TIME, 0, _as_text(value))
    return AttemptError(
        _parse_instant(value.get("at")),
        _parse_number(value.get("attempt")),
        _as_text(value.get("error")),
        _as_text(value.get("trace")),
    )


def _parse_instant(value: Json) -> datetime:
    try:
        at = msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        return GO_ZERO_TIME
    return at if at.tzinfo else GO_ZERO_TIME


def _parse_number(value: Json) -> int:
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _as_text(value: Json) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _encode(value).decode()


# The fields whose value is not the column's own, and how it is decoded.
DECODED: Mapping[str, str] = MappingProxyType(
    {
        "state": "_STATES[state]",
        "attempt": "attempt if attempt > 0 else 0",
        "attempted_by": "flat_texts(attempted_by) if attempted_by else ()",
        "errors": "tuple(map(parse_error, _flat(errors))) if errors else ()",
        "metadata": "{} if metadata == '{}' else parse_object(metadata)",
        "tags": "flat_texts(tags) if tags else ()",
        "unique_key": "None if unique_key is None else bytes(unique_key)",
    }
)


def compile_parser(
    columns: Sequence[str], decoded: Mapping[str, str], parameters: Sequence[str] = ()
) -> Callable[..., list[JobRow]]:
    """
    Return a function that builds JobRows from rows of `columns`, by position; a row may have more after them.

    Each field is decoded by the expression in `decoded`, or is the column's value. `parameters` are those of the function
    after the rows.

    A fetch reads thousands of rows a second (2 µs each; bench 2026-11), and building the struct by keyword would add a
    third. Compiled, no code has to list eighteen fields in order.
    """
    values = ", ".join(decoded.get(field, field) for field in JobRow.__struct_fields__)
    source = (
        f"def parse({', '.join(('rows', *parameters))}):\n"
        f"    return [JobRow({values}) for {', '.join(columns)}, *_ in rows]"
    )
    namespace = dict(globals())
    exec(compile(source, __file__, "exec"), namespace)  # noqa: S102 - of our own text alone
    parser: Callable[..., list[JobRow]] = namespace["parse"]
    return parser


_parse_jobs = compile_parser(JobRow.__struct_fields__, DECODED)
