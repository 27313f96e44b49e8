"""What is known of an args class from outside: its JSON Schema, and why a text is refused by it."""

from __future__ import annotations

import msgspec

from millhand.args.codec import ArgsType
from millhand.args.decode_errors import bare_msgspec_fault, bare_pydantic_fault
from millhand.job import Json


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
        return bare_msgspec_fault(cause)
    if isinstance(cause, ValueError) and hasattr(cause, "errors"):
        from pydantic import TypeAdapter  # noqa: PLC0415 - only for those who have it

        return bare_pydantic_fault(cause, TypeAdapter(args_type))
    return f"refused with {type(cause).__name__}"
