"""Claims about `millhand orphans inventory`: what it prints for another engine, and how it goes on from its differences."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
import sqlglot

from cli_runner import millhand
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.storage import open_store

sys.path.append(str(Path(__file__).parents[1] / "orphans"))  # for reports
from inventory_reports import FOLDER, Reports, objects_of

SETTINGS = """
[storage]
url = "file:bucket"

[orphans]
inventory = "file:{folder}"
inventory_memory = "200MB"
inventory_directory = "spill"
min_overlap = 0.0

[[orphans.sources]]
name = "uploads"
table = "{schema}.uploads"
size = "size"
"""


@pytest.fixture
async def bucket(project: Path, schema_driver: AsyncpgDriver) -> AsyncIterator[Path]:
    """A directory with two referenced objects and an orphan, and a report of them; one row references a missing object."""
    table = f"{schema_driver.schema}.uploads"
    await schema_driver.pool.execute_script(
        f"CREATE TABLE {table} (id int PRIMARY KEY, key text, size bigint);"
        f"INSERT INTO {table} VALUES (1, 'live,1', 4), (2, 'live\n2', NULL), (3, 'missing', 4)"
    )
    directory = project / "bucket"
    directory.mkdir()
    store = open_store("file:bucket")
    for key in ("live,1", "live\n2", "orphan"):
        await store.put(key, b"live")
    (project / "reports" / FOLDER).mkdir(parents=True)
    (project / "spill").mkdir()
    reports = Reports(project / "reports")
    reports.write(await objects_of(store), format="CSV", now=datetime.now(UTC) - timedelta(hours=1))
    await store.aclose()
    (project / "millhand.toml").write_text(
        SETTINGS.format(folder=f"reports/{FOLDER}", schema=schema_driver.schema)
    )
    yield directory
    await schema_driver.pool.execute_script(f"DROP TABLE {table}")


@pytest.mark.slow
async def test_inventory_goes_on_from_the_differences_of_another_engine(bucket: Path, project: Path) -> None:
    """The printed export and the printed statement give differences, and the command finds what is wrong in them."""
    script = await millhand("orphans", "inventory", "--export")
    statement = await millhand("orphans", "inventory", "--sql", "duckdb")
    (project / "rows-1.csv").write_text(
        'uploads,"live,1",4,,ready\nuploads,"live\n2",,,ready\nuploads,missing,4,,ready\n'
    )
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({statement.out}) TO 'differences.csv' (FORMAT csv, HEADER)")

    done = await millhand("orphans", "inventory", "--differences", "differences.csv")
    listed = await millhand("orphans", "list")

    assert (script.code, statement.code, done.code) == (0, 0, 1)
    assert "missing" in listed.out
    assert "live" not in listed.out
    assert list((project / "spill").iterdir()) == []


@pytest.mark.slow
async def test_inventory_prints_a_script_for_psql(bucket: Path, schema_driver: AsyncpgDriver) -> None:
    """The script writes a file of CSV for each source, with its keys, sizes and states."""
    done = await millhand("orphans", "inventory", "--export")

    assert done.out == (
        "-- Run this with psql after the report was written. It writes a file for each source.\n"
        "\\o rows-1.csv\n"
        "COPY (\n"
        "SELECT\n"
        "    'uploads'::text AS source,\n"
        '    left("key"::text, 5000) AS key,\n'
        '    "size"::bigint AS size,\n'
        "    NULL::text AS etag,\n"
        "    'ready'::text AS state\n"
        f'FROM "{schema_driver.schema}"."uploads"\n'
        'WHERE "key" COLLATE "C" > \'\'\n'
        ") TO STDOUT (FORMAT csv, ENCODING 'UTF8');\n"
        "\\o\n"
    )


@pytest.mark.parametrize("engine", ["spark", "athena", "trino"])
async def test_inventory_prints_the_statement_of_an_engine(bucket: Path, engine: str) -> None:
    """The statement reads the tables that are named, or else the usual ones, and says which report it is for."""
    done = await millhand("orphans", "inventory", "--sql", engine, "--report", "lake.inventory")

    heading, _, sql = done.out.partition("\n")
    [tree] = sqlglot.parse(sql, dialect=engine)
    tables = {table.sql() for table in tree.find_all(sqlglot.exp.Table)}  # type: ignore[union-attr]
    assert heading.startswith("-- Report of ")
    assert heading.endswith(f" in CSV, for {engine}.")
    assert {"lake.inventory AS report", "millhand_rows"} & tables or {
        "lake.inventory",
        "millhand_rows",
    } <= tables


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "exactly one of --export, --sql and --differences must be given, got nothing"),
        (
            ("--export", "--sql", "spark"),
            "exactly one of --export, --sql and --differences must be given, got --export and --sql",
        ),
    ],
)
async def test_inventory_does_one_thing(bucket: Path, words: tuple[str, ...], message: str) -> None:
    """One of three options says what to do."""
    done = await millhand("orphans", "inventory", *words)

    assert (done.code, message in done.err) == (2, True)


async def test_inventory_needs_a_report(bucket: Path, project: Path) -> None:
    """Without the setting there is no report, so no statement."""
    text = (project / "millhand.toml").read_text()
    (project / "millhand.toml").write_text(text.replace('inventory = "file', 'price_per_gb = 1 # "file'))

    done = await millhand("orphans", "inventory", "--sql", "spark")

    assert (done.code, done.out) == (2, "")
    assert (
        "orphans.inventory must be set for --sql, got none; set it to the folder of an S3 Inventory's configuration"
    ) in done.err


async def test_a_missing_file_of_differences_is_refused(bucket: Path) -> None:
    """Exit code 2, as of any run that fails."""
    done = await millhand("orphans", "inventory", "--differences", "none.csv")

    assert done.code == 2
    assert (
        "inventory none.csv must be a file of differences, or a directory of such files, got 'none'"
        in done.err
    )
