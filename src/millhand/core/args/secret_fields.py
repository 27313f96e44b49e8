"""
Secret fields of args: marked in the args class, encrypted in the table, plain for the worker.

Rule 1: a mark stands on a field of the args class itself, and the whole value of the field is encrypted. A mark elsewhere is
        an error, because it would leave a text plain that its author takes for encrypted.
Rule 2: in the table, the value is `{"millhand:secret": {"key": …, "data": …}}`. Other programs see this object.
Rule 3: a value of another form is plain. So jobs from before the mark, and from programs without keys, can be worked.
Rule 4: no error contains the values of an args class with secret fields.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Any, cast

import msgspec

from millhand.core.args.adapters import ArgsType, ArgsValue
from millhand.core.args.decode_errors import redacted_decode_error
from millhand.core.args.fields import json_fields, may_omit
from millhand.core.args.go_json import encode_string
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.blob import has_blob
from millhand.core.errors import InvalidJob, InvalidSecret
from millhand.core.job import Json

SECRET_KEY = "millhand:secret"  # noqa: S105 - the name of a JSON member


class Secret:
    """
    Marks a field of an args class as secret: `card: Annotated[str, Secret]`.

    Its whole value is encrypted in the table, with the keys of `Config(secret_keys=…)`. The worker gets it plain.
    """


class _Sealed(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    data: str


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    sealed: _Sealed = msgspec.field(name=SECRET_KEY)


@functools.lru_cache(maxsize=1024)
def secret_field_names(args_type: ArgsType) -> tuple[str, ...]:
    """
    Return the names in JSON of the fields that are marked with `Secret`.

    Raises: InvalidJob for a mark within a field.
    """
    cls: ArgsType = typing.get_origin(args_type) or args_type
    names = []
    for field in json_fields(cls):
        if any(map(_is_mark, field.annotations)) or any(map(_is_mark, _own_annotations(field.type))):
            names.append(field.name)
        elif _has_mark(field.type, set()):
            raise InvalidJob(
                f"Secret must mark a field of args class {cls.__qualname__} itself, got a mark within {field.name!r}; write "
                f"{field.name}: Annotated[…, Secret]"
            )
    return tuple(names)


def require_secret_fields(args: object, plain: Mapping[str, Json], subject: str) -> None:
    """
    Raise InvalidSecret if the JSON of a pydantic model lacks a marked field that has a value.

    A `model_serializer` may have written the value under another name, where it would stay plain.
    """
    for name in secret_field_names(cast(ArgsType, type(args))):
        if name not in plain and not may_omit(args, name):
            raise InvalidSecret(
                f"{subject} must have secret field {name!r} in the JSON, got none: under another name its value would "
                "stay plain; write an alias in place of a model_serializer"
            )


def encrypt_args(
    encoded: str, names: Collection[str], kind: str, keys: SecretKeys | None, *, keeps_encrypted: bool = False
) -> str:
    """
    Return the JSON text of args with the values of the fields `names` encrypted.

    With `keeps_encrypted`, a value that is encrypted already stays. Raises: InvalidSecret without keys.
    """

    def encrypt(name: str, text: str) -> str:
        if keeps_encrypted and _sealed(text, name, kind) is not None:
            return text
        return _encrypted(text, name, kind, _required(keys, name, kind))

    return _with_values(encoded, names, encrypt)


def decrypt_args(encoded: str, names: Collection[str], kind: str, keys: SecretKeys | None) -> str:
    """Return the JSON text of args with the values of the fields `names` decrypted. Raises: InvalidSecret."""
    return _with_values(encoded, names, lambda name, text: _decrypted(text, name, kind, keys))


def reencrypt_args(encoded: str, names: Collection[str], kind: str, keys: SecretKeys) -> str | None:
    """
    Return the JSON text of args with all of the fields `names` encrypted with the newest key; None if they are already.

    Raises: InvalidSecret for a field that does not decrypt.
    """
    num_changed = 0

    def reencrypt(name: str, text: str) -> str:
        nonlocal num_changed
        sealed = _sealed(text, name, kind)
        if sealed is not None and sealed.key == keys.newest:
            return text
        num_changed += 1
        return _encrypted(_decrypted(text, name, kind, keys), name, kind, keys)

    changed = _with_values(encoded, names, reencrypt)
    return changed if num_changed else None


def unique_args(encoded: str, names: Collection[str], kind: str, keys: SecretKeys | None) -> str:
    """Return the JSON text of plain args with the fields `names` replaced by texts that only a key can compute."""
    return _with_values(
        encoded,
        names,
        lambda name, text: f'"{_required(keys, name, kind).unique_text(text, kind=kind, field=name)}"',
    )


def secret_decoder(
    decode: Callable[[str], ArgsValue], args_type: ArgsType, kind: str, keys: SecretKeys | None
) -> Callable[[str], ArgsValue]:
    """Return a function that decrypts and decodes args of one kind; `decode` itself if the type has no secret fields."""
    names = secret_field_names(args_type)
    if not names:
        return decode

    def decrypt_and_decode(encoded: str) -> ArgsValue:
        plain = decrypt_args(encoded, names, kind, keys)
        try:
            return decode(plain)
        except Exception as error:  # noqa: BLE001 - a user's class may raise anything, with the value in its text
            reason = redacted_decode_error(error, args_type)
        raise InvalidSecret(f"args of kind {kind!r} must decode, got: {reason}")

    return decrypt_and_decode


def _required(keys: SecretKeys | None, name: str, kind: str) -> SecretKeys:
    if keys is None:
        raise InvalidSecret(
            f"secret field {name!r} of kind {kind!r} needs keys, got none; set Config(secret_keys=SecretKeys(…))"
        )
    return keys


def _with_values(encoded: str, names: Collection[str], change: Callable[[str, str], str]) -> str:
    """Return the text of an object whose fields `names` have the texts that `change` returns; all others stay."""
    try:
        members = msgspec.json.decode(encoded, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):  # no object; the decoder reports that
        return encoded
    parts = []
    for name, raw in members.items():
        text = bytes(raw).decode()
        parts.append(f"{encode_string(name)}:{change(name, text) if name in names else text}")
    return "{" + ",".join(parts) + "}"


def _sealed(text: str, name: str, kind: str) -> _Sealed | None:
    """Return an encrypted value; None for a plain one. Raises: InvalidSecret for one that was changed."""
    if not text.startswith("{") or SECRET_KEY not in text:
        return None
    members: Mapping[str, object] = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    if list(members) != [SECRET_KEY]:
        return None
    try:
        return msgspec.json.decode(text, type=_Envelope).sealed
    except msgspec.MsgspecError:
        raise InvalidSecret(
            f"secret field {name!r} of kind {kind!r} must hold a key id and data, got another object; insert the job again"
        ) from None


def _encrypted(text: str, name: str, kind: str, keys: SecretKeys) -> str:
    if has_blob(text):
        raise InvalidSecret(
            f"secret field {name!r} of kind {kind!r} must have no Blob, got one: the orphan cleanup could not read its key, "
            "and would remove the object; encrypt the bytes before client.blobs.put"
        )
    data = keys.encrypt(text.encode(), kind=kind, field=name)
    return f'{{"{SECRET_KEY}":{{"key":"{keys.newest}","data":"{data}"}}}}'


def _decrypted(text: str, name: str, kind: str, keys: SecretKeys | None) -> str:
    sealed = _sealed(text, name, kind)
    if sealed is None:
        return text
    return _required(keys, name, kind).decrypt(sealed.key, sealed.data, kind=kind, field=name).decode()


def _is_mark(annotation: object) -> bool:
    return annotation is Secret or isinstance(annotation, Secret)


def _own_annotations(hint: ArgsType) -> Iterator[object]:
    """Yield the annotations of a type and of the members of a union, as in `Annotated[str, Secret] | None`."""
    hint = getattr(hint, "__value__", hint)  # of `type Card = …`
    origin: object = typing.get_origin(hint)
    if origin is Annotated:
        hint, *annotations = typing.get_args(hint)
        yield from annotations
        yield from _own_annotations(hint)
    elif origin is typing.Union or origin is types.UnionType:
        for member in typing.get_args(hint):
            yield from _own_annotations(member)


def _has_mark(hint: ArgsType, seen: set[int]) -> bool:
    """Return whether a mark stands anywhere in a type, in its parameters, or in the fields of its classes."""
    if _is_mark(hint):
        return True
    if id(hint) in seen:
        return False
    seen.add(id(hint))
    parts: list[Any] = [*typing.get_args(hint), getattr(hint, "__value__", None)]
    parts.extend(getattr(hint, "__metadata__", ()))
    if isinstance(hint, type):
        parts.extend(_hints_of_class(hint))
    return any(_has_mark(part, seen) for part in parts if part is not None)


def _hints_of_class(cls: type) -> Iterator[Any]:
    if not getattr(cls, "__annotations__", None):
        return
    for field in json_fields(cls):
        yield field.type
        yield from field.annotations
    try:
        yield from typing.get_type_hints(
            cls, include_extras=True
        ).values()  # of a TypedDict or a NamedTuple too
    except (NameError, TypeError, AttributeError):
        return
