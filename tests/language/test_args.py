from __future__ import annotations

import enum
import json
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
from language_values import golden

from millhand.args.codec import RawArgs, decoder_of, encode_args, kind_of
from millhand.args.fast_json import fast_encode
from millhand.args.go_json import encode_object
from millhand.errors import InvalidJob

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
def test_args_of_every_sort_of_class_are_encoded_and_come_back(args: Any, encoded: str) -> None:
    """A value goes to JSON as Go would write it, and the worker gets an equal value of the same class."""
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
def test_args_are_named_in_json_as_their_class_says(args: Any) -> None:
    """Renamed fields bear the new name on the wire, both ways."""
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
def test_args_are_encoded_as_go_does(case: str, args: Any) -> None:
    """The text is Go's, byte for byte, as it was recorded."""
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
def test_args_have_instants_as_go_writes_them(instant: datetime, text: str) -> None:
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
def test_args_refuse_what_cannot_be_stored_or_read_again(args: Any, message: str) -> None:
    """A value that the table could not hold, or the worker could not read, is refused with its field."""
    with pytest.raises(InvalidJob) as refusal:
        encode_args(args)

    assert str(refusal.value) == message


def test_args_refuse_to_contain_themselves() -> None:
    """A circle is refused, and does not end the process."""
    with pytest.raises(InvalidJob, match=r"^args of kind 'note' must be encodable as JSON, got Note"):
        encode_args(Note("", more=CIRCLE))


class Strict(pydantic.BaseModel):
    kind: ClassVar[str] = "strict"
    model_config = pydantic.ConfigDict(strict=True)
    text: str
    number: int = 0


def test_args_that_are_a_changed_model_are_checked() -> None:
    """Pydantic does not look at what is assigned later; whoever inserts it does."""
    args = Strict(text="a")
    args.text = 7  # type: ignore[assignment]

    with pytest.raises(InvalidJob, match=r"^args of kind 'strict' must be encodable as JSON, got Strict"):
        encode_args(args)


class ByPosition(msgspec.Struct, array_like=True):
    kind: ClassVar[str] = "positions"
    a: int


def test_args_must_be_an_object() -> None:
    """A class that is written as a list has no names to be found by."""
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
    """Args that somebody else wrote wrongly are refused with the kind, the class and the field."""
    with pytest.raises(InvalidJob) as refusal:
        decoder_of(args_type, "k")(encoded)

    assert str(refusal.value) == message


def test_decoder_leaves_out_what_it_does_not_know() -> None:
    """A newer client may say more than this one knows; a class that forbids it is obeyed."""

    class Forbidding(msgspec.Struct, forbid_unknown_fields=True):
        text: str

    assert decoder_of(Note, "note")('{"text": "a", "new": 1}') == Note("a")
    with pytest.raises(InvalidJob, match="Object contains unknown field `new`"):
        decoder_of(Forbidding, "note")('{"text": "a", "new": 1}')


def test_decoder_keeps_numbers_of_any_length() -> None:
    """An integer beyond 64 bits is one of JSON's as well."""
    assert decoder_of(dict[str, int], "k")('{"n": 123456789012345678901234567890}') == {
        "n": 123456789012345678901234567890
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {1}}, "args must hold JSON values only, got {1} at 'a'"),
        ({"a": {1: 2}}, "args must have texts as keys, got 1 at 'a.1'"),
        ([1], "args must be a JSON object, got [1]"),
    ],
)
def test_encode_object_refuses_what_is_no_json(value: Any, message: str) -> None:
    """Plain JSON values are texts, numbers, booleans, None, lists, and maps of texts; anything else is named."""
    with pytest.raises(InvalidJob) as refusal:
        encode_object(value, "args")

    assert str(refusal.value) == message


def test_encode_object_refuses_a_circle() -> None:
    """A value that contains itself has no text."""
    with pytest.raises(InvalidJob, match=r"^args must not contain themselves, got \{'a': "):
        encode_object({"a": CIRCLE}, "args")


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
def test_kind_of_refuses_a_class_without_a_usable_kind(args: Any, message: str) -> None:
    """What has no kind is no args class, and the message says how to make one of it."""
    with pytest.raises(InvalidJob) as refusal:
        kind_of(args)

    assert str(refusal.value) == message


def test_kind_of_takes_values_and_classes() -> None:
    """The kind is that of the class, of raw args their own."""
    assert [kind_of(Note("")), kind_of(Note), kind_of(RawArgs("raw", "{}"))] == ["note", "note", "raw"]


def test_raw_args_keep_numbers_and_escapes_as_written() -> None:
    """Of a text that somebody else encoded only the blanks go, and what Go escapes is escaped."""
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
def test_raw_args_refuse_what_cannot_be_stored(encoded: str, message: str) -> None:
    """A text that is no JSON object, or that jsonb cannot hold, is refused when it is given."""
    with pytest.raises(InvalidJob) as refusal:
        RawArgs("k", encoded)

    assert str(refusal.value) == message


def test_args_do_not_import_what_only_some_users_have() -> None:
    """Neither pydantic nor attrs is loaded for those who use dataclasses."""
    program = """
import sys
from dataclasses import dataclass
from typing import ClassVar
from millhand.args.codec import encode_args
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


@given(STORABLE, FINITE, PLAIN)
def test_args_come_back_equal(text: str, weight: float, more: Any) -> None:
    """Whatever can be encoded decodes to an equal value."""
    args = Note(text, weight, more)

    decoded = decoder_of(Note, "note")(encode_args(args))

    assert decoded == args


@given(st.dictionaries(STORABLE, PLAIN, max_size=4))
def test_encoded_objects_are_json_that_anybody_reads(value: dict[str, Any]) -> None:
    """Python's own decoder reads the text to the same value, and finds no blanks and no `<`, `>` or `&` in it."""
    encoded = encode_object(value, "args")

    assert json.loads(encoded) == value
    assert not set("<>&\u2028\u2029").intersection(encoded)


@given(FINITE)
def test_encoded_floats_are_exact(number: float) -> None:
    """A float reads back the same, sign of zero included, and has no `.0`, no `+` but before a large exponent."""
    encoded = encode_object({"n": number}, "args").removeprefix('{"n":').removesuffix("}")

    assert repr(float(encoded)) == repr(number)
    assert not encoded.endswith(".0")


ANY_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=3), ANY_PLAIN, max_size=3))
def test_quick_text_of_args_is_the_slow_one(value: dict[str, Any]) -> None:
    """Whatever is written the quick way is what Go's encoder writes, and what is refused is refused either way."""
    quick = fast_encode(value)
    plain = msgspec.to_builtins(value, builtin_types=(datetime,), str_keys=True, order="deterministic")
    try:
        slow = encode_object(plain, "args")
    except InvalidJob:
        assert quick is None
    else:
        assert quick in (None, slow)
