"""
Job args: a typed value in Python, a JSON object in the table.

Rule 1: the kind names the worker. The args class declares it as `kind: ClassVar[str]`.
Rule 2: what is inserted can be worked. `encode_args` decodes the text again as the worker will, so a wrong type is
        rejected at the insert and not hours later at the attempt.
Rule 3: the text is the one that River's Go encoder writes, to the byte (`go_json`).

Fields are written as declared; those of attrs classes are sorted, as msgspec writes them.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import reprlib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, cast

import msgspec

from millhand.core.args.adapters import ArgsType, ArgsValue, PydanticAdapter, adapter_of
from millhand.core.args.decode_errors import redacted_decode_error
from millhand.core.args.go_json import compact_object, encode_object, fast_encode_lines, nesting_error
from millhand.core.args.not_args import not_args
from millhand.core.args.secret_fields import require_secret_fields, secret_field_names
from millhand.core.errors import InvalidJob, InvalidSecret
from millhand.core.job import Json

# ASCII word characters, as Go's `\w`; at least two characters; the dot in the middle is U+00B7.
KIND_RE = re.compile(r"\w[\w\-\[\]<>/.·:+]+", re.ASCII)
KIND_CHARACTERS = "ASCII letters, digits, '_' and '-[]<>/.·:+', the first a letter, digit or '_'"
KIND_LENGTH_MAX = 127  # characters, the table's own limit

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class FunctionArgs(msgspec.Struct, frozen=True):
    """The args of a worker function with plain parameters: its parameters by name. `function.args(…)` makes them."""

    kind: ClassVar[str]


@dataclass(frozen=True, slots=True)
class RawArgs:
    """
    Args without a class, as a kind and JSON text; for jobs that another program defines.

    Numbers and escapes stay as written. Blanks are removed, and characters that Go's encoder escapes are escaped.

    `encoded` is the JSON text of an object.

    Raises: InvalidJob if the kind does not fit the table, or the text is no JSON object that jsonb can hold.
    """

    kind: str
    encoded: str

    def __post_init__(self) -> None:
        _check_kind(self.kind)
        object.__setattr__(self, "encoded", compact_object(self.encoded, f"args of kind {self.kind!r}"))


class TypedArgs(Protocol):
    """
    A value whose class declares its kind, as type checkers see it.

    A job, a row, and a worker function are not args: their kind is no constant of their class.
    """

    kind: ClassVar[str]


JobArgs: TypeAlias = TypedArgs | RawArgs
"""
What can be inserted: a value of an args class, or `RawArgs`.

