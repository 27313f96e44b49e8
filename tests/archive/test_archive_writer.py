"""The program that writes a file of the archive."""

from __future__ import annotations

import base64
import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from millhand.archive.archiver import FILE_BYTES, PAGE_BYTES
from millhand.archive.writer import COLUMNS, GROUP_SIZE, connect, write_lines, write_parquet

LINE = {
    **dict.fromkeys(COLUMNS),
    "state": "completed",
    "finalized_at": "2026-03-10T12:00:00.123456+00:00",
    "args": "{}",
    "tags": [],
}


def write(path: Path, *lines: dict[str, object]) -> None:
    path.write_text("".join(json.dumps({**LINE, **line}) + "\n" for line in lines), encoding="utf-8")


@pytest.mark.slow
def test_parquet_is_sorted_by_kind_in_groups(tmp_path: Path) -> None:
    """A search for a kind skips the groups of other kinds, by the least and the largest of each group."""
    kinds = ["a", "b", "c"]
    write(tmp_path / "in", *({"id": n, "kind": kinds[n % 3]} for n in range(3 * GROUP_SIZE)))

    write_parquet(tmp_path / "in", tmp_path / "out", 1_000)

    with duckdb.connect() as connection:
        groups = connection.execute(
            f"SELECT stats_min_value, stats_max_value FROM parquet_metadata('{tmp_path / 'out'}') "
            "WHERE path_in_schema = 'kind' ORDER BY row_group_id"
        ).fetchall()
        [(at,)] = connection.execute(
            f"SELECT DISTINCT epoch_us(finalized_at) FROM read_parquet('{tmp_path / 'out'}')"
        ).fetchall()
    assert groups == [("a", "a"), ("b", "b"), ("c", "c")]
    assert at == 1_773_144_000_123_456


@pytest.mark.slow
@pytest.mark.parametrize("num_bytes", [10, 60_000_000])
def test_a_line_may_be_long(tmp_path: Path, num_bytes: int) -> None:
    """Args of megabytes are written whole."""
    write(tmp_path / "in", {"id": 1, "kind": "a", "args": json.dumps("x" * num_bytes)})

    write_parquet(tmp_path / "in", tmp_path / "out", num_bytes + 1_000)

    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT length(args) FROM read_parquet('{tmp_path / 'out'}')").fetchall()
    assert rows == [(num_bytes + 2,)]


@pytest.mark.slow
def test_a_full_file_may_not_compress(tmp_path: Path) -> None:
    """Encrypted args take as much memory as they have bytes: the largest spool of them is written."""
    num_bytes = 3_300  # the size that needs most
    num_jobs = (FILE_BYTES + PAGE_BYTES) // num_bytes
    chance = random.Random(1)  # noqa: S311 - repeats a file
    write(
        tmp_path / "in",
        *(
            {"id": n, "kind": "a", "args": base64.b64encode(chance.randbytes(num_bytes * 3 // 4)).decode()}
            for n in range(num_jobs)
        ),
    )

    write_parquet(tmp_path / "in", tmp_path / "out", num_bytes + 1_000)

    with duckdb.connect() as connection:
        [(num,)] = connection.execute(f"SELECT count(*) FROM read_parquet('{tmp_path / 'out'}')").fetchall()
    assert num == num_jobs


def test_lines_are_packed_as_they_are(tmp_path: Path) -> None:
    """A file of lines has the bytes of the spool."""
    write(tmp_path / "in", {"id": 1, "kind": "é"})

    write_lines(tmp_path / "in", tmp_path / "out")

    assert gzip.decompress((tmp_path / "out").read_bytes()) == (tmp_path / "in").read_bytes()


@pytest.mark.slow
def test_program_prints_its_error_as_one_line(tmp_path: Path) -> None:
    """The worker reads the first line of what the program prints."""
    done = subprocess.run(
        [sys.executable, "-m", "millhand.archive.writer", "parquet", tmp_path / "no", tmp_path / "out", "10"],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("IOException: ")


def test_a_connection_reads_its_directory_alone(tmp_path: Path) -> None:
    """A condition of a search cannot read other files."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    write(outside, {"id": 1})
    with connect(inside, memory="64MB") as connection, pytest.raises(duckdb.PermissionException):
        connection.execute(f"SELECT * FROM read_json('{outside}')")
