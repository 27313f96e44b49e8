"""A little world that is in order, for the tests of audits, and what can be changed in it to be noticed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from chaos_journal import Execution
from chaos_plan import ChaosJob
from chaos_rows import Row


class Judged(Protocol):
    """What an audit judges by, whichever it is."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def executions(self) -> Sequence[Execution]: ...

    @property
    def rows(self) -> Sequence[Row]: ...


World = TypeVar("World", bound=Judged)


def rows_of(jobs: Sequence[ChaosJob], killed: str, other: str, rescued: str) -> tuple[Row, Row]:
    """
    Return what became of two jobs.

    The first was killed at `killed`, `rescued`, and failed and was completed at `other`; the second is unique, and was
    completed there at once.
    """
    first = Row(
        id=1,
        args=jobs[0].args(),
        attempt=3,
        attempted_by=[killed, other, other],
        errors=[(1, rescued), (2, "boom")],
        metadata={"river:rescue_count": 1},
        state="completed",
    )
    second = Row(
        id=2,
        args=jobs[1].args(),
        attempt=1,
        attempted_by=[other],
        errors=[],
        metadata={},
        state="completed",
        unique_key=b"k",
    )
    return first, second


def world_with(**fields: Any) -> Callable[[World], World]:
    return lambda world: dataclasses.replace(world, **fields)


def row_with(id: int, **fields: Any) -> Callable[[World], World]:
    def change(world: World) -> World:
        rows = [dataclasses.replace(row, **fields) if row.id == id else row for row in world.rows]
        return dataclasses.replace(world, rows=rows)

    return change


def execution_with(index: int, **fields: Any) -> Callable[[World], World]:
    def change(world: World) -> World:
        executions = list(world.executions)
        executions[index] = dataclasses.replace(executions[index], **fields)
        return dataclasses.replace(world, executions=executions)

    return change


def changed(*changes: Callable[[World], World]) -> Callable[[World], World]:
    def change(world: World) -> World:
        for one in changes:
            world = one(world)
        return world

    return change
