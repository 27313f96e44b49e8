"""JSON text as Go's encoder writes it, and the fast encoder that agrees with it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.core.args.go_json import encode_object, fast_encode
from millhand.core.errors import InvalidJob

CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {1}}, "args must hold JSON values only, got {1} at 'a'"),
        ({"a": {1: 2}}, "args must have texts as keys, got 1 at 'a.1'"),
        ([1], "args must be a JSON object, got [1]"),
    ],
)
def test_encode_object_rejects_values_that_are_not_json(value: Any, message: str) -> None:
    """The error names a value that is no text, number, boolean, None, list or map of texts."""
    with pytest.raises(InvalidJob) as refusal:
        encode_object(value, "args")

    assert str(refusal.value) == message


def test_encode_object_rejects_a_cycle() -> None:
    """A value that contains itself raises InvalidJob."""
    with pytest.raises(
        InvalidJob, match=r"^args must be nested at most 200 levels deep, without a cycle, got \{'a': "
    ):
        encode_object({"a": CIRCLE}, "args")


STORABLE = st.text().filter(lambda text: "\x00" not in text)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
# A float without a fraction is written like an integer, and without a type read as one: exact below 2^53.
UNTYPED = st.floats(-1e15, 1e15)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | UNTYPED | STORABLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STORABLE, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(st.dictionaries(STORABLE, PLAIN, max_size=4))
def test_encoded_objects_are_compact_json(value: dict[str, Any]) -> None:
    """Python's own decoder reads the text to the same value, and the text has no blanks and no `<`, `>` or `&`."""
    encoded = encode_object(value, "args")

    assert json.loads(encoded) == value
    assert not set("<>&\u2028\u2029").intersection(encoded)


@given(FINITE)
def test_encoded_floats_are_exact(number: float) -> None:
    """A float reads back the same, with the sign of zero, and has no `.0` and no `+` except before a large exponent."""
    encoded = encode_object({"n": number}, "args").removeprefix('{"n":').removesuffix("}")

    assert repr(float(encoded)) == repr(number)
    assert not encoded.endswith(".0")


ANY_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=3), ANY_PLAIN, max_size=3))
def test_fast_encode_agrees_with_the_slow_encoder(value: dict[str, Any]) -> None:
    """A value that is encoded fast gets Go's text, and a rejected value is rejected by both encoders."""
    quick = fast_encode(value)
    plain = msgspec.to_builtins(value, builtin_types=(datetime,), str_keys=True, order="deterministic")
    try:
        slow = encode_object(plain, "args")
    except InvalidJob:
        assert quick is None
    else:
        assert quick in (None, slow)
