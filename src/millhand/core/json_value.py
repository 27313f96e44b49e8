"""JSON values and their validation."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

Json = Any  # a value that JSON can represent
DEPTH_MAX = (
    200  # encoding needs up to three frames a level, and Python has 1,000 frames, the caller's included
)
# What no text and no jsonb of PostgreSQL can hold.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
NESTING_RULE = f"must be nested at most {DEPTH_MAX} levels deep, without a cycle"


def checked_json(subject: str, value: Json, *, bytes_max: int | None = None) -> Json:
    """
    Return a copy of `value` as plain JSON values, so that later changes of the original have no effect.

    Raises: ValueError, beginning with `subject`, if `value` does not encode to JSON (NaN does not) or to more than
    `bytes_max` bytes, or is nested too deeply.
    """
    try:
        try:
            encoded = msgspec.json.encode(value)
            if b"null" in encoded:  # msgspec writes it for numbers that are not finite, too
                json.dumps(msgspec.to_builtins(value), allow_nan=False)
        except UnicodeEncodeError:  # half of a surrogate pair, which the driver replaces
            encoded = json.dumps(value, allow_nan=False).encode()
        copy = json.loads(encoded)
    except RecursionError as error:
        raise _nesting_error(subject, value) from error
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise ValueError(
            f"{subject} must be encodable as JSON, got {type(value).__name__}: {error}"
        ) from error
    # The value is encoded again later, with other callers below it, so what just fits now is too deep.
    if encoded.count(b"[") + encoded.count(b"{") > DEPTH_MAX and _is_too_deep(copy):
        raise _nesting_error(subject, value)
    if bytes_max is not None and len(encoded) > bytes_max:
        raise ValueError(f"{subject} must be at most {bytes_max:,} bytes, got {len(encoded):,}")
    return copy


def _nesting_error(subject: str, value: object) -> ValueError:
    return ValueError(f"{subject} {NESTING_RULE}, got {type(value).__name__}; flatten it")


def _is_too_deep(value: Json) -> bool:
    """Return whether plain JSON values have more than `DEPTH_MAX` levels, without recursion."""
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            item
            for parent in level
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, dict | list)
        ]
    return bool(level)
