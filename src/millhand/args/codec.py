"""
Args: what a job is told. A typed value of the user's in Python, a JSON object in the table.

Rule 1: the kind is the string that says which worker, and the args class says it: `kind: ClassVar[str]`.
Rule 2: what is inserted can be worked: args are encoded, and the text decoded again as the worker will, before
        anything is sent. A wrong type is refused where it was made, not hours later where it is read.
Rule 3: the text is the one that River's Go encoder would write, to the byte, since unique keys are hashed from it: no
        blanks, non-ASCII as it is, `<`, `>`, `&`, U+2028 and U+2029 escaped, maps sorted, floats as Go prints them.
Rule 4: what PostgreSQL's jsonb cannot hold (U+0000, lone surrogates) is refused by name.

Dataclasses, msgspec Structs and attrs classes go through msgspec; pydantic models through pydantic, which is imported
only when such a model comes along, and which decides by itself how strict it reads, how it writes instants, and in which
order maps. attrs classes are written with their fields sorted, for msgspec does so; other classes as declared.
"""

from __future__ import annotations

import dataclasses
import functools
import json.encoder
import math
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Protocol, TypeAlias, cast

import msgspec
import msgspec.inspect

from millhand.args.decode_errors import msgspec_fault, pydantic_fault
from millhand.args.fast_json import quick_lines, quick_text
from millhand.errors import InvalidJob
from millhand.job import Json

# ASCII word characters, as Go's `\w`; at least two characters; the dot in the middle is U+00B7.
KIND_PATTERN = r"\w[\w\-\[\]<>/.·:+]+"
KIND_RE = re.compile(KIND_PATTERN, re.ASCII)
KIND_LENGTH_MAX = 127  # the table's own limit, in characters

# Where Go's encoder goes over to exponents, at both ends.
FIXED_MIN = 1e-6
FIXED_END = 1e21

ArgsType = Any  # an args class, or anything else that can stand in the brackets of `Job[…]`
ArgsValue = Any  # a value of such a type

_HALF_PAIR = re.compile("[\ud800-\udfff]")
_ESCAPED_BY_GO = re.compile("[<>&\u2028\u2029]")
_ESCAPES = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}


class FunctionArgs(msgspec.Struct, frozen=True):
    """What `args(...)` of a function with plain parameters makes: the parameters, by name."""

    kind: ClassVar[str]


@dataclass(frozen=True, slots=True)
class RawArgs:
    """
    Args without a class: a kind, and the JSON text of an object as somebody else wrote it.

    Numbers and escapes stay as written; blanks go, and what Go's encoder escapes is escaped.
    """

    kind: str
    encoded: str

    def __post_init__(self) -> None:
        _check_kind(self.kind)
        object.__setattr__(self, "encoded", _compact(self.encoded, f"args of kind {self.kind!r}"))


class TypedArgs(Protocol):
    """
    A value of an args class, as a type checker knows it: the class says its kind.

    Neither a job, nor a row, nor a function that was made a worker is one: theirs is no constant of their class.
    """

    kind: ClassVar[str]


JobArgs: TypeAlias = TypedArgs | RawArgs
"""What can be inserted."""


def kind_of(args: object) -> str:
    """
    Return the kind of an args value or an args class.

    Raises: InvalidJob if there is none, or one that the table cannot hold.
    """
    if isinstance(args, RawArgs):
        return args.kind
    if isinstance(args, type):
        return _kind_of_class(args)
    cls: ArgsType = type(args)
    if hasattr(cls, "kind"):  # a value; what else has one is a class with its parameters
        return _kind_of_class(cls)
    return _kind_of_class(typing.get_origin(args) or cls)


