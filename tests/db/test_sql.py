from __future__ import annotations

import inspect
import re

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.core.errors import ConfigError
from millhand.db.sql import (
    SCHEMA_BYTES_MAX,
    checked_schema,
    compile_params,
    compile_script,
    compile_statement,
    fill_fragments,
    statements,
)

STATEMENT_LENGTH_MAX = inspect.signature(asyncpg.connect).parameters["max_cacheable_statement_size"].default

# Pieces of SQL that may contain an @ that is not a parameter's.
QUIET = st.sampled_from(
    [
        "'100% @home'",
        "'it''s @x'",
        '"@column%"',
        "-- a comment, 50% @x\n",
        "/* @x 5% */",
        "$$ body @x % $$",
        "$tag$ body @x $$ % $tag$",
        "a::text",
        "job.tags @> '{a}'",
        "x <@ y",
        "SELECT 1",
        "e'\\n'",
    ]
)
# Values for the fragments that `store/` makes.
FRAGMENTS = (
    ("where", "TRUE"),
    ("order_by", "1"),
    ("index", '"i"'),
    ("column", "args"),
    ("may_go", "TRUE"),
    ("discarded_may_go", "TRUE"),
    ("options", "fillfactor"),
    ("table", "river_job"),
    ("state", "running"),
    ("states", "'running'"),
    ("leader_table", "river_leader"),
    ("leader_topic", "river_leadership"),
    ("after", "TRUE"),
    ("at", "job.created_at"),
    ("beyond", "<"),
    ("direction", "DESC"),
    ("history_table", "millhand_job_stats"),
    ("indexed", "TRUE"),
    ("last_first", "id"),
)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
PIECES = st.lists(st.one_of(QUIET, NAMES.map(lambda name: f"@{name}")), max_size=20)


@pytest.mark.slow
@given(PIECES)
def test_compiler_numbers_params_by_first_mention(pieces: list[str]) -> None:
    """Each parameter becomes the number of its first mention; the rest does not change."""
    names = list(dict.fromkeys(piece[1:] for piece in pieces if re.fullmatch(r"@\w+", piece)))

    compiled = compile_params(" ".join(pieces))

    expected = [
        f"${names.index(piece[1:]) + 1}" if re.fullmatch(r"@\w+", piece) else piece for piece in pieces
    ]
    assert compiled.sql == " ".join(expected)
    assert compiled.params == tuple(names)


def test_schema_is_filled_in_quoted() -> None:
    """A configured schema is a prefix of tables and a literal for `schema_name`, inside literals too."""
    sql = "SELECT /* schema_name */ || '.t', '/* schema */river_job'::regclass FROM /* schema */river_job"

    compiled = compile_script(sql, "Other")

    assert compiled == """SELECT 'Other' || '.t', '"Other".river_job'::regclass FROM "Other".river_job"""


def test_empty_schema_is_left_to_the_search_path() -> None:
    """Without a schema there is no prefix, and `schema_name` becomes `current_schema()`."""
    sql = "SELECT /* schema_name */ FROM /* schema */river_job"

    assert compile_script(sql) == "SELECT current_schema() FROM river_job"


def test_other_comments_do_not_change() -> None:
    """A comment that only looks like a placeholder does not change."""
    assert compile_script("SELECT 1 /* note */") == "SELECT 1 /* note */"


def test_fragment_may_use_fragments_that_use_others() -> None:
    """A fragment is filled in wherever it stands; a name that is not a fragment's does not change."""
    fragments = {"job": "(/* row */)", "row": "/* id */, /* id */", "id": "/* schema */id"}

    assert fill_fragments("SELECT /* job */", fragments) == "SELECT (/* schema */id, /* schema */id)"


def test_fragment_that_contains_itself_is_an_error() -> None:
    """A fragment that contains itself, through another one too, is an error that names both."""
    with pytest.raises(ValueError, match=r"^fragments must not contain themselves, got row in id in row$"):
        fill_fragments("SELECT /* row */", {"row": "/* id */", "id": "/* row */"})


def test_every_statement_compiles() -> None:
    """Every statement compiles, begins with its name, and has no fragment and no @ of a parameter left."""
    compiled = {name: compile_statement(name, "other", FRAGMENTS).sql for name in sorted(statements())}
    parameter = re.compile(r"(?<![@<>])@\w")

    assert [name for name, sql in compiled.items() if not sql.startswith(f"-- name: {name}\n")] == []
    assert [name for name, sql in compiled.items() if "/* " in sql] == []
    assert [name for name, sql in compiled.items() if parameter.search(re.sub(r"--.*", "", sql))] == []


def test_asyncpg_keeps_every_statement_prepared() -> None:
    """A statement is no longer than what asyncpg caches by default, whatever the schema's name."""
    lengths = {name: len(compile_statement(name, "s" * SCHEMA_BYTES_MAX).sql) for name in statements()}

    assert {name: length for name, length in lengths.items() if length > STATEMENT_LENGTH_MAX} == {}


def test_statement_has_no_indentation_and_only_the_comment_with_its_name() -> None:
    """Comments and indentation of the file are not sent, also not those of a fragment that stands within a line."""
    lines = {name: text.split("\n") for name, text in statements().items()}

    assert [name for name, (first, *_) in lines.items() if first != f"-- name: {name}"] == []
    assert [
        line for _, *rest in lines.values() for line in rest if not line or line[0] == " " or "-- " in line
    ] == []


def test_unknown_statement_is_an_error() -> None:
    """An unknown name is an error that contains it."""
    with pytest.raises(
        LookupError, match=r"^statement must be in one of the .sql files of millhand, got 'job_fly'$"
    ):
        compile_statement("job_fly")


@pytest.mark.parametrize("schema", ["", "a", "_", "Public", "river_2", "x" * 46])
def test_valid_schema_is_accepted(schema: str) -> None:
    """A schema that River accepts is returned unchanged."""
    assert checked_schema(schema) == schema


@pytest.mark.parametrize("schema", ["2x", "a b", 'a"b', "a.b", "é", "a\n", "x" * 47, "a;drop", " "])
def test_invalid_schema_is_an_error(schema: str) -> None:
    """A schema with other characters, or with too long channel names, is an error."""
    with pytest.raises(ConfigError) as refused:
        checked_schema(schema)

    assert str(refused.value) == (
        "schema must be letters, digits and underscores, not begin with a digit, and be at most 46 bytes long, "
        f"got {schema!r}; rename the schema"
    )
