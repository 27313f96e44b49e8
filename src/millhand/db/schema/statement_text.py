"""Statements as text, for a person who runs them by hand."""

from __future__ import annotations

from collections.abc import Iterable

from millhand.db.query import Query
from millhand.db.sql import compile_statement


def text_of(queries: Iterable[Query[None]], schema: str) -> str:
    """Return statements without their comments, each ended by a semicolon."""
    texts = [compile_statement(query.name, schema, fragments=query.fragments).sql for query in queries]
    return "\n".join(
        "\n".join(line for line in text.splitlines() if not line.startswith("--")) + ";" for text in texts
    )
