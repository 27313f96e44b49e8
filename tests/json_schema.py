"""The part of JSON Schema that the contract uses. `jsonschema` is not in the environment of every test run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

Schema = Mapping[str, Any]

IGNORED = {"items", "properties", "required", "additionalProperties", "type"}


def faults(value: Any, schema: Schema, defs: Schema, where: str = "$") -> Iterator[str]:
    """Yield each fault of a value, with its place. Raises: KeyError for a keyword that is not supported."""
    if "$ref" in schema:
        yield from faults(value, defs[schema["$ref"].removeprefix("#/$defs/")], defs, where)
        return
    names = schema.get("type", [])
    if names and not any(IS_TYPE[name](value) for name in ([names] if isinstance(names, str) else names)):
        yield f"{where}: {value!r} is not of type {names}"
        return
    for keyword in schema.keys() - IGNORED:
        if value is not None and not HOLDS[keyword](value, schema[keyword]):
            yield f"{where}: {value!r} breaks {keyword} {schema[keyword]!r}"
    if isinstance(value, dict):
        yield from _faults_of_object(value, schema, defs, where)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from faults(item, schema.get("items", {}), defs, f"{where}[{index}]")


def _faults_of_object(value: dict[str, Any], schema: Schema, defs: Schema, where: str) -> Iterator[str]:
    known = schema.get("properties", {})
    other = schema.get("additionalProperties", True)
    yield from (f"{where}: {name} is missing" for name in schema.get("required", []) if name not in value)
    for name, item in value.items():
        if name not in known and other is False:
            yield f"{where}: {name} is not known"
        yield from faults(
            item, known.get(name, other if isinstance(other, dict) else {}), defs, f"{where}.{name}"
        )


def _is_instant(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


IS_TYPE: Mapping[str, Callable[[Any], bool]] = {
    "array": lambda value: isinstance(value, list),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "null": lambda value: value is None,
    "object": lambda value: isinstance(value, dict),
    "string": lambda value: isinstance(value, str),
}
HOLDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "enum": lambda value, allowed: value in allowed,
    "format": lambda value, name: name != "date-time" or _is_instant(value),
    "maximum": lambda value, most: value <= most,
    "minLength": lambda value, least: len(value) >= least,
    "minimum": lambda value, least: value >= least,
    "pattern": lambda value, pattern: re.search(pattern, value) is not None,
}
