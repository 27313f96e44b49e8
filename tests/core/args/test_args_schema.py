"""JSON Schema of args classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
import pydantic
import pytest
from sample_args import Keeper, Stay

from millhand.core.args.fields import args_schema
from millhand.core.errors import InvalidJob


def test_schema_has_the_json_names_of_fields() -> None:
    """The schema is the library's own, with fields by their names in JSON."""
    keeper = args_schema(Keeper)
    stay = args_schema(Stay)

    assert keeper["$ref"] == "#/$defs/Keeper"
    assert keeper["$defs"]["Keeper"]["properties"]["byName"]["default"] == {}
    assert stay["$defs"]["Suite"]["required"] == ["numBeds"]
    assert args_schema(Any) == {}


def test_schema_of_an_undescribable_type_raises() -> None:
    """A type that only its own code understands has no schema."""

    class Undescribable(pydantic.BaseModel):
        kind: ClassVar[str] = "undescribable"
        value: Annotated[Any, pydantic.PlainValidator(len)]
        call: Annotated[object, pydantic.WithJsonSchema({})] = None
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        error: InvalidJob | None = None

    with pytest.raises(
        TypeError,
        match=r"^args class must have a JSON Schema, got <class '.*Undescribable'>: Cannot generate",
    ):
        args_schema(Undescribable)


@dataclass
class Described:
    """What it is for."""

    kind: ClassVar[str] = "described"
    to: Annotated[str, msgspec.Meta(description="an address", examples=["a@example.com"])]


def test_schema_has_the_docstring_and_annotations_of_the_class() -> None:
    """The docstring and what `Meta` adds are in the schema."""
    described = args_schema(Described)["$defs"]["Described"]

    assert described["description"] == "What it is for."
    assert described["properties"]["to"] == {
        "type": "string",
        "description": "an address",
        "examples": ["a@example.com"],
    }