def encode_args(args: object) -> str:
    """
    Return the JSON text of an args value, byte for byte as Go's encoder would write it.

    Raises: InvalidJob naming the kind and the field, for what cannot be encoded, or could not be decoded again.
    """
    if isinstance(args, RawArgs):
        return args.encoded
    subject = f"args of kind {kind_of(args)!r}"
    try:
        adapter = _adapter(cast(ArgsType, type(args)))
        encoded = adapter.quick_text(args)
        plain = adapter.plain(args) if encoded is None else None
    except Exception as error:  # whatever a user's type or pydantic raises means: this is no args value
        raise InvalidJob(f"{subject} must be encodable as JSON, got {reprlib.repr(args)}: {error}") from error
    if encoded is None:
        encoded = encode_object(cast(Json, plain), subject)
    adapter.decode(encoded, subject)
    return encoded


def encode_many(many: Sequence[object]) -> list[str] | None:
    """Return the texts of args values, a whole batch in one go; None if `encode_args` has to look at each."""
    types = list(map(type, many))
    lines = None if any(issubclass(cls, RawArgs) for cls in set(types)) else quick_lines(many)
    if lines is None:
        return None
    texts = lines[:-1].split("\n")
    if len(set(types)) == 1:
        return texts if _reads_lines(types[0], lines) else None
    by_class: dict[type, list[str]] = {}
    for cls, text in zip(types, texts, strict=True):
        by_class.setdefault(cls, []).append(text)
    return texts if all(_reads_lines(cls, "\n".join(own)) for cls, own in by_class.items()) else None


def decoder_of(args_type: ArgsType, kind: str) -> Callable[[str], ArgsValue]:
    """
    Return the function that decodes JSON text into `args_type`; made once per worker, called once per attempt.

    The function raises InvalidJob naming the kind and the field. Fields that the type does not know are left out, so
    that a newer client may say more, unless the type forbids them.

    Raises: TypeError if nothing can be decoded into `args_type`.
    """
    adapter = _adapter(args_type)
    return functools.partial(adapter.decode, subject=f"args of kind {kind!r}")


def encode_object(value: Json, subject: str) -> str:
    """
    Return plain JSON values as the text of an object, as Go would write it.

    Raises: InvalidJob for anything but an object, and for what jsonb cannot hold.
    """
    if not isinstance(value, dict):
        raise InvalidJob(f"{subject} must be a JSON object, got {reprlib.repr(value)}")
    try:
        return _text(value)
    except _RefusedValue as error:
        where = f" at {error.path!r}" if error.path else ""
        raise InvalidJob(f"{subject} must {error.rule}, got {reprlib.repr(error.value)}{where}") from None
    except RecursionError as error:
        raise InvalidJob(f"{subject} must not contain themselves, got {reprlib.repr(value)}") from error


class WireField(msgspec.Struct, frozen=True):
    """
    One field of an args class: its name in JSON, the classes its values may be of, and what its annotation adds.

    `marks` are the further things in `Annotated[…]`; `classes` are those of its type that have fields themselves.
    """

    name: str
    classes: tuple[Any, ...]
    marks: tuple[Any, ...]


def wire_fields(args_type: ArgsType) -> list[WireField]:
    """Return the fields of an args class as they are named in JSON; none if it is no class with fields."""
    return [_wire_field(name, annotation, marks) for name, annotation, marks in _annotated_fields(args_type)]


def quoted(text: str) -> str:
    """Return a text as a JSON string, as Go's encoder writes it."""
    if "\x00" in text:
        raise _RefusedValue("not hold the character U+0000, which jsonb cannot store", text)
    if not text.isascii():
        _check_surrogates(text)
    quoted = json.encoder.encode_basestring(text)
    return _ESCAPED_BY_GO.sub(_escape, quoted) if _ESCAPED_BY_GO.search(quoted) else quoted


class _Adapter(Protocol):
    """How values of one args class become plain JSON values, and come back from a text."""

    def quick_text(self, args: object) -> str | None: ...

    def plain(self, args: object) -> Json: ...

    def decode(self, encoded: str, subject: str) -> ArgsValue: ...

    def check_lines(self, lines: str) -> bool: ...


