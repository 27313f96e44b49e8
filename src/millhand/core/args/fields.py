"""The fields of args classes by their names in JSON, and the JSON Schema of a class."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Annotated, Any

import msgspec

from millhand.core.args.adapters import ArgsType
from millhand.core.job import Json


class JsonField(msgspec.Struct, frozen=True):
    """
    One field of an args class.

    Attributes:
        type: The type without the outermost `Annotated[…]`.
        classes: The classes in its type that have fields themselves.
        annotations: The arguments of `Annotated[…]`.
    """

    name: str
    type: Any
    classes: tuple[Any, ...]
    annotations: tuple[Any, ...]


def args_schema(args_type: ArgsType) -> dict[str, Json]:
    """Return the JSON Schema, draft 2020-12, of an args class. Raises: TypeError if the type cannot be described."""
    if not hasattr(args_type, "__pydantic_validator__"):
        return msgspec.json.schema(args_type)
    from pydantic import PydanticUserError, TypeAdapter  # noqa: PLC0415 - pydantic is optional

    try:
        return TypeAdapter(args_type).json_schema()
    except PydanticUserError as error:
        raise TypeError(f"args class must have a JSON Schema, got {args_type!r}: {error.message}") from error


def json_fields(args_type: ArgsType) -> list[JsonField]:
    """Return the fields of an args class; none if `args_type` is no class with fields."""
    return [_json_field(name, hint, annotations) for name, hint, annotations in _typed_fields(args_type)]


def may_omit(args: object, name: str) -> bool:
    """Return whether the JSON of a pydantic model may lack the field `name`: it is excluded, or has None or its default."""
    for own_name, field in (_pydantic_fields(type(args)) or {}).items():
        if _json_name(own_name, field) == name:
            is_excluded = bool(field.exclude) or getattr(field, "exclude_if", None) is not None
            return is_excluded or getattr(args, own_name) in (None, field.default)
    return False


def _typed_fields(args_type: ArgsType) -> list[tuple[str, Any, tuple[Any, ...]]]:
    if isinstance(args_type, type) and issubclass(args_type, msgspec.Struct):
        return [(field.encode_name, field.type, ()) for field in msgspec.structs.fields(args_type)]
    pydantic_fields = _pydantic_fields(args_type)
    if pydantic_fields is not None:
        return [
            (_json_name(name, field), field.annotation, tuple(field.metadata))
            for name, field in pydantic_fields.items()
        ]
    is_attrs = hasattr(args_type, "__attrs_attrs__")
    if not is_attrs and not dataclasses.is_dataclass(args_type):
        return []
    fields = args_type.__attrs_attrs__ if is_attrs else dataclasses.fields(args_type)
    hints = typing.get_type_hints(args_type, include_extras=True)
    return [(field.name, hints[field.name], ()) for field in fields]


def _pydantic_fields(args_type: ArgsType) -> dict[str, Any] | None:
    """Return the fields of a pydantic model or dataclass by their names in Python; None for another class."""
    fields = getattr(args_type, "model_fields", None) or getattr(args_type, "__pydantic_fields__", None)
    return fields if isinstance(fields, dict) else None


def _json_name(name: str, field: Any) -> str:  # noqa: ANN401 - pydantic is optional
    return str(field.serialization_alias or field.alias or name)


def _json_field(name: str, hint: ArgsType, annotations: tuple[Any, ...]) -> JsonField:
    origin: object = typing.get_origin(hint)
    if origin is Annotated:
        hint, *more = typing.get_args(hint)
        annotations = (*annotations, *more)
        origin = typing.get_origin(hint)
    is_union = origin is typing.Union or origin is types.UnionType
    members = typing.get_args(hint) if is_union else (hint,)
    return JsonField(name, hint, tuple(member for member in members if _has_fields(member)), annotations)


def _has_fields(cls: ArgsType) -> bool:
    is_known = (
        dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__") or hasattr(cls, "model_fields")
    )
    return isinstance(cls, type) and (is_known or issubclass(cls, msgspec.Struct))
