"""
JSON text as Go's encoder writes it, to the byte, because unique keys are hashes of it.

Rule 1: no blanks; non-ASCII characters as they are; `<`, `>`, `&`, U+2028 and U+2029 escaped; numbers as Go prints them.
Rule 2: what PostgreSQL's jsonb cannot hold (U+0000 and lone surrogates) is rejected, with its place.
"""

from __future__ import annotations

import json.encoder
import math
import re
import reprlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import cast

import msgspec

from millhand.core.errors import InvalidJob
from millhand.core.job import Json
from millhand.core.json_value import NESTING_RULE

# Go's encoder writes numbers outside of this range with an exponent.
FIXED_MIN = 1e-6
FIXED_END = 1e21

_ESCAPED_BY_GO = re.compile("[<>&\u2028\u2029]")
_ESCAPES = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}

# What msgspec may write differently: a null may stand for a number that is not finite, and instants have microseconds.
# Each branch begins with a literal character, so that `re` skips the rest of the text quickly.
_UNLIKE_GO = re.compile(
    r"null|T\d\d:\d\d:\d\d|:-?\d+[.eE]|,-?\d+[.eE]|\[-?\d+[.eE]|<|>|&|\\|" + "\u2028|\u2029"
)

_encoder = msgspec.json.Encoder(order="deterministic")
_native_encode, _native_encode_lines = _encoder.encode, _encoder.encode_lines


def encode_object(value: Json, subject: str) -> str:
    """
    Return the text of a JSON object of plain values.

    Raises: InvalidJob if `value` is no object or jsonb cannot hold it; the message begins with `subject`.
    """
    if not isinstance(value, dict):
        raise InvalidJob(f"{subject} must be a JSON object, got {reprlib.repr(value)}")
    try:
        return _encode(value)
    except _UnencodableValue as error:
        where = f" at {error.path!r}" if error.path else ""
        raise InvalidJob(f"{subject} must {error.rule}, got {reprlib.repr(error.value)}{where}") from None
    except RecursionError as error:
        raise nesting_error(subject, value) from error


def nesting_error(subject: str, value: object) -> InvalidJob:
    """Return the error of a value that Python cannot encode or decode because of its depth, or of a cycle in it."""
    return InvalidJob(f"{subject} {NESTING_RULE}, got {reprlib.repr(value)}; flatten them")


def encode_string(text: str) -> str:
    """Return `text` as a JSON string."""
    if "\x00" in text:
        raise _UnencodableValue("not hold the character U+0000, which jsonb cannot store", text)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _UnencodableValue(
                "not hold half a surrogate pair, which jsonb cannot store", text
            ) from None
    encoded = json.encoder.encode_basestring(text)
    return _ESCAPED_BY_GO.sub(_escape, encoded) if _ESCAPED_BY_GO.search(encoded) else encoded


def compact_object(encoded: str, subject: str) -> str:
    """
    Return the text of a JSON object without blanks and with Go's escapes; numbers stay as they were written.

    Raises: InvalidJob, as `encode_object` does, and if `encoded` is not JSON.
    """
    try:
        text = msgspec.json.format(encoded, indent=-1)
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidJob(f"{subject} must be JSON, got {reprlib.repr(encoded)}: {error}") from error
    except RecursionError as error:
        raise nesting_error(subject, encoded) from error
    encode_object(value, subject)
    return _ESCAPED_BY_GO.sub(_escape, text)


def fast_encode(value: object) -> str | None:
    """
    Return the JSON text of an object, in a tenth of the time of `encode_object`, if msgspec writes it as Go does.

    Return None if `encode_object` must write it, or if it is no object.
    """
    try:
        text = _native_encode(value).decode()
    except Exception:  # noqa: BLE001 - the slow encoder reports what is wrong
        return None
    return None if text[:1] != "{" or _UNLIKE_GO.search(text) else text


def fast_encode_lines(values: Sequence[object]) -> str | None:
    """Return the JSON texts of objects, one a line; None if each must be passed to `fast_encode`."""
    try:
        lines = _native_encode_lines(values).decode()
    except Exception:  # noqa: BLE001 - as above
        return None
    are_objects = lines.startswith("{") and lines.count("\n{") == len(values) - 1
    # More lines than values: a `msgspec.Raw` in one of them contains a line break.
    if not are_objects or lines.count("\n") != len(values) or _UNLIKE_GO.search(lines):
        return None
    return lines


class _UnencodableValue(Exception):
    def __init__(self, rule: str, value: object) -> None:
        super().__init__(rule)
        self.rule = rule
        self.value = value
        self.steps: list[str] = []

    @property
    def path(self) -> str:
        return ".".join(reversed(self.steps))


def _encode(value: Json) -> str:
    if isinstance(value, str):
        return encode_string(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _encode_float(value)
    if isinstance(value, dict):
        return "{" + ",".join([_encode_member(key, item) for key, item in value.items()]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([_encode_item(index, item) for index, item in enumerate(value)]) + "]"
    if isinstance(value, datetime):
        return encode_string(_format_datetime(value))
    raise _UnencodableValue("hold JSON values only", value)


def _encode_member(key: object, item: Json) -> str:
    try:
        if not isinstance(key, str):
            raise _UnencodableValue("have texts as keys", key)
        return f"{encode_string(key)}:{_encode(item)}"
    except _UnencodableValue as error:
        error.steps.append(str(key))
        raise


def _encode_item(index: int, item: Json) -> str:
    try:
        return _encode(item)
    except _UnencodableValue as error:
        error.steps.append(str(index))
        raise


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES[match[0]]


def _encode_float(value: float) -> str:
    """Return the shortest digits that read back the same, with an exponent only below 1e-6 and from 1e21."""
    if not math.isfinite(value):
        raise _UnencodableValue("hold finite numbers only", value)
    if value == 0.0:
        return "-0" if math.copysign(1.0, value) < 0 else "0"
    digits = float.__repr__(value)
    if FIXED_MIN <= abs(value) < FIXED_END:
        return format(Decimal(digits), "f").removesuffix(".0")
    return digits.replace("e-0", "e-")


def _format_datetime(instant: datetime) -> str:
    """Return an instant in RFC 3339 as Go writes it: `Z` for UTC, the fraction without trailing zeros."""
    offset = instant.utcoffset()
    if offset is not None and offset % timedelta(minutes=1):
        # Local mean times have such offsets. RFC 3339 cannot write the seconds, which would change the instant.
        instant = instant.astimezone(UTC)
    text = cast(str, msgspec.to_builtins(instant))
    return re.sub(r"(\.\d*?)0+(?=[Z+-])", lambda match: match[1].rstrip("."), text)