class _MsgspecAdapter:
    __slots__ = ("_decode", "_decode_lines", "_type")

    def __init__(self, args_type: ArgsType) -> None:
        foreign = next(_foreign_classes(msgspec.inspect.type_info(args_type), set()), None)
        if foreign is not None:
            raise TypeError(f"nothing can be decoded into {_name(foreign)}")
        self._type = args_type
        self._decode = msgspec.json.Decoder(args_type).decode
        self._decode_lines = msgspec.json.Decoder(args_type).decode_lines

    def quick_text(self, args: object) -> str | None:
        return quick_text(args)

    def plain(self, args: object) -> Json:
        return msgspec.to_builtins(args, builtin_types=(datetime,), str_keys=True, order="deterministic")

    def decode(self, encoded: str, subject: str) -> ArgsValue:
        try:
            return self._decode(encoded)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise InvalidJob(
                f"{subject} must decode as {_name(self._type)}, got: {msgspec_fault(error)}"
            ) from error

    def check_lines(self, lines: str) -> bool:
        self._decode_lines(lines)
        return True


class _PydanticAdapter:
    __slots__ = ("_adapter", "_type")

    def __init__(self, args_type: ArgsType) -> None:
        from pydantic import TypeAdapter  # noqa: PLC0415 - only for those who have it

        self._type = args_type
        self._adapter = TypeAdapter(args_type)

    def quick_text(self, args: object) -> str | None:
        return None  # what a serializer of the model's makes of a value, pydantic alone knows

    def plain(self, args: object) -> Json:
        return self._adapter.dump_python(args, mode="json", by_alias=True, warnings="error")

    def decode(self, encoded: str, subject: str) -> ArgsValue:
        try:
            return self._adapter.validate_json(encoded)
        except ValueError as error:
            told = pydantic_fault(error, self._adapter) or str(error)
            raise InvalidJob(f"{subject} must decode as {_name(self._type)}, got: {told}") from error

    def check_lines(self, lines: str) -> bool:
        return False  # pydantic reads one at a time


@functools.lru_cache(maxsize=1024)
def _adapter(args_type: ArgsType) -> _Adapter:
    is_pydantic = hasattr(args_type, "__pydantic_validator__")
    return _PydanticAdapter(args_type) if is_pydantic else _MsgspecAdapter(args_type)


def _reads_lines(args_type: ArgsType, lines: str) -> bool:
    try:
        return _adapter(args_type).check_lines(lines)
    except Exception:  # noqa: BLE001 - whoever reads it alone says what is wrong
        return False


class _RefusedValue(Exception):
    def __init__(self, rule: str, value: object) -> None:
        super().__init__(rule)
        self.rule = rule
        self.value = value
        self.steps: list[str] = []

    @property
    def path(self) -> str:
        return ".".join(reversed(self.steps))


