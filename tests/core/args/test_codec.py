from __future__ import annotations

import enum
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar, Literal

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory import golden
from millhand.core.args.codec import RawArgs, decoder_of, encode_args, kind_of
from millhand.core.args.go_json import encode_object
from millhand.core.errors import InvalidJob

ENCODED_BY_GO = {case["name"]: case["encoded_args"] for case in golden("unique_keys")["cases"]}


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Address(msgspec.Struct):
    street: str
    number: int | None = None


@dataclass(frozen=True)
class OrderDataclass:
    kind: ClassVar[str] = "order"
    id: uuid.UUID
    at: datetime
    day: date
    price: Decimal
    size: Size
    address: Address | None
    items: list[dict[str, int | str]] = field(default_factory=list)
    rate: float = 1.0
    channel: Literal["web", "shop"] = "web"


class OrderStruct(msgspec.Struct, frozen=True):
    kind: ClassVar[str] = "order"
    id: uuid.UUID
    at: datetime
    day: date
    price: Decimal
    size: Size
    address: Address | None
    items: list[dict[str, int | str]] = []
    rate: float = 1.0
    channel: Literal["web", "shop"] = "web"


@attrs.frozen
class OrderAttrs:
    kind: ClassVar[str] = "order"
    id: uuid.UUID
    at: datetime
    day: date
    price: Decimal
    size: Size
    address: Address | None
    items: list[dict[str, int | str]] = attrs.field(factory=list)
    rate: float = 1.0
    channel: Literal["web", "shop"] = "web"


class AddressModel(pydantic.BaseModel):
    street: str
    number: int | None = None


class OrderModel(pydantic.BaseModel):
    kind: ClassVar[str] = "order"
    id: uuid.UUID
    at: datetime
    day: date
    price: Decimal
    size: Size
    address: AddressModel | None
    items: list[dict[str, int | str]] = []
    rate: float = 1.0
    channel: Literal["web", "shop"] = "web"


ORDER: dict[str, Any] = {
    "id": uuid.UUID(int=7),
    "at": datetime(2024, 5, 1, 10, 34, 56, 700_000, tzinfo=UTC),
    "day": date(2024, 5, 1),
    "price": Decimal("1.50"),
    "size": Size.LARGE,
    "items": [{"sku": "a<b", "number": 2}],
}
ADDRESS: dict[str, Any] = {"street": "Hauptstraße", "number": None}
ENCODED_ORDER = (
    '{"id":"00000000-0000-0000-0000-000000000007","at":"%s","day":"2024-05-01","price":"1.50","size":"l",'
    '"address":{"street":"Hauptstraße","number":null},"items":[{%s}],"rate":1,"channel":"web"}'
)
SORTED_ITEM = r'"number":2,"sku":"a\u003cb"'
ITEM_AS_WRITTEN = r'"sku":"a\u003cb","number":2'


@pytest.mark.parametrize(
    ("args", "encoded"),
    [
        (
            OrderDataclass(address=Address(**ADDRESS), **ORDER),
            ENCODED_ORDER % ("2024-05-01T10:34:56.7Z", SORTED_ITEM),
        ),
        (
            OrderStruct(address=Address(**ADDRESS), **ORDER),
            ENCODED_ORDER % ("2024-05-01T10:34:56.7Z", SORTED_ITEM),
        ),
        (
            OrderAttrs(address=Address(**ADDRESS), **ORDER),
            '{"address":{"street":"Hauptstraße","number":null},"at":"2024-05-01T10:34:56.7Z","channel":"web",'
            '"day":"2024-05-01","id":"00000000-0000-0000-0000-000000000007","items":[{'
            + SORTED_ITEM
            + '}],"price":"1.50","rate":1,"size":"l"}',
        ),
        (
            OrderModel(address=AddressModel(**ADDRESS), **ORDER),
            ENCODED_ORDER % ("2024-05-01T10:34:56.700000Z", ITEM_AS_WRITTEN),
        ),
    ],
    ids=lambda args: type(args).__name__,
)
def test_encode_args_takes_every_kind_of_class(args: Any, encoded: str) -> None:
    """A value is encoded as Go would write it, and decodes to an equal value of the same class."""
    assert encode_args(args) == encoded
    assert decoder_of(type(args), "order")(encoded) == args


