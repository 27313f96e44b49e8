"""The types that a field of args may have: values are decoded as they were encoded, and unsupported types raise at once."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, NewType, TypedDict
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.core.args.codec import decoder_of, encode_args
from millhand.core.errors import ConfigError, InvalidJob
from millhand.core.worker import Workers
from millhand.core.worker_job import Job

CustomerId = NewType("CustomerId", int)


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Card(msgspec.Struct, frozen=True, tag="card"):
    number: str


class Invoice(msgspec.Struct, frozen=True, tag="invoice"):
    days: int = 30


class Point(NamedTuple):
    x: float
    y: float


class Size(TypedDict):
    width: int
    height: int


@dataclass(frozen=True)
class Line:
    sku: str
    price: Decimal
    note: str | None = None


@attrs.frozen
class Stamp:
    value: int
    place: str = attrs.field(default="here")


@dataclass(frozen=True, kw_only=True)
class Everything:
    kind: ClassVar[str] = "everything"
    at: datetime
    binary: bytes
    by_id: dict[uuid.UUID, Line]
    by_number: dict[int, Color]
    color: Color
    customer: CustomerId
    day: date
    days: frozenset[date] = frozenset()
    delay: timedelta
    id: uuid.UUID
    level: Level | None = None
    lines: list[Line] = field(default_factory=list)
    mode: Literal["fast", "slow"] = "fast"
    number: int | str | None = None
    payment: Card | Invoice
    point: Point | None = None
    price: Decimal
    size: Size | None = None
    stamp: Stamp | None = None
    time: time
    width: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1


class CardModel(pydantic.BaseModel, frozen=True):
    type: Literal["card"] = "card"
    number: str


class InvoiceModel(pydantic.BaseModel, frozen=True):
    type: Literal["invoice"] = "invoice"
    days: int = 30


class LineModel(pydantic.BaseModel, frozen=True):
    sku: str
    price: Decimal
    note: str | None = None


class StampModel(pydantic.BaseModel, frozen=True):
    value: int
    place: str = "here"


class EverythingModel(pydantic.BaseModel, frozen=True):
    model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    kind: ClassVar[str] = "everything"
    at: pydantic.AwareDatetime
    binary: bytes
    by_id: dict[uuid.UUID, LineModel]
    by_number: dict[int, Color]
    color: Color
    customer: CustomerId
    day: date
    days: frozenset[date] = frozenset()
    delay: timedelta
    id: uuid.UUID
    level: Level | None = None
    lines: list[LineModel] = []
    mode: Literal["fast", "slow"] = "fast"
    number: int | str | None = None
    payment: CardModel | InvoiceModel = pydantic.Field(discriminator="type")
    point: Point | None = None
    price: Decimal
    size: dict[str, int] | None = None
    stamp: StampModel | None = None
    time: time
    width: int = pydantic.Field(1, ge=1, le=4096)


TEXTS = st.text().filter(lambda text: "\x00" not in text)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
INT64 = st.integers(-(2**63), 2**63 - 1)
OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
ZONES = (
    st.just(UTC) | OFFSETS | st.sampled_from(["Europe/Berlin", "Asia/Kolkata", "Pacific/Apia"]).map(ZoneInfo)
)
# Not the days at the ends of time, which are no days in another zone.
BEGIN, END = datetime(2, 1, 1), datetime(9998, 12, 31)  # noqa: DTZ001 - zones are drawn apart
INSTANTS = st.datetimes(BEGIN, END, timezones=ZONES, allow_imaginary=False)
# Pydantic writes the offsets of local mean times without their seconds.
LATER_INSTANTS = st.datetimes(datetime(1950, 1, 1), END, timezones=ZONES, allow_imaginary=False)  # noqa: DTZ001
# ISO 8601 durations are read as whole microseconds of a C integer.
DURATIONS = st.timedeltas(timedelta(days=-100_000), timedelta(days=100_000))
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def everything(
    line: Any, card: Any, invoice: Any, stamp: Any, instants: Any
) -> st.SearchStrategy[dict[str, Any]]:
    """Return a value for every field, with nested values made by the given classes."""
    lines = st.builds(line, sku=TEXTS, price=DECIMALS, note=st.none() | TEXTS)
    optional = {
        "days": st.frozensets(st.dates(), max_size=3),
        "level": st.none() | st.sampled_from(Level),
        "lines": st.lists(lines, max_size=3),
        "mode": st.sampled_from(["fast", "slow"]),
        "number": st.none() | st.integers() | TEXTS,
        "point": st.none() | st.builds(Point, FINITE, FINITE),
        "size": st.none() | st.fixed_dictionaries({"width": INT64, "height": INT64}),
        "stamp": st.none() | st.builds(stamp, value=INT64, place=TEXTS),
        "width": st.integers(1, 4096),
    }
    required = {
        "at": instants,
        "binary": st.binary(),
        "by_id": st.dictionaries(st.uuids(), lines, max_size=2),
        "by_number": st.dictionaries(INT64, st.sampled_from(Color), max_size=2),
        "color": st.sampled_from(Color),
        "customer": INT64.map(CustomerId),
        "day": st.dates(),
        "delay": DURATIONS,
        "id": st.uuids(),
        "payment": st.builds(card, number=TEXTS) | st.builds(invoice, days=INT64),
        "price": DECIMALS,
        "time": st.times(),
    }
    return st.fixed_dictionaries(required, optional=optional)


@pytest.mark.slow
@given(everything(Line, Card, Invoice, Stamp, INSTANTS))
def test_types_come_back_as_they_were(values: dict[str, Any]) -> None:
    """Dates, durations, decimals, enums, ids, bytes, unions, maps, nested and optional fields decode to equal values."""
    args = Everything(**values)

    decoded = decoder_of(Everything, "everything")(encode_args(args))

    # In UTC, for Python calls an hour that a zone has twice unequal to all others.
    assert replace(decoded, at=decoded.at.astimezone(UTC)) == replace(args, at=args.at.astimezone(UTC))


@pytest.mark.slow
@given(everything(LineModel, CardModel, InvoiceModel, StampModel, LATER_INSTANTS))
def test_types_come_back_from_a_model(values: dict[str, Any]) -> None:
    """The fields of a pydantic model decode to equal values, with unions that are discriminated by a field."""
    args = EverythingModel(**values)

    decoded = decoder_of(EverythingModel, "everything")(encode_args(args))

    in_utc = decoded.model_copy(update={"at": decoded.at.astimezone(UTC)})
    assert in_utc == args.model_copy(update={"at": args.at.astimezone(UTC)})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(1880, 1, 1, 12, tzinfo=ZoneInfo("Europe/Berlin")), '"1880-01-01T11:06:32Z"'),
        (
            datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-1, microseconds=1))),
            '"2024-01-01T00:59:59.999999Z"',
        ),
        (datetime(2024, 7, 1, tzinfo=ZoneInfo("Europe/Berlin")), '"2024-07-01T00:00:00+02:00"'),
        (datetime(2024, 7, 1), '"2024-07-01T00:00:00"'),  # noqa: DTZ001 - to see what becomes of it
        (timedelta(days=1, hours=2, microseconds=5), '"P1DT7200.000005S"'),
        (Decimal("1.10"), '"1.10"'),
        (Color.BLUE, '"b"'),
        (Level.HIGH, "2"),
        (b"\x00\xff", '"AP8="'),
        (Card("1"), '{"type":"card","number":"1"}'),
        ({uuid.UUID(int=1): 1}, '{"00000000-0000-0000-0000-000000000001":1}'),
        (Point(1.0, 2.5), "[1,2.5]"),
        (frozenset({date(2024, 1, 2), date(2024, 1, 1)}), '["2024-01-01","2024-01-02"]'),
    ],
)
def test_types_have_these_texts(value: Any, text: str) -> None:
    """The table has these texts; an instant whose offset has seconds, which RFC 3339 lacks, is written in UTC."""

    @dataclass
    class One:
        kind: ClassVar[str] = "one"
        value: Any

    assert encode_args(One(value)) == f'{{"value":{text}}}'


# What Go writes, and what Python's classes make of it.


class FromGo(msgspec.Struct, rename={"created_at": "CreatedAt", "user_id": "userID"}, kw_only=True):
    created_at: datetime
    user_id: int
    tags: list[str] | None
    note: str = ""


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (
            '{"CreatedAt":"2024-05-01T10:34:56.123456789Z","userID":9007199254740993,"tags":null}',
            FromGo(created_at=datetime(2024, 5, 1, 10, 34, 56, 123_457, UTC), user_id=2**53 + 1, tags=None),
        ),
        (
            '{"CreatedAt":"0001-01-01T00:00:00Z","userID":0,"tags":[],"note":"n"}',
            FromGo(created_at=datetime(1, 1, 1, tzinfo=UTC), user_id=0, tags=[], note="n"),
        ),
        (
            '{"CreatedAt":"2024-12-31T23:59:59.9999999+05:30","userID":-1,"tags":["a"]}',
            FromGo(
                created_at=datetime(2025, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
                user_id=-1,
                tags=["a"],
            ),
        ),
    ],
)
def test_struct_of_go_is_decoded(encoded: str, expected: FromGo) -> None:
    """Renamed, omitted and null fields and 64-bit numbers are read, and nanoseconds are rounded to microseconds."""
    assert decoder_of(FromGo, "k")(encoded) == expected


# What cannot be.


class Untagged(msgspec.Struct):
    a: int


class Unsupported:
    pass


def _registered(annotation: Any) -> None:
    def work(value: Any) -> None: ...

    work.__annotations__["value"] = annotation
    Workers().add(kind="work")(work)


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (complex, "nothing can be decoded into complex"),
        (Unsupported | None, "nothing can be decoded into Unsupported"),
        (list[dict[str, Unsupported]], "nothing can be decoded into Unsupported"),
        (str | date, "Type unions may not contain more than one str-like type"),
        (Untagged | Card, "must be tagged"),
        (list[int] | set[int], "Type unions may not contain more than one array-like"),
        (EverythingModel | None, "nothing can be decoded into EverythingModel"),
    ],
)
def test_types_that_cannot_be_decoded_are_rejected_at_registration(annotation: Any, said: str) -> None:
    """A worker whose args could never be decoded is rejected when it is registered, with the type."""
    with pytest.raises(
        ConfigError, match=r"^args of worker .*work must be decodable from JSON, got: "
    ) as refusal:
        _registered(annotation)

    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "annotation", [Line | None, int | float | str, Card | Invoice | None, Job[Any] | int, Point]
)
def test_unions_that_can_be_distinguished_are_accepted(annotation: Any) -> None:
    """A union may have one type of each kind of JSON, and structs with a tag."""
    if Job[Any] in getattr(annotation, "__args__", ()):
        with pytest.raises(ConfigError, match="must be decodable from JSON, got: "):
            _registered(annotation)
    else:
        _registered(annotation)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("width", 0, "Expected `int` >= 1 - at `$.width`"),
        ("day", "2024-13-01", "Invalid RFC3339 encoded date - at `$.day`"),
        ("day", datetime(2024, 1, 1, tzinfo=UTC), "Invalid RFC3339 encoded date - at `$.day`"),
        ("delay", 5, "Expected `duration`, got `int` - at `$.delay`"),
        ("price", "much", "Invalid decimal string - at `$.price`"),
        ("color", "green", "Invalid enum value - at `$.color`"),
        ("id", "7", "Invalid UUID - at `$.id`"),
        ("payment", {"type": "cash"}, "Invalid value - at `$.payment.type`"),
        ("lines", [Line("a", Decimal(1), note=7)], "Expected `str | null`, got `int` - at `$.lines[0].note`"),  # type: ignore[arg-type]
        ("size", {"width": 1}, "Object missing required field `height` - at `$.size`"),
    ],
)
def test_values_of_a_wrong_type_are_rejected_at_the_insert(field: str, value: Any, said: str) -> None:
    """The error names the place of a value that a type checker has not seen."""
    values: dict[str, Any] = {
        "at": datetime(2024, 1, 1, tzinfo=UTC),
        "binary": b"",
        "by_id": {},
        "by_number": {},
        "color": Color.RED,
        "customer": CustomerId(1),
        "day": date(2024, 1, 1),
        "delay": timedelta(0),
        "id": uuid.UUID(int=0),
        "payment": Invoice(),
        "price": Decimal(1),
        "time": time(1),
    }
    with pytest.raises(InvalidJob) as refusal:
        encode_args(Everything(**values | {field: value}))

    assert str(refusal.value) == f"args of kind 'everything' must decode as Everything, got: {said}"
