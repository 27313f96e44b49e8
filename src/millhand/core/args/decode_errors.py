"""
Messages of decode errors without the values of args, because errors are logged and args never are.

`describe_*` is for the error of an attempt: it keeps messages that the args class itself raised.
`redacted_decode_error` is for reports: it keeps only messages of msgspec and pydantic.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from millhand.core.errors import InvalidSecret

# The parts of a pydantic error's context that come from the class and not from the value.
_CONTEXT_OF_CLASS = frozenset({
    "actual_length", "class", "class_name", "decimal_places", "discriminator", "expected", "expected_schema",
    "field_type", "ge", "gt", "le", "lt", "max_digits", "max_length", "min_length", "multiple_of", "pattern",
    "whole_digits",
})  # fmt: skip
# Pydantic's error types for what a user's own validator raised.
_RAISED_BY_CLASS = frozenset({"assertion_error", "value_error"})
# As in "Invalid enum value 'x' - at `$.color`", or "- at `key` in `$.by_color`".
_QUOTED_VALUE = re.compile(r"^(Invalid (?:enum )?value) .*?((?: - at `[^`]*`(?: in `[^`]*`)?)?)$", re.DOTALL)
_PLACE = re.compile(r" - at `[^`]*`(?: in `[^`]*`)?$")
_INDEX = re.compile(r"\[\d+\]")


class SchemaSource(Protocol):
    """The part of pydantic's TypeAdapter that is used here."""

    def json_schema(self) -> dict[str, Any]: ...


def describe_msgspec_error(error: Exception) -> str:
    """Return msgspec's message without the value that it quotes."""
    text = str(error)
    return _QUOTED_VALUE.sub(r"\1\2", text) if isinstance(error, msgspec.MsgspecError) else text


def describe_pydantic_error(error: Exception, adapter: SchemaSource) -> str:
    """Return pydantic's messages without values; those that the class itself raised are kept."""
    return "; ".join(_messages(error, adapter, is_redacted=False))


def redacted_decode_error(error: BaseException, args_type: Any) -> str:  # noqa: ANN401 - any args class
    """
    Return where decoding args failed and what was expected there, without any of their values.

    Indexes of lists are left out, and messages that the args class itself raised, because they may quote a value.
    `error` is what the decoder of `args_type` raised.
    """
    if isinstance(error, InvalidSecret):  # its texts contain no values
        return str(error)
    cause = error.__cause__ or error
    if isinstance(cause, msgspec.ValidationError):
        text = describe_msgspec_error(cause)
        if cause.__cause__ is not None:
            place = _PLACE.search(text)
            text = f"refused by its class with {type(cause.__cause__).__name__}" + (place[0] if place else "")
        return _INDEX.sub("[...]", text)
    if isinstance(cause, ValueError) and hasattr(cause, "errors"):
        from pydantic import TypeAdapter  # noqa: PLC0415 - pydantic is optional

        return "; ".join(dict.fromkeys(_messages(cause, TypeAdapter(args_type), is_redacted=True)))
    return f"refused with {type(cause).__name__}"


def _messages(error: Exception, adapter: SchemaSource, *, is_redacted: bool) -> Iterator[str]:
    names = frozenset(_field_names(adapter))
    for problem in typing.cast(Any, error).errors() if hasattr(error, "errors") else ():
        # A step that is no field name is the key of a map, which is data.
        steps = (
            f".{step}" if step in names or (not is_redacted and isinstance(step, int)) else "[...]"
            for step in problem["loc"]
        )
        place = "".join(steps).removeprefix(".") or "args"
        yield f"{place}: {_message(problem, is_redacted=is_redacted)}"


def _message(problem: dict[str, Any], *, is_redacted: bool) -> str:
    from pydantic_core.core_schema import ErrorType  # noqa: PLC0415 - pydantic is optional

    type = problem["type"]
    if type in _RAISED_BY_CLASS or type not in typing.get_args(ErrorType):
        is_safe = not is_redacted
    else:
        is_safe = _CONTEXT_OF_CLASS.issuperset(problem.get("ctx", {}))
    return str(problem["msg"]) if is_safe else f"refused as {type}"


def _field_names(adapter: SchemaSource) -> Iterator[str]:
    from pydantic import PydanticUserError  # noqa: PLC0415 - pydantic is optional

    try:
        schema = adapter.json_schema()
    except PydanticUserError:
        return
    for part in (schema, *schema.get("$defs", {}).values()):
        yield from part.get("properties", {})