class Renamed(msgspec.Struct, rename="camel"):
    kind: ClassVar[str] = "renamed"
    user_id: int
    full_name: str = msgspec.field(name="name")


class Aliased(pydantic.BaseModel):
    kind: ClassVar[str] = "renamed"
    user_id: int = pydantic.Field(alias="userId")
    full_name: str = pydantic.Field(alias="name")


@pytest.mark.parametrize(
    "args", [Renamed(1, "Bob"), Aliased(userId=1, name="Bob")], ids=["msgspec", "pydantic"]
)
def test_encode_args_uses_the_json_names_of_fields(args: Any) -> None:
    """Renamed fields have their new name in JSON, in both directions."""
    assert encode_args(args) == '{"userId":1,"name":"Bob"}'
    assert decoder_of(type(args), "renamed")('{"userId": 1, "name": "Bob"}') == args


# What Go's encoder wrote, and the same said in Python.


class Numbers(msgspec.Struct):
    kind: ClassVar[str] = "numbers"
    big: int
    exp: float
    fraction: float
    huge: float
    integral: float
    max: int
    min: int
    single: float
    tiny: float
    zero: float


class Listed(msgspec.Struct):
    kind: ClassVar[str] = "list"
    v: list[float]


class Texts(msgspec.Struct, kw_only=True):
    kind: ClassVar[str] = "texts"
    binary: bytes = msgspec.field(name="bytes")
    control: str
    emoji: str
    html: str
    invalid: str
    map: dict[str, Any]
    nil: str | None
    slash: str
    when: datetime


class Omitting(msgspec.Struct):
    kind: ClassVar[str] = "omit"
    a: str
    b: str | msgspec.UnsetType = msgspec.UNSET
    c: int | msgspec.UnsetType = msgspec.UNSET


class Html(msgspec.Struct):
    kind: ClassVar[str] = "htmlunique"
    text: str
    rate: float
    tags: list[str]


THRESHOLDS = [1e20, 1e21, 123456789012345680000.0, 999999999999999900000.0, 0.000001, 0.00000099, 1e-7]
OTHERS = [1.7976931348623157e308, 5e-324, 100.0, 1.5, -2.25]


@pytest.mark.parametrize(
    ("case", "args"),
    [
        ("Go numbers", Numbers(2**64 - 1, 1.5e-9, 0.1, 1e21, 3.0, 2**63 - 1, -(2**63), 0.1, 0.000001, -0.0)),
        ("Go numbers at the exponent thresholds", Listed(THRESHOLDS + OTHERS)),
        (
            "Go texts",
            Texts(
                binary=b"\x00\x01\xfe\xff",
                control="\b\f\n\r\t\x01\x1f\x7f",
                emoji="🎉",
                html="<&>",
                # Go writes its replacement for bytes that are no UTF-8 as an escape; a Python text has no such bytes.
                invalid="a\N{REPLACEMENT CHARACTER}b",
                map={"b": 1, "a": [None, True], "é": "<"},
                nil=None,
                slash='a/b\\c"',
                when=datetime(2024, 5, 1, 10, 34, 56, 700_000, tzinfo=UTC),
            ),
        ),
        ("Go omitempty left out", Omitting("x")),
        ("Go omitempty present", Omitting("x", "y", 0)),
        ("values keep the encoder's text", Html("<é>&", 2.0, ["a b", "ü"])),
    ],
)
def test_encode_args_writes_what_go_writes(case: str, args: Any) -> None:
    """The text is the recorded text of Go's encoder, byte for byte."""
    assert encode_args(args) == ENCODED_BY_GO[case].replace("\\ufffd", "\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2024, 5, 1, tzinfo=UTC), "2024-05-01T00:00:00Z"),
        (datetime(2024, 5, 1, 0, 0, 0, 120, tzinfo=UTC), "2024-05-01T00:00:00.00012Z"),
        (
            datetime(2024, 5, 1, 0, 0, 0, 500_000, tzinfo=timezone(timedelta(hours=-3))),
            "2024-05-01T00:00:00.5-03:00",
        ),
        (
            datetime(2024, 5, 1, 10, 20, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            "2024-05-01T10:20:30+05:30",
        ),
    ],
)
def test_encode_args_writes_instants_as_go_does(instant: datetime, text: str) -> None:
    """An instant has no trailing zeros and keeps its zone."""
    assert encode_object({"at": instant}, "args") == f'{{"at":"{text}"}}'


