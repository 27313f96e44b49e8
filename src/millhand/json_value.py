"""JSON values and their validation."""

from __future__ import annotations

import json
from typing import Any

import msgspec

Json = Any  # a value that JSON can represent


def checked_json(subject: str, value: Json, *, bytes_max: int | None = None) -> Json:
    """
    Return a copy of `value` as plain JSON values, so that later changes of the original have no effect.

    Raises: ValueError, beginning with `subject`, if `value` does not encode to JSON (NaN does not) or to more than
    `bytes_max` bytes.
    """
    try:
        try:
            encoded = msgspec.json.encode(value)
            if b"null" in encoded:  # msgspec writes it for numbers that are not finite, too
                json.dumps(msgspec.to_builtins(value), allow_nan=False)
        except UnicodeEncodeError:  # half of a surrogate pair, which the driver replaces
            encoded = json.dumps(value, allow_nan=False).encode()
        copy = json.loads(encoded)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(
            f"{subject} must be encodable as JSON, got {type(value).__name__}: {error}"
        ) from error
    if bytes_max is not None and len(encoded) > bytes_max:
        raise ValueError(f"{subject} must be at most {bytes_max:,} bytes, got {len(encoded):,}")
    return copy
