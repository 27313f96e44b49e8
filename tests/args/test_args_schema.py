"""JSON Schema of args classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pydantic
import pytest
from pydantic_core import PydanticCustomError

from millhand.args.schema import args_schema
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
        raise PydanticCustomError("not_even", "{number} is not even", {"number": number})
    if number == 0:
        raise PydanticCustomError("zero", "secret")
    if number > 1000:
        raise AssertionError(f"got {number}")
    return number


class Suite(pydantic.BaseModel):
    beds: int = pydantic.Field(gt=0, alias="numBeds")


class Stay(pydantic.BaseModel):
    kind: ClassVar[str] = "stay"
    suites: list[Suite] = []
    by_guest: dict[str, Suite] = {}
    nights: Annotated[int, pydantic.AfterValidator(_even)] = 2
    board: Literal["full", "none"] = "none"
    link: pydantic.HttpUrl | None = None


def test_schema_has_the_json_names_of_fields() -> None:
    """The schema is the library's own, with fields by their names in JSON."""
    keeper = args_schema(Keeper)
    stay = args_schema(Stay)

    assert keeper["$ref"] == "#/$defs/Keeper"
    assert keeper["$defs"]["Keeper"]["properties"]["byName"]["default"] == {}
    assert stay["$defs"]["Suite"]["required"] == ["numBeds"]
    assert args_schema(Any) == {}


def test_schema_of_an_undescribable_type_raises() -> None:
    """A type that only its own code understands has no schema."""

    class Undescribable(pydantic.BaseModel):
        kind: ClassVar[str] = "undescribable"
        value: Annotated[Any, pydantic.PlainValidator(len)]
        call: Annotated[object, pydantic.WithJsonSchema({})] = None
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        error: InvalidJob | None = None

    with pytest.raises(
        TypeError,
        match=r"^args class must have a JSON Schema, got <class '.*Undescribable'>: Cannot generate",
    ):
        args_schema(Undescribable)


@dataclass
class Described:
    """What it is for."""

    kind: ClassVar[str] = "described"
    to: Annotated[str, msgspec.Meta(description="an address", examples=["a@example.com"])]


def test_schema_has_the_docstring_and_annotations_of_the_class() -> None:
    """The docstring and what `Meta` adds are in the schema."""
    described = args_schema(Described)["$defs"]["Described"]

    assert described["description"] == "What it is for."
    assert described["properties"]["to"] == {
        "type": "string",
        "description": "an address",
        "examples": ["a@example.com"],
    }