@dataclass
class Note:
    kind: ClassVar[str] = "note"
    text: str
    weight: float = 0.5
    more: Any = None


class Itself:
    def __repr__(self) -> str:
        return "Itself()"


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            Note("a\x00b"),
            "args of kind 'note' must not hold the character U+0000, which jsonb cannot store, got 'a\\x00b' at 'text'",
        ),
        (
            Note("", more=[{"a": "\ud800"}]),
            (
                "args of kind 'note' must not hold half a surrogate pair, which jsonb cannot store, "
                "got '\\ud800' at 'more.0.a'"
            ),
        ),
        (Note("", float("inf")), "args of kind 'note' must hold finite numbers only, got inf at 'weight'"),
        (Note("", float("nan")), "args of kind 'note' must hold finite numbers only, got nan at 'weight'"),
        (
            Note(7),  # type: ignore[arg-type]
            "args of kind 'note' must decode as Note, got: Expected `str`, got `int` - at `$.text`",
        ),
        (
            Note("", more=Itself()),
            (
                "args of kind 'note' must be encodable as JSON, got Note(text='',...more=Itself()): "
                "Encoding objects of type Itself is unsupported"
            ),
        ),
        (
            Note("", more={"a\x00": 1}),
            (
                "args of kind 'note' must not hold the character U+0000, which jsonb cannot store, "
                "got 'a\\x00' at 'more.a\\x00'"
            ),
        ),
    ],
)
def test_encode_args_rejects_values_that_cannot_be_stored_or_decoded(args: Any, message: str) -> None:
    """The error names the field of a value that the table cannot hold or the worker cannot decode."""
    with pytest.raises(InvalidJob) as refusal:
        encode_args(args)

    assert str(refusal.value) == message


def test_encode_args_rejects_a_cycle() -> None:
    """A value that contains itself raises InvalidJob."""
    with pytest.raises(
        InvalidJob, match=r"^args of kind 'note' must be nested at most 200 levels deep, without"
    ):
        encode_args(Note("", more=CIRCLE))


class Strict(pydantic.BaseModel):
    kind: ClassVar[str] = "strict"
    model_config = pydantic.ConfigDict(strict=True)
    text: str
    number: int = 0


def test_encode_args_checks_a_changed_model() -> None:
    """A pydantic model is checked at the insert, although pydantic does not check assignments."""
    args = Strict(text="a")
    args.text = 7  # type: ignore[assignment]

    with pytest.raises(InvalidJob, match=r"^args of kind 'strict' must be encodable as JSON, got Strict"):
        encode_args(args)


class ByPosition(msgspec.Struct, array_like=True):
    kind: ClassVar[str] = "positions"
    a: int


def test_encode_args_rejects_a_class_written_as_a_list() -> None:
    """A struct with `array_like` raises InvalidJob."""
    with pytest.raises(InvalidJob) as refusal:
        encode_args(ByPosition(1))

    assert str(refusal.value) == "args of kind 'positions' must be a JSON object, got [1]"


@pytest.mark.parametrize(
    ("args_type", "encoded", "message"),
    [
        (Note, "[]", "args of kind 'k' must decode as Note, got: Expected `object`, got `array`"),
        (Note, "{}", "args of kind 'k' must decode as Note, got: Object missing required field `text`"),
        (Note, "{", "args of kind 'k' must decode as Note, got: Input data was truncated"),
        (
            Strict,
            '{"text": 1, "number": "2"}',
            (
                "args of kind 'k' must decode as Strict, got: text: Input should be a valid string; "
                "number: Input should be a valid integer"
            ),
        ),
    ],
)
def test_decoder_names_the_kind_and_the_field(args_type: Any, encoded: str, message: str) -> None:
    """The error of invalid args names the kind, the class and the field."""
    with pytest.raises(InvalidJob) as refusal:
        decoder_of(args_type, "k")(encoded)

    assert str(refusal.value) == message


