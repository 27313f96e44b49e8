"""What JSON can say, and whether a value can be said in it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

Json = Any  # whatever JSON can say; the one place where that is given a name


def checked_json(subject: str, value: Json, *, bytes_max: int | None = None) -> Json:
    """
    Return a copy of `value` of plain JSON values: what happens to the original afterwards changes nothing.

    Raises: ValueError, with `subject` in it, if it does not encode to JSON, as NaN does not, or to more than `bytes_max`
    bytes.
    """
    try:
        try:
            encoded = msgspec.json.encode(value)
            if b"null" in encoded:  # which msgspec also writes for a number that is not finite
                _check_finite(value)
        except UnicodeEncodeError:  # half of a surrogate pair, which is replaced when it is written
            encoded = json.dumps(value, allow_nan=False).encode()
        copy = json.loads(encoded)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(
            f"{subject} must be encodable as JSON, got {type(value).__name__}: {error}"
        ) from error
    if bytes_max is not None and len(encoded) > bytes_max:
        raise ValueError(f"{subject} must be at most {bytes_max:,} bytes, got {len(encoded):,}")
    return copy


def _check_finite(value: Json) -> None:
    json.dumps(msgspec.to_builtins(value), allow_nan=False)
