"""
Millhand's SQL statements: loaded once, compiled for each schema.

Rule 1: a statement is a block `-- name: foo` of an .sql file here, or beside the code of a capability. A block
        `-- fragment: bar` replaces `/* bar */` in statements and in other fragments. Names are unique over all files.
Rule 2: `/* schema */` becomes the quoted schema with its dot, or nothing if the search path decides. `/* schema_name */`
        becomes the schema's name as an SQL expression: a literal, or `current_schema()`.
Rule 3: `@param` becomes a numbered placeholder, `$1`. Literals, quoted names, comments, dollar quotes and casts stay as they
        are. An operator such as `@>` is not a parameter, and a letter must not follow it.
Rule 4: lines of comments and indentation are left out of statements. asyncpg prepares a statement again for each call if it
        is longer than 15 KiB.
Rule 5: what cannot be a parameter, such as an ORDER BY or an index's name, is a fragment. Only a store makes it, never
        from a user's text; a `Where` is SQL by its author.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from millhand.core.errors import ConfigError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

# 46: PostgreSQL cuts a channel's name at 63 bytes, and the longest is `<schema>.river_leadership`.
SCHEMA_BYTES_MAX = 46
LINE_MILLHAND = "millhand"

Fragments = tuple[tuple[str, str], ...]

_SCHEMA = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_BLOCK = re.compile(r"^-- (name|fragment): (\w+)$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"/\* (\w+) \*/")
# What may contain an @ of its own is matched first.
_TOKEN = re.compile(
    r"""
      '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | --[^\n]*
    | /\*.*?\*/
    | \$(?P<tag>[a-zA-Z_]\w*|)\$.*?\$(?P=tag)\$
    | @(?P<param>[a-zA-Z_]\w*)
    """,
    re.DOTALL | re.VERBOSE,
)


class Compiled(NamedTuple):
    """A statement as a driver sends it, and the names of its params in the order of their numbers."""

    sql: str
    params: tuple[str, ...]


def checked_schema(schema: str) -> str:
    """Return `schema` if it is valid; an empty one means the search path. Raises: ConfigError."""
    if not schema or (_SCHEMA.fullmatch(schema) and len(schema) <= SCHEMA_BYTES_MAX):
        return schema
    raise ConfigError(
        f"schema must be letters, digits and underscores, not begin with a digit, and be at most {SCHEMA_BYTES_MAX} "
        f"bytes long, got {schema!r}; rename the schema"
    )


@cache
def statements() -> dict[str, str]:
    """Return all statements by name, with their fragments filled in."""
    blocks: dict[str, dict[str, str]] = {"name": {}, "fragment": {}}
    for file in _files():
        for kind, name, body in _blocks(file.read_text("utf-8")):
            if name in blocks["name"] or name in blocks["fragment"]:
                raise ValueError(f"names of statements must be unique, got {name!r} twice")
            blocks[kind][name] = body
    return {
        name: f"-- name: {name}\n{fill_fragments(body, blocks['fragment'])}"
        for name, body in blocks["name"].items()
    }


def fill_fragments(sql: str, fragments: Mapping[str, str], within: tuple[str, ...] = ()) -> str:
    """
    Return `sql` with its fragments filled in, and those of its fragments.

    Raises: ValueError if a fragment contains itself.
    """

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        if name in within:
            raise ValueError(
                f"fragments must not contain themselves, got {' in '.join((name, *within[::-1]))}"
            )
        return fill_fragments(fragments[name], fragments, (*within, name)) if name in fragments else match[0]

    return _PLACEHOLDER.sub(filled, sql)


@lru_cache(maxsize=1024)
def compile_statement(name: str, schema: str = "", fragments: Fragments = ()) -> Compiled:
    """
    Return the statement `name` for a schema.

    Raises: LookupError for an unknown name, ConfigError for an invalid schema.
    """
    text = statements().get(name)
    if text is None:
        raise LookupError(f"statement must be in one of the .sql files of millhand, got {name!r}")
    return compile_params(compile_script(_fill(text, fragments), schema))


def compile_script(sql: str, schema: str = "", fragments: Fragments = ()) -> str:
    """Return `sql` with the schema filled in, inside literals and function bodies too."""
    checked_schema(schema)
    prefix, expression = (f'"{schema}".', f"'{schema}'") if schema else ("", "current_schema()")
    return _fill(sql, (("schema", prefix), ("schema_name", expression), *fragments))


def compile_params(sql: str) -> Compiled:
    """Return `sql` with a number for each `@param`, and the params' names in the order of their numbers."""
    order: dict[str, int] = {}

    def compiled(match: re.Match[str]) -> str:
        name = match["param"]
        return match[0] if name is None else f"${order.setdefault(name, len(order) + 1)}"

    return Compiled(_TOKEN.sub(compiled, sql), tuple(order))


def replace_params(sql: str, texts: Mapping[str, str]) -> str:
    """Return `sql` with a text in place of each `@param`."""
    return _TOKEN.sub(lambda match: texts[match["param"]] if match["param"] else match[0], sql)


def without_literals(sql: str) -> str:
    """Return `sql` without literals, quoted names, comments and `@param`s."""
    return _TOKEN.sub(" ", sql)


def sql_directory() -> Traversable:
    """Return the directory of the SQL files that are no capability's."""
    return _package_directory() / "db" / "sql"


def migration_files(line: str) -> Iterator[Traversable]:
    """Yield the files of a line's migrations; those of line `millhand` also lie beside the code of a capability."""
    yield from (sql_directory() / "migration" / line).iterdir()
    if line == LINE_MILLHAND:
        for package in _packages():
            if (directory := package / "migration").is_dir():
                yield from directory.iterdir()


def _package_directory() -> Traversable:
    here = Path(__file__).parents[2]
    if here.is_dir():
        return here
    # In an archive. Not imported for a directory: the import is slow.
    from importlib import resources  # noqa: PLC0415

    return resources.files("millhand")


def _packages() -> list[Traversable]:
    return [one for one in _package_directory().iterdir() if one.is_dir()]


def _files() -> Iterator[Traversable]:
    """Yield the files with statements: those of `db/sql/`, and those beside the code of a capability."""
    for directory in (sql_directory(), *_packages()):
        for file in directory.iterdir():
            if file.name.endswith(".sql"):
                yield file


def _blocks(text: str) -> list[tuple[str, str, str]]:
    _, *parts = _BLOCK.split(text)
    return [
        (kind, name, _compact(body.strip().rstrip(";")))
        for kind, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]


def _fill(sql: str, fragments: Fragments) -> str:
    known = dict(fragments)
    return _PLACEHOLDER.sub(lambda match: known.get(match[1], match[0]), sql)


def _compact(sql: str) -> str:
    lines = (line.lstrip() for line in sql.split("\n"))
    return "\n".join(line for line in lines if line and not line.startswith("--"))
