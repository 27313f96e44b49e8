"""Fast encoding, in a tenth of the time, of values that msgspec writes exactly as Go's encoder does."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

# What msgspec may write differently: a null may stand for a number that is not finite, and instants have microseconds.
# Each branch begins with a literal character, so that `re` skips the rest of the text quickly.
_UNLIKE_GO = re.compile(
    r"null|T\d\d:\d\d:\d\d|:-?\d+[.eE]|,-?\d+[.eE]|\[-?\d+[.eE]|<|>|&|\\|" + "\u2028|\u2029"
)

_encoder = msgspec.json.Encoder(order="deterministic")
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines


def fast_encode(value: object) -> str | None:
    """Return the JSON text of an object; None if `go_json` must write it, or if it is no object."""
    try:
        text = _encode(value).decode()
    except Exception:  # noqa: BLE001 - the slow encoder reports what is wrong
        return None
    return None if text[:1] != "{" or _UNLIKE_GO.search(text) else text


def fast_encode_lines(values: Sequence[object]) -> str | None:
    """Return the JSON texts of objects, one a line; None if each must be passed to `fast_encode`."""
    try:
        lines = _encode_lines(values).decode()
    except Exception:  # noqa: BLE001 - as above
        return None
    are_objects = lines.startswith("{") and lines.count("\n{") == len(values) - 1
    # More lines than values: a `msgspec.Raw` in one of them contains a line break.
    if not are_objects or lines.count("\n") != len(values) or _UNLIKE_GO.search(lines):
        return None
    return lines
