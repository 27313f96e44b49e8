"""The description of the API, made from the lists of pages and changes and the types of their answers."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, get_type_hints

import msgspec

from millhand.shells.web.change import Change, Changed
from millhand.shells.web.page import Page
from millhand.version import VERSION
from millhand.web.export import FORMATS
from millhand.web.problem import Problem

API = "/api/v1"

_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")
_PROBLEM = {
    "description": "What is wrong, for a person.",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def answer_type(page: Page) -> type[msgspec.Struct]:
    """Return the type of a page's answer."""
    answer: type[msgspec.Struct] = get_type_hints(page.load)["return"]
    return answer


@cache
def openapi(pages: tuple[Page, ...], changes: tuple[Change, ...]) -> dict[str, Any]:
    """Return the description as OpenAPI 3.1."""
    types = [Changed, Problem, *(answer_type(page) for page in pages)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for page in pages:
        path = API + _PARAMETER.sub(r"{\1}", page.path)
        paths.setdefault(path, {})["get"] = {
            "operationId": f"get_{page.name}",
            "summary": page.title,
            "description": f"For users with role {page.role.label} or higher.",
            "parameters": _parameters(page.path),
            "responses": _responses(by_type[answer_type(page)]),
        }
    for name, form in FORMATS.items():
        media_type = form.media_type.partition(";")[0]
        answer = {
            "description": "The jobs, one a line.",
            "content": {media_type: {"schema": {"type": "string"}}},
        }
        paths[f"{API}/jobs.{name}"] = {
            "get": {
                "operationId": f"export_jobs_{name}",
                "summary": f"Jobs as {name.upper()}",
                "description": "For users with role viewer or higher.",
                "parameters": [
                    {"name": one, "in": "query", "schema": {"type": "string"}} for one in ("q", "after")
                ],
                "responses": {"200": answer, "default": _PROBLEM},
            }
        }
    for change in changes:
        path = API + _PARAMETER.sub(r"{\1}", change.path)
        paths.setdefault(path, {})["post"] = {
            "operationId": change.name,
            "summary": (change.run.__doc__ or "").strip().partition("\n")[0].partition(" Raises:")[0],
            "description": f"For users with role {change.role.label} or higher.",
            "parameters": _parameters(change.path),
            "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}},
            "responses": _responses(by_type[Changed]),
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Millhand", "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer"} if kind == "int" else {"type": "string"},
        }
        for name, kind in _PARAMETER.findall(path)
    ]


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    answer = {"description": "The answer.", "content": {"application/json": {"schema": schema}}}
    return {"200": answer, "default": _PROBLEM}