An args class is a dataclass, msgspec Struct, attrs class or pydantic model with a `kind: ClassVar[str]`.
"""


def kind_of(args: object) -> str:
    """
    Return the kind of an args value or an args class.

    Raises: InvalidJob if there is none, or the table cannot hold it.
    """
    if isinstance(args, RawArgs):
        return args.kind
    if isinstance(args, type):
        return _kind_of_class(args)
    cls: ArgsType = type(args)
    if hasattr(cls, "kind"):
        return _kind_of_class(cls)
    return _kind_of_class(typing.get_origin(args) or cls)  # a generic class with its parameters


def kind_of_value(args: object) -> str:
    """Return the kind of args that are about to be inserted. Raises: InvalidJob that says what to write instead."""
    try:
        kind = kind_of(args)
    except InvalidJob:
        described = not_args(args)
        if described is None:
            raise
        raise InvalidJob(described) from None
    if isinstance(args, type):
        raise InvalidJob(not_args(args))
    return kind


def encode_args(args: object) -> str:
    """
    Return the JSON text of an args value, byte for byte as Go's encoder would write it.

    Secret fields are plain in it: `encrypt_args` encrypts them.

    Raises: InvalidJob if `args` cannot be encoded, or could not be decoded again. Names the kind and the field. With secret
    fields, the error shows no value.
    """
    if isinstance(args, RawArgs):
        return args.encoded
    try:
        return _encode_typed(args, f"args of kind {kind_of(args)!r}")
    except InvalidJob as error:
        if isinstance(error, InvalidSecret) or not secret_field_names(cast(ArgsType, type(args))):
            raise
        reason = redacted_decode_error(error, type(args))
    raise InvalidJob(
        f"args of kind {kind_of(args)!r} must be encodable as JSON and decode again, got: {reason}"
    )


def _encode_typed(args: object, subject: str) -> str:
    try:
        adapter = adapter_of(cast(ArgsType, type(args)))
        encoded = adapter.fast_encode(args)
        plain = adapter.to_plain(args) if encoded is None else None
    except RecursionError as error:
        raise nesting_error(subject, args) from error
    except Exception as error:  # a user's type may raise anything; all of it means that this is no args value
        raise InvalidJob(f"{subject} must be encodable as JSON, got {reprlib.repr(args)}: {error}") from error
    if encoded is None:
        encoded = encode_object(cast(Json, plain), subject)
        if isinstance(adapter, PydanticAdapter):
            _require_secrets(adapter, args, encoded, cast("dict[str, Json]", plain), subject)
    adapter.decode(encoded, subject)
    return encoded


def _require_secrets(
    adapter: PydanticAdapter, args: object, encoded: str, plain: Mapping[str, Json], subject: str
) -> None:
    """Raise InvalidSecret if pydantic left out a secret of a model, or wrote it where it would stay plain."""
    masked = adapter.masked_secret(args, encoded)
    if masked is not None:
        raise InvalidSecret(
            f"{subject} must be written with their values, got a {masked}, which pydantic writes as asterisks; write "
            "Annotated[str, Secret], or a field_serializer that returns the value"
        )
    require_secret_fields(args, plain, subject)


def encode_many(many: Sequence[object]) -> list[str] | None:
    """Return the texts of a batch of args values; None if each must be encoded by `encode_args`, as with secret fields."""
    types = list(map(type, many))
    lines = None if any(issubclass(cls, RawArgs) for cls in set(types)) else fast_encode_lines(many)
    if lines is None:
        return None
    texts = lines[:-1].split("\n")
    if len(set(types)) == 1:
        return texts if _can_decode(types[0], lines) else None
    by_class: dict[type, list[str]] = {}
    for cls, text in zip(types, texts, strict=True):
        by_class.setdefault(cls, []).append(text)
    return texts if all(_can_decode(cls, "\n".join(own)) for cls, own in by_class.items()) else None


def decoder_of(args_type: ArgsType, kind: str) -> Callable[[str], ArgsValue]:
    """
    Return a function that decodes JSON text into `args_type`. Make it once for each worker.

    The function raises InvalidJob. It ignores fields that the type does not know, unless the type forbids them, so that
    a newer client can add fields. Raises: TypeError if nothing can be decoded into `args_type`.
    """
    return functools.partial(adapter_of(args_type).decode, subject=f"args of kind {kind!r}")


def _can_decode(args_type: ArgsType, lines: str) -> bool:
    try:
        decode_lines = adapter_of(args_type).decode_lines
        if decode_lines is None or secret_field_names(args_type):
            return False
        decode_lines(lines)
    except Exception:  # noqa: BLE001 - `encode_args` finds the value and reports the error
        return False
    return True


@functools.lru_cache(maxsize=1024)
def _kind_of_class(cls: type) -> str:
    kind = getattr(cls, "kind", None)
    names = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else ()
    if not isinstance(kind, str) or "kind" in names:  # a field of its values is no constant of the class
        raise InvalidJob(
            f"args class must declare its kind as `kind: ClassVar[str] = …`, got {cls.__qualname__} without it"
        )
    _check_kind(kind)
    return kind


def _check_kind(kind: str) -> None:
    if not 1 <= len(kind) <= KIND_LENGTH_MAX:
        raise InvalidJob(f"kind must have 1 to {KIND_LENGTH_MAX} characters, got {kind!r}")
    if "\x00" in kind:
        raise InvalidJob(f"kind must not hold the character U+0000, got {kind!r}")
    if _LONE_SURROGATE.search(kind):
        raise InvalidJob(f"kind must not hold half a surrogate pair, got {kind!r}")
