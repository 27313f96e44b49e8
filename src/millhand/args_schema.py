"""What is known of an args class from outside: its JSON Schema, and what is wrong with a text that it refuses."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from millhand.args import ArgsType, without_value
from millhand.job import Json

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
_PLACE = re.compile(r" - at `[^`]*`(?: in `[^`]*`)?$")
_INDEX = re.compile(r"\[\d+\]")


def args_schema(args_type: ArgsType) -> dict[str, Json]:
    """
    Return the JSON Schema of args, of draft 2020-12.

    Raises: TypeError if there is none, for a type that pydantic cannot describe.
    """
    if not hasattr(args_type, "__pydantic_validator__"):
        return msgspec.json.schema(args_type)
    from pydantic import PydanticUserError, TypeAdapter  # noqa: PLC0415 - only for those who have it

    try:
        return TypeAdapter(args_type).json_schema()
    except PydanticUserError as error:
        raise TypeError(f"args class must have a JSON Schema, got {args_type!r}: {error.message}") from error


def fault_of(error: BaseException, args_type: ArgsType) -> str:
    """
    Return why args were refused, without anything of their values: where, and what was expected there.

    `error` is what a decoder raised. What the class itself said of a value is left out, for it may quote it.
    """
    cause = error.__cause__ or error
    if isinstance(cause, msgspec.ValidationError):
        return _msgspec_fault(cause)
    if hasattr(cause, "errors"):
        known = frozenset(_property_names(args_type))
        return "; ".join(dict.fromkeys(_pydantic_fault(problem, known) for problem in cause.errors()))
    return f"refused with {type(cause).__name__}"


def _msgspec_fault(error: msgspec.ValidationError) -> str:
    text = without_value(error)
    if error.__cause__ is not None:
        place = _PLACE.search(text)
        text = f"refused by its class with {type(error.__cause__).__name__}" + (place[0] if place else "")
    return _INDEX.sub("[...]", text)


def _pydantic_fault(problem: Mapping[str, Any], known: frozenset[str]) -> str:
    steps = (f".{step}" if step in known else "[...]" for step in problem["loc"])
    place = "".join(steps).removeprefix(".") or "args"
    is_plain = _CONTEXT_OF_THE_CLASS.issuperset(problem.get("ctx", {}))
    if is_plain and problem["type"] in _pydantic_types():
        return f"{place}: {problem['msg']}"
    return f"{place}: refused as {problem['type']}"


def _pydantic_types() -> tuple[str, ...]:
    from pydantic_core.core_schema import ErrorType  # noqa: PLC0415 - only for those who have it

    return typing.get_args(ErrorType)


def _property_names(args_type: ArgsType) -> Iterator[str]:
    """Yield all names that a class gives to fields, so that the keys of maps, which are data, can be told from them."""
    try:
        schema = args_schema(args_type)
    except TypeError:
        return
    for part in (schema, *schema.get("$defs", {}).values()):
        yield from part.get("properties", {})
