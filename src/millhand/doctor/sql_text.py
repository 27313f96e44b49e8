"""Names and texts as SQL has them, for remedies that a person pastes."""

from __future__ import annotations

import re
import shlex

# Names of Millhand's and River's own, which are no keywords.
_PLAIN = re.compile(r"(?:river|millhand)_[a-z0-9_]+")


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def qualified(schema: str | None, name: str) -> str:
    """Return the name of a table or index with its schema; without one if that is `public` or unknown."""
    return quoted(name) if schema in (None, "", "public") else f"{quoted(str(schema))}.{quoted(name)}"


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def schema_option(schema: str | None) -> str:
    """Return the option that names a schema to a command, with a space before it; nothing for `public`."""
    return "" if schema in (None, "", "public") else f" --schema {shlex.quote(str(schema))}"
