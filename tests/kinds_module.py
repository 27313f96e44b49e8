"""A user's module with workers of several kinds, for the tests of `millhand kinds`."""

from __future__ import annotations

KINDS_MODULE = """\
import enum
from dataclasses import dataclass
from datetime import date
from typing import ClassVar

import msgspec
import pydantic

from millhand import Config, Job, Workers

workers = Workers()


class Size(enum.Enum):
    SMALL = "s"


@dataclass
class Order:
    kind: ClassVar[str] = "order"
    number: int
    day: date | None = None
    size: Size = Size.SMALL

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(f"no such number: {self.number}")


class Mail(pydantic.BaseModel):
    kind: ClassVar[str] = "mail"
    to: dict[str, int]
    why: str = ""

    @pydantic.field_validator("why")
    @classmethod
    def check(cls, why: str) -> str:
        if why == "secret":
            raise ValueError(f"not {why}")
        if why == "KeyError":
            raise KeyError(why)
        return why


@workers.add(aliases=["old_order"])
async def order(job: Job[Order]) -> None: ...


@workers.add()
async def mail(job: Job[Mail]) -> None: ...


@workers.add()
def resize(keys: list[str], width: int = 640) -> None: ...


config = Config(workers=workers, queues={"default": 1})
"""
