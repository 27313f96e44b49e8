"""
What is wrong with args that were refused, without anything of their values: errors are logged, and args never are.

Two sorts of reader: who sees the error of an attempt gets what the user's own class said of the value, as it said it;
who sees a report gets no words but the libraries'.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

# Of what pydantic says beside its words, these come from the class and not from the value.
_CONTEXT_OF_THE_CLASS = frozenset(
    {
        "actual_length",
        "class",
        "class_name",
        "decimal_places",
        "discriminator",
        "expected",
        "expected_schema",
        "field_type",
        "ge",
        "gt",
        "le",
        "lt",
        "max_digits",
        "max_length",
        "min_length",
        "multiple_of",
        "pattern",
        "whole_digits",
    }
)
# How pydantic calls what a user's own code has raised.
_OWN = frozenset({"assertion_error", "value_error"})
# As in "Invalid enum value 'x' - at `$.color`", or "- at `key` in `$.by_color`".
_TOLD_VALUE = re.compile(r"^(Invalid (?:enum )?value) .*?((?: - at `[^`]*`(?: in `[^`]*`)?)?)$", re.DOTALL)
_PLACE = re.compile(r" - at `[^`]*`(?: in `[^`]*`)?$")
_INDEX = re.compile(r"\[\d+\]")


class Described(Protocol):
    """A pydantic TypeAdapter, as far as it is asked here."""

    def json_schema(self) -> dict[str, Any]: ...


def msgspec_fault(error: Exception) -> str:
    """Return what msgspec says of JSON, and of a value only what the class itself said."""
    return _TOLD_VALUE.sub(r"\1\2", str(error)) if isinstance(error, msgspec.MsgspecError) else str(error)


def bare_msgspec_fault(error: msgspec.ValidationError) -> str:
    """Return what msgspec says of JSON, and nothing that the class itself said; the same for each item of a list."""
    text = msgspec_fault(error)
    if error.__cause__ is not None:
        place = _PLACE.search(text)
        text = f"refused by its class with {type(error.__cause__).__name__}" + (place[0] if place else "")
    return _INDEX.sub("[...]", text)


def pydantic_fault(error: Exception, adapter: Described) -> str:
    """Return what pydantic says of JSON, and of a value only what the class itself said."""
    names = frozenset(_names(adapter))
    return "; ".join(
        f"{_place(problem['loc'], names)}: {_words(problem, has_own=True)}" for problem in _problems(error)
    )


def bare_pydantic_fault(error: Exception, adapter: Described) -> str:
    """Return what pydantic says of JSON, and nothing that the class itself said; the same for each item of a list."""
    names = frozenset(_names(adapter))
    faults = (
        f"{_place(problem['loc'], names, has_numbers=False)}: {_words(problem, has_own=False)}"
        for problem in _problems(error)
    )
    return "; ".join(dict.fromkeys(faults))


def _problems(error: Exception) -> list[dict[str, Any]]:
    return typing.cast(Any, error).errors() if hasattr(error, "errors") else []


def _place(location: tuple[str | int, ...], names: frozenset[str], *, has_numbers: bool = True) -> str:
    """Return where something is; a step that is no name of the class's is the key of a map, which is data."""
    steps = (
        f".{step}" if step in names or (has_numbers and isinstance(step, int)) else "[...]"
        for step in location
    )
    return "".join(steps).removeprefix(".") or "args"


def _words(problem: dict[str, Any], *, has_own: bool) -> str:
    from pydantic_core.core_schema import ErrorType  # noqa: PLC0415 - only for those who have it

    type = problem["type"]
    is_own = type in _OWN or type not in typing.get_args(ErrorType)
    if (is_own and has_own) or (not is_own and _CONTEXT_OF_THE_CLASS.issuperset(problem.get("ctx", {}))):
        return str(problem["msg"])
    return f"refused as {type}"


def _names(adapter: Described) -> Iterator[str]:
    """Yield all names that a class gives to fields."""
    from pydantic import PydanticUserError  # noqa: PLC0415 - only for those who have it

    try:
        schema = adapter.json_schema()
    except PydanticUserError:
        return
    for part in (schema, *schema.get("$defs", {}).values()):
        yield from part.get("properties", {})