def test_decoder_ignores_unknown_fields_unless_they_are_forbidden() -> None:
    """A newer client may add fields, unless the class forbids unknown ones."""

    class Forbidding(msgspec.Struct, forbid_unknown_fields=True):
        text: str

    assert decoder_of(Note, "note")('{"text": "a", "new": 1}') == Note("a")
    with pytest.raises(InvalidJob, match="Object contains unknown field `new`"):
        decoder_of(Forbidding, "note")('{"text": "a", "new": 1}')


def test_decoder_keeps_numbers_of_any_length() -> None:
    """An integer beyond 64 bits is decoded exactly."""
    assert decoder_of(dict[str, int], "k")('{"n": 123456789012345678901234567890}') == {
        "n": 123456789012345678901234567890
    }


class NoKind:
    pass


@dataclass
class KindAsField:
    kind: str = "field"


@dataclass
class LongKind:
    kind: ClassVar[str] = "k" * 128


@dataclass
class HalfKind:
    kind: ClassVar[str] = "a\udcffb"


@dataclass
class NulKind:
    kind: ClassVar[str] = "a\x00b"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (NoKind(), "args class must declare its kind as `kind: ClassVar[str] = …`, got NoKind without it"),
        (
            KindAsField(),
            "args class must declare its kind as `kind: ClassVar[str] = …`, got KindAsField without it",
        ),
        ({"a": 1}, "args class must declare its kind as `kind: ClassVar[str] = …`, got dict without it"),
        (HalfKind(), "kind must not hold half a surrogate pair, got 'a\\udcffb'"),
        (NulKind(), "kind must not hold the character U+0000, got 'a\\x00b'"),
        (LongKind(), f"kind must have 1 to 127 characters, got {'k' * 128!r}"),
    ],
)
def test_kind_of_rejects_a_class_without_a_usable_kind(args: Any, message: str) -> None:
    """The error shows how to declare a kind."""
    with pytest.raises(InvalidJob) as refusal:
        kind_of(args)

    assert str(refusal.value) == message


def test_kind_of_takes_values_and_classes() -> None:
    """The kind is the class's, or that of the raw args."""
    assert [kind_of(Note("")), kind_of(Note), kind_of(RawArgs("raw", "{}"))] == ["note", "note", "raw"]


def test_raw_args_keep_numbers_and_escapes_as_written() -> None:
    """Raw args lose only their blanks, and what Go escapes is escaped."""
    args = RawArgs("k", '{ "a" : [ 1.0, 1E+2, -0 ],\n "b" : "caf\\u00e9 <\u2028>" }')

    assert args.encoded == '{"a":[1.0,1E+2,-0],"b":"caf\\u00e9 \\u003c\\u2028\\u003e"}'


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ("{", "args of kind 'k' must be JSON, got '{': Input data was truncated"),
        ("[1]", "args of kind 'k' must be a JSON object, got [1]"),
        (
            '{"a":"\\u0000"}',
            "args of kind 'k' must not hold the character U+0000, which jsonb cannot store, got '\\x00' at 'a'",
        ),
    ],
)
def test_raw_args_reject_what_cannot_be_stored(encoded: str, message: str) -> None:
    """A text that is no JSON object, or that jsonb cannot hold, raises when the args are made."""
    with pytest.raises(InvalidJob) as refusal:
        RawArgs("k", encoded)

    assert str(refusal.value) == message


@pytest.mark.slow
def test_args_import_no_optional_library() -> None:
    """Dataclasses need neither pydantic nor attrs."""
    program = """
import sys
from dataclasses import dataclass
from typing import ClassVar
from millhand.core.args.codec import encode_args
@dataclass
class Note:
    kind: ClassVar[str] = "note"
    text: str
print(encode_args(Note("a")), "pydantic" in sys.modules, "attr" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == '{"text":"a"} False False'


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
@given(STORABLE, FINITE, PLAIN)
def test_args_come_back_equal(text: str, weight: float, more: Any) -> None:
    """What can be encoded decodes to an equal value."""
    args = Note(text, weight, more)

    decoded = decoder_of(Note, "note")(encode_args(args))

    assert decoded == args
