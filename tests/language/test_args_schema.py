from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pydantic
import pytest
from pydantic_core import PydanticCustomError

from millhand.args.codec import decoder_of
from millhand.args.schema import args_schema, redacted_decode_error
from millhand.errors import InvalidJob


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=2, pattern="^[a-z]+$")]

    def __post_init__(self) -> None:
        if self.name == "secret":
            raise ValueError(f"{self.name} - at `$.secret`")


class Keeper(msgspec.Struct):
    kind: ClassVar[str] = "keeper"
    pets: list[Cat | Dog]
    by_name: dict[str, Cat] = msgspec.field(default={}, name="byName")
    size: Literal["s", "l"] = "s"


def _even(number: int) -> int:
    if number % 2:
        raise PydanticCustomError("odd", "{number} is odd", {"number": number})
    if number == 0:
        raise PydanticCustomError("zero", "secret")
    if number > 1000:
        raise AssertionError(f"got {number}")
    return number


class Room(pydantic.BaseModel):
    beds: int = pydantic.Field(gt=0, alias="numBeds")


class Stay(pydantic.BaseModel):
    kind: ClassVar[str] = "stay"
    rooms: list[Room] = []
    by_guest: dict[str, Room] = {}
    nights: Annotated[int, pydantic.AfterValidator(_even)] = 2
    board: Literal["full", "none"] = "none"
    link: pydantic.HttpUrl | None = None


@pytest.mark.parametrize(
    ("args_type", "encoded", "fault"),
    [
        (Keeper, "{}", "Object missing required field `pets`"),
        (
            Keeper,
            '{"pets": [{"type": "Cat", "lives": "secret"}]}',
            "Expected `int`, got `str` - at `$.pets[...].lives`",
        ),
        (Keeper, '{"pets": [{"type": "secret"}]}', "Invalid value - at `$.pets[...].type`"),
        (
            Keeper,
            '{"pets": [{"type": "Dog", "name": "x"}]}',
            "Expected `str` of length >= 2 - at `$.pets[...].name`",
        ),
        (
            Keeper,
            '{"pets": [{"type": "Dog", "name": "SECRET"}]}',
            "Expected `str` matching regex '^[a-z]+$' - at `$.pets[...].name`",
        ),
        (
            Keeper,
            '{"pets": [{"type": "Dog", "name": "secret"}]}',
            "refused by its class with ValueError - at `$.pets[...]`",
        ),
        (
            Keeper,
            '{"pets": [], "byName": {"secret": {"type": "Cat"}}}',
            "Object missing required field `lives` - at `$.byName[...]`",
        ),
        (Keeper, '{"pets": [], "size": "secret - at `$.secret`"}', "Invalid enum value - at `$.size`"),
        (Stay, '{"rooms": [{"numBeds": 0}]}', "rooms[...].numBeds: Input should be greater than 0"),
        (Stay, '{"by_guest": {"secret": {}}}', "by_guest[...].numBeds: Field required"),
        (Stay, '{"board": "secret"}', "board: Input should be 'full' or 'none'"),
        (Stay, '{"nights": 77}', "nights: refused as odd"),
        (Stay, '{"nights": 0}', "nights: refused as zero"),
        (Stay, '{"nights": 1002}', "nights: refused as assertion_error"),
        (Stay, '{"link": "secret"}', "link: refused as url_parsing"),
        (Stay, '{"rooms": [{}, {}]}', "rooms[...].numBeds: Field required"),
        (dict[str, Any], "[1]", "Expected `object`, got `array`"),
    ],
)
def test_fault_says_where_and_what_and_no_value(args_type: Any, encoded: str, fault: str) -> None:
    """Whatever was refused, the place and what is expected there are told, and nothing that was in the args."""
    with pytest.raises(InvalidJob) as refusal:
        decoder_of(args_type, "k")(encoded)

    assert redacted_decode_error(refusal.value, args_type) == fault


def test_fault_of_any_error_is_its_name() -> None:
    """What is not a decoder's own error says no more than what it is."""
    assert redacted_decode_error(KeyError("secret"), Keeper) == "refused with KeyError"


def test_schema_has_the_names_of_the_wire() -> None:
    """A schema is JSON Schema as the args' own library writes it, with fields as they are named in JSON."""
    keeper = args_schema(Keeper)
    stay = args_schema(Stay)

    assert keeper["$ref"] == "#/$defs/Keeper"
    assert keeper["$defs"]["Keeper"]["properties"]["byName"]["default"] == {}
    assert stay["$defs"]["Room"]["required"] == ["numBeds"]
    assert args_schema(Any) == {}


def test_schema_of_what_cannot_be_described_is_refused() -> None:
    """A type that only its own code understands has no schema."""

    class Odd(pydantic.BaseModel):
        kind: ClassVar[str] = "odd"
        value: Annotated[Any, pydantic.PlainValidator(len)]
        call: Annotated[object, pydantic.WithJsonSchema({})] = None
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        thing: InvalidJob | None = None

    with pytest.raises(
        TypeError, match=r"^args class must have a JSON Schema, got <class '.*Odd'>: Cannot generate"
    ):
        args_schema(Odd)


@dataclass
class Described:
    """What it is for."""

    kind: ClassVar[str] = "described"
    to: Annotated[str, msgspec.Meta(description="an address", examples=["a@example.com"])]


def test_schema_tells_what_the_class_says_of_itself() -> None:
    """The docstring and what `Meta` adds are in the schema."""
    described = args_schema(Described)["$defs"]["Described"]

    assert described["description"] == "What it is for."
    assert described["properties"]["to"] == {
        "type": "string",
        "description": "an address",
        "examples": ["a@example.com"],
    }


@pytest.mark.parametrize(
    ("encoded", "told"),
    [
        (
            '{"by_guest": {"secret": {}}, "rooms": [{}]}',
            "rooms.0.numBeds: Field required; by_guest[...].numBeds: Field required",
        ),
        ('{"link": "secret"}', "link: refused as url_parsing"),
        ('{"nights": 77}', "nights: 77 is odd"),
        ('{"nights": 1002}', "nights: Assertion failed, got 1002"),
    ],
)
def test_error_of_a_model_has_no_value_but_what_the_class_says(encoded: str, told: str) -> None:
    """What a failed attempt tells of args that a model refuses: the model's own words of a value, and no others."""
    with pytest.raises(InvalidJob) as refusal:
        decoder_of(Stay, "k")(encoded)

    assert str(refusal.value) == f"args of kind 'k' must decode as Stay, got: {told}"
