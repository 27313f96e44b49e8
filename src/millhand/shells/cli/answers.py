"""Ask one database or all of them, and print their answers as one: with a column `database` if all were asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

import click
import msgspec

from millhand.core.errors import DriverError, MillhandError
from millhand.core.job import Json
from millhand.db.driver.protocol import Driver
from millhand.db.schema.migrator import require_schema
from millhand.db.sql import LINE_MILLHAND
from millhand.shells.cli.chosen_database import all_settings_of, command_settings, is_for_all
from millhand.shells.cli.database import named_database, opened, run_with_driver
from millhand.shells.cli.error_text import explained
from millhand.shells.cli.output import NotDone, print_rows
from millhand.shells.cli.table import Columns
from millhand.shells.settings.load import Settings, load_settings

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Row = TypeVar("Row")


class Answers(msgspec.Struct, Generic[T_co], frozen=True, kw_only=True):
    """
    What the databases answered, by name in the order of the settings, and why others did not.

    The answer of one database that was not asked as one of all has the name "".
    """

    values: Mapping[str, T_co]
    failures: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def is_of_all(self) -> bool:
        return "" not in self.values

    def map(self, function: Callable[[T_co], Row]) -> Answers[Row]:
        """Return the answers with a function applied to each."""
        values = {name: function(value) for name, value in self.values.items()}
        return Answers(values=values, failures=self.failures)

    def texts(self, function: Callable[[T_co], Sequence[str]]) -> list[str]:
        """Return texts about the answers, each with the name of its database if all were asked."""
        return [
            f"{name}: {text}" if name else text
            for name, value in self.values.items()
            for text in function(value)
        ]

    def require_all(self) -> None:
        """Print a line for each database that did not answer. Raises: NotDone with the last one."""
        texts = [f"database {name!r} must answer, got: {reason}" for name, reason in self.failures.items()]
        for text in texts[:-1]:
            click.echo(f"error: {explained(text)}", err=True)
        if texts:
            raise NotDone(texts[-1])


def ask(config_path: Path | None, work: Callable[[Driver], Awaitable[T]]) -> Answers[T]:
    """Run `work` with an open driver on the command's database, or on each that the settings name, all at once."""
    return ask_with(config_path, lambda _settings: requiring_line(work))


def run(config_path: Path | None, work: Callable[[Driver], Awaitable[T]]) -> T:
    """Run `work` with an open driver on the command's database, and return its result."""
    return run_with_driver(command_settings(config_path), requiring_line(work), pool_size=1)


def requiring_line(work: Callable[[Driver], Awaitable[T]]) -> Callable[[Driver], Awaitable[T]]:
    """Return work that names the missing migrations if the schema lacks what a statement names."""

    async def go(driver: Driver) -> T:
        try:
            return await work(driver)
        except DriverError as error:
            if error.is_missing:
                await require_schema(driver.pool, driver.schema, LINE_MILLHAND)
            raise

    return go


def ask_with(
    config_path: Path | None, work_of: Callable[[Settings], Callable[[Driver], Awaitable[T]]]
) -> Answers[T]:
    """Do as `ask`; `work_of` returns the work for the settings of a database."""
    if not is_for_all():
        settings = command_settings(config_path)
        return Answers(values={"": run_with_driver(settings, work_of(settings), pool_size=1)})
    each = all_settings_of(load_settings(config_path))
    return asyncio.run(gathered(each, lambda settings: _answer(settings, work_of(settings))))


async def gathered(each: Sequence[Settings], answer: Callable[[Settings], Awaitable[T]]) -> Answers[T]:
    """Return the answers of several databases. One that fails does not keep the others from answering."""

    async def result(settings: Settings) -> T | _Failure:
        try:
            return await answer(settings)
        except (MillhandError, NotDone) as error:
            return _Failure(error.message if isinstance(error, NotDone) else str(error))

    results = await asyncio.gather(*map(result, each))
    named = dict(zip([one.database_name for one in each], results, strict=True))
    return Answers(
        values={name: one for name, one in named.items() if not isinstance(one, _Failure)},
        failures={name: one.reason for name, one in named.items() if isinstance(one, _Failure)},
    )


def ask_and_print(
    config_path: Path | None,
    work: Callable[[Driver], Awaitable[Sequence[Row]]],
    *,
    columns: Columns,
    line: Callable[[Row], Sequence[object]],
    fields: Callable[[Row], Mapping[str, Json]],
    is_json: bool,
    empty: str,
) -> None:
    """Do as `ask`, and print the rows. Raises: NotDone, after that, if a database did not answer."""
    answers = ask(config_path, work)
    print_answers(answers, columns=columns, line=line, fields=fields, is_json=is_json, empty=empty)
    answers.require_all()


def print_answers(
    answers: Answers[Sequence[Row]],
    *,
    columns: Columns,
    line: Callable[[Row], Sequence[object]],
    fields: Callable[[Row], Mapping[str, Json]],
    is_json: bool,
    empty: str,
) -> None:
    """Print the rows of all answers as `print_rows` does; `Answers.require_all` then reports those that are missing."""
    if not answers.is_of_all:
        print_rows(
            answers.values[""], columns=columns, line=line, fields=fields, is_json=is_json, empty=empty
        )
        return
    print_rows(
        [*_named_rows(answers.values)],
        columns=replace(columns, names=("database", *columns.names)),
        line=lambda named: (named[0], *line(named[1])),
        fields=lambda named: {"database": named[0], **fields(named[1])},
        is_json=is_json,
        empty=empty,
    )


class _Failure(msgspec.Struct, frozen=True):
    """Why a database did not answer."""

    reason: str


async def _answer(settings: Settings, work: Callable[[Driver], Awaitable[T]]) -> T:
    base = named_database(settings)
    async with opened(base.driver(settings, 1), base.url, base.url_variable) as driver:
        return await work(driver)


def _named_rows(values: Mapping[str, Sequence[Row]]) -> Iterator[tuple[str, Row]]:
    for name, rows in values.items():
        yield from ((name, row) for row in rows)
