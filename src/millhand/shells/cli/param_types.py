"""Types of options and arguments whose errors have the rule, the value and a near match, as all errors of Millhand."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import click

T = TypeVar("T", str | None, tuple[str, ...])


class Whole(click.IntRange):
    """A whole number of a range."""

    def __init__(self, min: int, max: int | None = None) -> None:
        super().__init__(min, max)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"must be a whole number{_range(self)}, got {str(value)!r}", param, ctx)


class Share(click.FloatRange):
    """A number from 0 to 1."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"must be a number from 0 to 1, got {str(value)!r}", param, ctx)


class OneOf(click.Choice):  # type: ignore[type-arg]  # not generic in the oldest release
    """One of several words. `meant` has what to write in place of words that other systems use."""

    def __init__(self, choices: Sequence[str], meant: Mapping[str, str] | None = None) -> None:
        super().__init__(choices)
        self.meant = meant or {}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        if value not in self.choices:
            near = difflib.get_close_matches(str(value), self.choices, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if value in self.meant:
                hint = f"; {self.meant[value]}"
            self.fail(f"must be one of {', '.join(map(repr, self.choices))}, got {value!r}{hint}", param, ctx)
        return value


class SomeOf(OneOf):
    """Words of several, as `a,b`; the option takes `parts` as its callback."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        words = _words(value) or [value]
        return ",".join(super(SomeOf, self).convert(word, param, ctx) for word in words)


def not_empty(ctx: click.Context, param: click.Parameter, value: T) -> T:
    """
    Return the text of an option, or those of a repeatable one. Raises: BadParameter for an empty one.

    `--queue "$QUEUE"` with an empty variable must not select every queue.
    """
    texts = value if isinstance(value, tuple) else (value,)
    if empty := [text for text in texts if text is not None and not text.strip()]:
        raise click.BadParameter(f"must not be empty, got {empty[0]!r}", ctx, param)
    return value


def parts(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """
    Return the parts of a repeatable option that also takes `a,b`. Raises: BadParameter for a value without any.

    `--kind "$KIND"` with an empty variable must not select the jobs of every kind.
    """
    if empty := [value for value in values if not _words(value)]:
        raise click.BadParameter(f"must not be empty, got {empty[0]!r}", ctx, param)
    return tuple(word for value in values for word in _words(value))


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]


def _range(type: click.IntRange) -> str:
    return f" of at least {type.min:,}" if type.max is None else f" from {type.min:,} to {type.max:,}"
