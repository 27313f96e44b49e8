"""Args classes for the tests of schemas and decode errors."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
import pydantic
from pydantic_core import PydanticCustomError


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
