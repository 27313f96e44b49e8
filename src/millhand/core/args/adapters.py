"""
Adapters of args classes: values of a class to plain JSON values, and JSON text back to values.

Dataclasses, msgspec Structs and attrs classes use msgspec. Pydantic models use pydantic, which is imported only for a
model, and which decides itself how strictly it reads, how it writes instants, and in which order it writes maps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
import msgspec.inspect

from millhand.core.args.decode_errors import describe_msgspec_error, describe_pydantic_error
from millhand.core.args.go_json import encode_string, fast_encode
from millhand.core.errors import InvalidJob
from millhand.core.job import Json

ArgsType = Any  # an args class, or any other type that `Job[…]` takes
ArgsValue = Any  # a value of such a type

_MASK = '"**********"'  # what pydantic writes in place of a secret


@functools.lru_cache(maxsize=1024)
def adapter_of(args_type: ArgsType) -> MsgspecAdapter | PydanticAdapter:
    """Return the adapter of an args class. Raises: TypeError if nothing can be decoded into it."""
    is_pydantic = hasattr(args_type, "__pydantic_validator__")
    return PydanticAdapter(args_type) if is_pydantic else MsgspecAdapter(args_type)


class MsgspecAdapter:
    """
    Encodes and decodes the values of one args class.

    `fast_encode` returns None for a value that must be encoded from `to_plain`. `decode` raises InvalidJob beginning
    with `subject`. `decode_lines` decodes one value a line; None, if each must be decoded by itself.
    """

    __slots__ = ("_decode", "_type", "decode_lines")

    def __init__(self, args_type: ArgsType) -> None:
        unsupported = next(_unsupported_classes(msgspec.inspect.type_info(args_type), set()), None)
        if unsupported is not None:
            raise TypeError(f"nothing can be decoded into {_type_name(unsupported)}")
        self._type = args_type
        decoder = msgspec.json.Decoder(args_type)
        self._decode = decoder.decode
        self.decode_lines: Callable[[str], list[ArgsValue]] | None = decoder.decode_lines

    def fast_encode(self, args: object) -> str | None:
        return fast_encode(args)

    def to_plain(self, args: object) -> Json:
        return msgspec.to_builtins(args, builtin_types=(datetime,), str_keys=True, order="deterministic")

    def decode(self, encoded: str, subject: str) -> ArgsValue:
        try:
            return self._decode(encoded)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            reason = describe_msgspec_error(error)
            raise InvalidJob(f"{subject} must decode as {_type_name(self._type)}, got: {reason}") from error
        except RecursionError as error:
            raise InvalidJob(
                f"{subject} must decode as {_type_name(self._type)}, got: more levels of nesting than Python reads"
            ) from error


class PydanticAdapter:
    """Encodes and decodes the values of one pydantic model, as `MsgspecAdapter` does."""

    __slots__ = ("_adapter", "_has_own_types", "_type", "decode_lines")

    def __init__(self, args_type: ArgsType) -> None:
        from pydantic import TypeAdapter  # noqa: PLC0415 - pydantic is optional

        self._type = args_type
        self._adapter = TypeAdapter(args_type)
        self._has_own_types: bool | None = None
        self.decode_lines = None

    def fast_encode(self, args: object) -> str | None:
        return None  # only pydantic knows what the model's serializers return

    def to_plain(self, args: object) -> Json:
        return self._adapter.dump_python(args, mode="json", by_alias=True, warnings="error")

    def masked_secret(self, args: object, encoded: str) -> str | None:
        """
        Return the class of a secret, such as `SecretStr`, of which `encoded` has a mask and not the value; None without one.

        A serializer of the model may write the value. So this compares the text with what the secrets of `args` show.
        """
        if self._has_own_types is None:
            self._has_own_types = _has_own_types(self._adapter.core_schema)
        if not self._has_own_types and _MASK not in encoded:
            return None
        for secret in _secrets_in(self._adapter.dump_python(args, by_alias=True, warnings=False)):
            if secret.get_secret_value() and (_MASK in encoded or encode_string(str(secret)) in encoded):
                return type(secret).__name__
        return None

    def decode(self, encoded: str, subject: str) -> ArgsValue:
        try:
            return self._adapter.validate_json(encoded)
        except ValueError as error:
            reason = describe_pydantic_error(error, self._adapter) or str(error)
            raise InvalidJob(f"{subject} must decode as {_type_name(self._type)}, got: {reason}") from error


def _unsupported_classes(info: object, seen: set[int]) -> Iterator[type]:
    """Yield the classes in a type that msgspec can decode only with a hook, which Millhand does not set."""
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.CustomType):
        yield info.cls
    if isinstance(info, tuple):
        inner: Iterable[object] = info
    elif isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        inner = (getattr(info, name) for name in info.__struct_fields__)
    else:
        return
    for item in inner:
        yield from _unsupported_classes(item, seen)


def _has_own_types(schema: object) -> bool:
    """Return whether a type in a schema of pydantic writes values itself: a subclass of `Secret` chooses its mask."""
    if isinstance(schema, Mapping):
        written = schema.get("serialization")
        function = written.get("function") if isinstance(written, Mapping) else None
        is_own = getattr(function, "__module__", None) == "pydantic.types"
        return is_own or any(map(_has_own_types, schema.values()))
    return isinstance(schema, list | tuple) and any(map(_has_own_types, schema))


def _secrets_in(value: object) -> Iterator[Any]:
    """Yield the secrets of pydantic in what `dump_python` returned, which keeps them as they are."""
    if isinstance(value, dict):
        yield from _secrets_in([*value, *value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _secrets_in(item)
    elif hasattr(value, "get_secret_value"):
        yield value


def _type_name(args_type: ArgsType) -> str:
    return getattr(args_type, "__qualname__", None) or str(args_type)
