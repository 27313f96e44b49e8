"""The statement of an inventory: what it returns on DuckDB, and that other engines can parse it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
import sqlglot
from compared_world import CANARIES, COMPARED, encoded, world_of, write_report, write_rows

from millhand.orphans.inventory.difference_sql import DIALECTS, DUCKDB, CanaryKeys, difference_sql
from millhand.orphans.inventory.differences import rows_sql
from repeats import first_of

sys.path.append(str(Path(__file__).parents[1] / "storage"))  # for the unusual keys
from stores import UNUSUAL_KEYS


@pytest.mark.parametrize("is_encoded", first_of(True, False))
def test_the_statement_returns_differences_and_counts(tmp_path: Path, is_encoded: bool) -> None:
    """Of unusual keys in each case, exactly the differing ones come out, with the canaries of one side and the counts."""
    keys = [f"{case}/{key}" for key in UNUSUAL_KEYS for case in range(8)]
    objects, rows, expected = world_of(keys)
    report = write_report(tmp_path, objects, is_encoded=is_encoded)
    write_rows(tmp_path / "rows-1.csv", rows)
    compared = encoded(COMPARED) if is_encoded else COMPARED
    names = (
        "bucket",
        "key",
        "version_id",
        "is_latest",
        "is_delete_marker",
        "size",
        "last_modified_date",
        "e_tag",
        "class",
    )
    columns = ", ".join(f"'{name}': 'VARCHAR'" for name in names)
    table = (
        f"read_csv('{report}', header = false, auto_detect = false, columns = {{{columns}}})"
        if is_encoded
        else f"read_parquet('{report}')"
    )

    with duckdb.connect() as connection:
        sql = difference_sql(
            replace(compared, report=table, rows=rows_sql(str(tmp_path / "rows-*.csv"))), DUCKDB
        )
        found = connection.execute(sql).fetchall()

    assert set(found) == expected
    assert len(found) == len(expected)


@pytest.mark.parametrize("name", list(DIALECTS))
@pytest.mark.parametrize("is_encoded", [True, False])
def test_each_engine_parses_its_statement(name: str, is_encoded: bool) -> None:
    """The text is one statement in the grammar of its engine, which reads the literals as they are meant."""
    compared = encoded(COMPARED) if is_encoded else COMPARED

    [tree] = sqlglot.parse(difference_sql(compared, DIALECTS[name]), dialect=name)

    assert tree is not None
    assert [column.alias_or_name for column in tree.selects] == ["kind", "source", "key", "num", "size"]
    literals = {literal.this for literal in tree.find_all(sqlglot.exp.Literal) if literal.is_string}
    assert {"skip'\\/", CANARIES.both, CANARIES.object_only, CANARIES.row_only} <= literals
    assert len(list(tree.find_all(sqlglot.exp.Join))) == 1


def test_etags_are_read_only_for_rows_that_have_them() -> None:
    """Without a source that declares an etag, the statement does not read those of the report."""
    with_etags, without = (
        difference_sql(replace(COMPARED, has_etags=has_etags), DUCKDB) for has_etags in (True, False)
    )

    assert ("e_tag" in with_etags, "e_tag" in without) == (True, False)


def test_canary_keys_name_report_and_scope() -> None:
    """The made-up keys lie below .millhand/, where no key of an application is."""
    assert (
        CanaryKeys(
            both=".millhand/inventory/2026-11-20T01:00:00Z/it's\\scope/both",
            object_only=".millhand/inventory/2026-11-20T01:00:00Z/it's\\scope/object",
            row_only=".millhand/inventory/2026-11-20T01:00:00Z/it's\\scope/row",
        )
        == CANARIES
    )
