"""JSON Schema of args classes, and decode errors that are safe to print."""

from __future__ import annotations

import msgspec

from millhand.args.adapters import ArgsType
from millhand.args.decode_errors import redact_msgspec_error, redact_pydantic_error
from millhand.job import Json


def args_schema(args_type: ArgsType) -> dict[str, Json]:
    """
    Return the JSON Schema, draft 2020-12, of an args class.

    Raises:
        TypeError: If pydantic cannot describe the type.
    """
    if not hasattr(args_type, "__pydantic_validator__"):
        return msgspec.json.schema(args_type)
    from pydantic import PydanticUserError, TypeAdapter  # noqa: PLC0415 - pydantic is optional

    try:
        return TypeAdapter(args_type).json_schema()
    except PydanticUserError as error:
        raise TypeError(f"args class must have a JSON Schema, got {args_type!r}: {error.message}") from error


def redacted_decode_error(error: BaseException, args_type: ArgsType) -> str:
    """
    Return where decoding args failed and what was expected there, without any of their values.

    Messages that the args class itself raised are left out, because they may quote a value.

    Args:
        error: What the decoder of `args_type` raised.
    """
    cause = error.__cause__ or error
    if isinstance(cause, msgspec.ValidationError):
        return redact_msgspec_error(cause)
    if isinstance(cause, ValueError) and hasattr(cause, "errors"):
        from pydantic import TypeAdapter  # noqa: PLC0415 - pydantic is optional

        return redact_pydantic_error(cause, TypeAdapter(args_type))
    return f"refused with {type(cause).__name__}"