def _text(value: Json) -> str:
    if isinstance(value, str):
        return quoted(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, dict):
        return "{" + ",".join([_member(key, item) for key, item in value.items()]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([_item(index, item) for index, item in enumerate(value)]) + "]"
    if isinstance(value, datetime):
        return quoted(_datetime_text(value))
    raise _RefusedValue("hold JSON values only", value)


def _member(key: object, item: Json) -> str:
    try:
        if not isinstance(key, str):
            raise _RefusedValue("have texts as keys", key)
        return f"{quoted(key)}:{_text(item)}"
    except _RefusedValue as error:
        error.steps.append(str(key))
        raise


def _item(index: int, item: Json) -> str:
    try:
        return _text(item)
    except _RefusedValue as error:
        error.steps.append(str(index))
        raise


def _check_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _RefusedValue("not hold half a surrogate pair, which jsonb cannot store", text) from None


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES[match[0]]


def _float_text(value: float) -> str:
    """Shortest digits that read back the same; an exponent only below 1e-6 and from 1e21, without leading zeros."""
    if not math.isfinite(value):
        raise _RefusedValue("hold finite numbers only", value)
    if value == 0.0:
        return "-0" if math.copysign(1.0, value) < 0 else "0"
    digits = float.__repr__(value)
    if FIXED_MIN <= abs(value) < FIXED_END:
        return format(Decimal(digits), "f").removesuffix(".0")
    return digits.replace("e-0", "e-")


def _datetime_text(instant: datetime) -> str:
    """RFC 3339 as Go writes it: `Z` for UTC, the fraction without trailing zeros."""
    offset = instant.utcoffset()
    if offset is not None and offset % timedelta(minutes=1):
        # As that of a local mean time; RFC 3339 has no seconds there, and would make another instant of it.
        instant = instant.astimezone(UTC)
    text = cast(str, msgspec.to_builtins(instant))
    return re.sub(r"(\.\d*?)0+(?=[Z+-])", lambda match: match[1].rstrip("."), text)


def _compact(encoded: str, subject: str) -> str:
    try:
        text = msgspec.json.format(encoded, indent=-1)
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidJob(f"{subject} must be JSON, got {reprlib.repr(encoded)}: {error}") from error
    encode_object(value, subject)
    return _ESCAPED_BY_GO.sub(_escape, text)


def _annotated_fields(args_type: ArgsType) -> list[tuple[str, Any, tuple[Any, ...]]]:
    if isinstance(args_type, type) and issubclass(args_type, msgspec.Struct):
        return [(field.encode_name, field.type, ()) for field in msgspec.structs.fields(args_type)]
    if hasattr(args_type, "model_fields"):
        return [
            (field.serialization_alias or field.alias or name, field.annotation, tuple(field.metadata))
            for name, field in args_type.model_fields.items()
        ]
    if not dataclasses.is_dataclass(args_type) and not hasattr(args_type, "__attrs_attrs__"):
        return []
    is_attrs = hasattr(args_type, "__attrs_attrs__")
    fields = args_type.__attrs_attrs__ if is_attrs else dataclasses.fields(args_type)
    hints = typing.get_type_hints(args_type, include_extras=True)
    return [(field.name, hints[field.name], ()) for field in fields]


def _wire_field(name: str, annotation: ArgsType, marks: tuple[Any, ...]) -> WireField:
    origin: object = typing.get_origin(annotation)
    if origin is Annotated:
        annotation, *more = typing.get_args(annotation)
        marks = (*marks, *more)
        origin = typing.get_origin(annotation)
    is_union = origin is typing.Union or origin is types.UnionType
    members = typing.get_args(annotation) if is_union else (annotation,)
    return WireField(name, tuple(member for member in members if _has_fields(member)), marks)


def _has_fields(cls: ArgsType) -> bool:
    is_known = (
        dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__") or hasattr(cls, "model_fields")
    )
    return isinstance(cls, type) and (is_known or issubclass(cls, msgspec.Struct))


@functools.lru_cache(maxsize=1024)
def _kind_of_class(cls: type) -> str:
    kind = getattr(cls, "kind", None)
    if not isinstance(kind, str) or _is_field(cls, "kind"):
        raise InvalidJob(
            f"args class must say its kind as `kind: ClassVar[str] = …`, got {cls.__qualname__} without it"
        )
    _check_kind(kind)
    return kind


def _check_kind(kind: str) -> None:
    if not 1 <= len(kind) <= KIND_LENGTH_MAX:
        raise InvalidJob(f"kind must have 1 to {KIND_LENGTH_MAX} characters, got {kind!r}")
    if "\x00" in kind:
        raise InvalidJob(f"kind must not hold the character U+0000, got {kind!r}")
    if _HALF_PAIR.search(kind):
        raise InvalidJob(f"kind must not hold half a surrogate pair, got {kind!r}")


def _is_field(cls: ArgsType, name: str) -> bool:
    """Whether dataclass `cls` has `name` as a field of its values, not as a constant of its own."""
    return dataclasses.is_dataclass(cls) and any(field.name == name for field in dataclasses.fields(cls))


def _foreign_classes(info: object, seen: set[int]) -> Iterator[type]:
    """Return the classes in a type, as msgspec sees it, that msgspec would leave to a hook that we do not have."""
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
    for one in inner:
        yield from _foreign_classes(one, seen)


def _name(args_type: ArgsType) -> str:
    return getattr(args_type, "__qualname__", None) or str(args_type)
