"""The statement of an inventory on Spark: the same differences as on DuckDB."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from compared_world import COMPARED, encoded, world_of, write_report, write_rows

from millhand.orphans.inventory.difference_sql import DIALECTS, difference_sql
from millhand.orphans.inventory.differences import rows_sql
from repeats import first_of
from required import missing

sys.path.append(str(Path(__file__).parents[1] / "storage"))  # for the unusual keys
from stores import UNUSUAL_KEYS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-spark/bin/python"
PROGRAM = """
import json, sys
from pyspark.sql import SparkSession

task = json.load(open(sys.argv[1]))
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
if task["columns"]:
    reader = spark.read.option("escape", '"')
    reader.csv(task["report"], schema=task["columns"]).createOrReplaceTempView("inventory")
else:
    spark.read.parquet(task["report"]).createOrReplaceTempView("inventory")
spark.read.parquet(task["rows"]).createOrReplaceTempView("millhand_rows")
found = [list(row) for row in spark.sql(task["sql"]).collect()]
json.dump(found, open(task["found"], "w"))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python of the environment that has Spark."""
    if shutil.which("java") is None:
        missing("spark", "Spark needs Java, found none")
    if not PYTHON.exists():
        missing("spark", "Spark is not installed; run ./just spark")
    return PYTHON


@pytest.mark.parametrize("is_encoded", first_of(False, True))
def test_spark_finds_the_same_differences(tmp_path: Path, python: Path, is_encoded: bool) -> None:
    """Spark returns the differences and the counts of a report in either format, with unusual keys."""
    keys = [f"{case}/{key}" for key in UNUSUAL_KEYS for case in range(8)]
    objects, rows, expected = world_of(keys)
    report = write_report(tmp_path, objects, is_encoded=is_encoded)
    write_rows(tmp_path / "rows-1.csv", rows)
    with duckdb.connect() as connection:
        exported = rows_sql(str(tmp_path / "rows-1.csv"))
        connection.execute(f"COPY (SELECT * FROM {exported}) TO '{tmp_path}/rows.parquet' (FORMAT parquet)")
    names = "bucket key version_id is_latest is_delete_marker size last_modified_date e_tag class"
    compared = encoded(COMPARED) if is_encoded else COMPARED
    task = {
        "columns": ", ".join(f"{name} STRING" for name in names.split()) if is_encoded else None,
        "found": str(tmp_path / "found.json"),
        "report": str(report),
        "rows": str(tmp_path / "rows.parquet"),
        "sql": difference_sql(replace(compared, report="inventory"), DIALECTS["spark"]),
    }
    (tmp_path / "task.json").write_text(json.dumps(task))

    subprocess.run([python, "-c", PROGRAM, str(tmp_path / "task.json")], check=True, cwd=tmp_path)

    found = [tuple(row) for row in json.loads((tmp_path / "found.json").read_text())]
    assert set(found) == expected
    assert len(found) == len(expected)
