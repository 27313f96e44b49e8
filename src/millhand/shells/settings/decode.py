"""Decode the values of settings strictly, from TOML and from text. A wrong value raises a `ConfigError`."""

from __future__ import annotations

import dataclasses
import enum
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from millhand.core.errors import ConfigError
from millhand.core.near_match import near_match
from millhand.core.secret import masked, masked_url

_PART = r"(\d+(?:\.\d+)?)(ms|s|m|h|d)"
_DURATION_PART, _DURATION = re.compile(_PART), re.compile(rf"{_PART}(\s*{_PART})*")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_TRUTH = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)
NONE = "none"  # TOML has no null


def decode(value: object, hint: object, where: str) -> object:
    """Return a TOML value as the type `hint`. Raises: ConfigError that begins with `where`."""
    hint, is_optional = unwrapped(hint)
    if is_optional and value == NONE:
        return None
    origin = get_origin(hint) or hint
    if origin is Mapping:
        return _decode_mapping(value, get_args(hint)[1], where)
    if origin in (tuple, list, Sequence):
        return _decode_list(value, get_args(hint)[0], where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _decode_table(value, hint, where)
    decoded = _decode_scalar(value, hint)
    if decoded is _REFUSED:
        raise refusal(where, hint, value, is_optional=is_optional)
    return decoded


def decode_text(text: str, hint: object, where: str) -> object:
    """Return a text as the type `hint`; lists are `a,b`, mappings `a:1,b:2`. Raises: ConfigError, as `decode`."""
    bare, is_optional = unwrapped(hint)
    if is_optional and text.lower() == NONE:
        return None
    origin = get_origin(bare) or bare
    if origin is Mapping:
        return decode(_pairs(text, where), bare, where)
    if origin in (tuple, list):
        return tuple(
            decode_text(part.strip(), get_args(bare)[0], where) for part in text.split(",") if part.strip()
        )
    value: object = text
    if bare is bool:
        value = _TRUTH.get(text.lower(), text)
    elif bare in (int, float, timedelta):
        value = _number(text)
    return decode(value, hint, where)


def refusal(where: str, hint: object, value: object, *, is_optional: bool = False) -> ConfigError:
    rule = f"{rule_of(hint)}, or {NONE!r}" if is_optional else rule_of(hint)
    got = masked_url(repr(value)) if isinstance(value, str) else masked(repr(value))
    return ConfigError(f"{where} must be {rule}, got {got}{_guess_choice(value, hint)}")


def check_keys(given: Collection[str], known: Collection[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(f"{where} has no setting {key!r}{guess(key, known)}")


def guess(word: str, known: Collection[str]) -> str:
    """Return the end of a message: the near match, or all known names."""
    near = near_match(word, known)
    return f"; did you mean {near!r}?" if near else f"; known: {', '.join(map(repr, sorted(known)))}"


def unwrapped(hint: object) -> tuple[Any, bool]:
    """Return a type without `Annotated` and `None`, and whether None is allowed."""
    if get_origin(hint) is typing.Annotated:
        return unwrapped(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        return unwrapped(parts[0])[0], len(parts) < len(get_args(hint))
    return hint, False


def rule_of(hint: object) -> str:
    origin = get_origin(hint) or hint
    if choices := _choices(hint):
        return f"one of {', '.join(map(repr, choices))}"
    if origin in (tuple, list, Sequence):
        return "a list"
    if origin is Mapping:
        return "a table"
    if dataclasses.is_dataclass(hint):
        return "a whole number or a table" if is_short(hint) else "a table"
    return _RULES[hint]


_RULES: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    timedelta: "a duration such as '500ms', '30s', '5m', '1h30m' or '7d', or a number of seconds",
}


_REFUSED = object()


def _choices(hint: object) -> dict[str, object]:
    """Return the values that a Literal of texts or an enum allows, by their text; none for other types."""
    if get_origin(hint) is Literal:
        return {choice: choice for choice in get_args(hint)}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {member.value: member for member in hint}
    return {}


def _decode_scalar(value: object, hint: object) -> object:
    if hint is timedelta:
        return _duration(value)
    if choices := _choices(hint):
        return next((member for text, member in choices.items() if text == value), _REFUSED)
    if hint is float and type(value) is int:
        return float(value)
    return value if type(value) is hint else _REFUSED


def _duration(value: object) -> object:
    seconds = value
    if isinstance(value, str) and _DURATION.fullmatch(value.strip()):
        seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(value))
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return _REFUSED
    try:
        return timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return _REFUSED


def _decode_mapping(value: object, hint: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise refusal(where, Mapping, value)
    return {key: decode(part, hint, f"{where}.{masked_url(key)}") for key, part in value.items()}


def _decode_list(value: object, hint: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise refusal(where, list, value)
    return tuple(decode(part, hint, f"{where}[{index}]") for index, part in enumerate(value))


def _decode_table(value: object, table: type, where: str) -> object:
    """Decode a table as a dataclass; a number stands for a queue with that `max_workers`."""
    fields = {field.name: field for field in dataclasses.fields(table) if field.init}
    if type(value) is int and is_short(table):
        value = {"max_workers": value}
    if not isinstance(value, Mapping):
        raise refusal(where, table, value)
    check_keys(value, fields, where)
    for name, field in fields.items():
        if name not in value and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where} must have a {name!r}, got none")
    hints = get_type_hints(table)
    given = {key: decode(part, hints[key], f"{where}.{key}") for key, part in value.items()}
    try:
        return table(**given)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def is_short(table: Any) -> bool:  # noqa: ANN401 - any dataclass
    return "max_workers" in {field.name for field in dataclasses.fields(table)}


def _pairs(text: str, where: str) -> dict[str, object]:
    pairs: dict[str, object] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, value = part.rpartition(":")
        if not colon or not name:
            raise ConfigError(f"{where} must be pairs like 'default:100,mail:5', got {text!r}")
        pairs[name] = _number(value)
    return pairs


def _number(text: str) -> object:
    """Return the number that a text represents, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _guess_choice(value: object, hint: object) -> str:
    near = near_match(str(value), _choices(hint))
    return f"; did you mean {near!r}?" if near else ""
