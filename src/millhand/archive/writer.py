"""
Writes one file of the archive from lines of JSON: `python -m millhand.archive_writer parquet SOURCE TARGET`.

It runs as a process of its own, so that neither its CPU time nor its memory are the worker's. A Parquet file is sorted by
kind, and each group of rows has the least and the largest kind and id, so that a search skips most groups.
"""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

# The columns of a file. Readers may rely on them: later versions only add columns, at the end.
COLUMNS = {
    "id": "BIGINT",
    "kind": "VARCHAR",
    "queue": "VARCHAR",
    "state": "VARCHAR",
    "attempt": "SMALLINT",
    "max_attempts": "SMALLINT",
    "priority": "SMALLINT",
    "created_at": "TIMESTAMPTZ",
    "scheduled_at": "TIMESTAMPTZ",
    "attempted_at": "TIMESTAMPTZ",
    "finalized_at": "TIMESTAMPTZ",
    "attempted_by": "VARCHAR[]",
    "tags": "VARCHAR[]",
    "args": "VARCHAR",
    "metadata": "VARCHAR",
    "errors": "VARCHAR",
    "unique_key": "VARCHAR",
    "unique_states": "INTEGER",
}
# Four times the lines of a full file, with a page more: DuckDB sorts args that do not compress in copies.
MEMORY_MB = 512
# DuckDB 1.2 holds a long line this many times at once.
LINE_COPIES = 10
# A multiple of 2,048, the size of DuckDB's vectors.
GROUP_SIZE = 20_480
LINE_BYTES_MIN = 1_048_576
PARQUET = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {GROUP_SIZE}"


def connect(directory: Path, *, memory: str, num_threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Return a connection that reads and writes in `directory` alone, and installs nothing."""
    import duckdb  # noqa: PLC0415 - the extra may be missing

    connection = duckdb.connect()
    settings = {
        "TimeZone": "UTC",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": memory,
        "temp_directory": str(directory / "spill"),
        **({} if num_threads is None else {"threads": str(num_threads)}),
    }
    for name, setting in settings.items():
        connection.execute(f"SET {name} = {literal(setting)}")
    connection.execute(f"SET allowed_directories = [{literal(str(directory))}]")
    connection.execute("SET enable_external_access = false")
    return connection


def lines_sql(path: Path, *, max_bytes: int, json_type: str, compression: str = "uncompressed") -> str:
    """Return SQL that reads a file of JSON lines, none longer than `max_bytes`, with args, metadata and errors as a type."""
    types = {**COLUMNS, **dict.fromkeys(("args", "metadata", "errors"), json_type)}
    columns = ", ".join(f"{name}: {literal(type)}" for name, type in types.items())
    longest = max(max_bytes + 1, LINE_BYTES_MIN)
    return (
        f"SELECT * FROM read_json({literal(str(path))}, format = 'newline_delimited', columns = {{{columns}}}, "
        f"compression = {literal(compression)}, maximum_object_size = {longest})"
    )


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def write_parquet(source: Path, target: Path, max_bytes: int) -> None:
    memory = f"{MEMORY_MB + LINE_COPIES * max_bytes // 1_000_000}MB"
    with connect(target.parent, memory=memory, num_threads=1) as connection:
        read = lines_sql(source, max_bytes=max_bytes, json_type="VARCHAR")
        connection.execute(
            f"COPY ({read} ORDER BY kind, finalized_at, id) TO {literal(str(target))} ({PARQUET})"
        )


def write_lines(source: Path, target: Path) -> None:
    with source.open("rb") as plain, gzip.open(target, "wb") as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)


def main(arguments: list[str]) -> None:
    format, source, target, max_bytes = arguments
    if format == "parquet":
        write_parquet(Path(source), Path(target), int(max_bytes))
    else:
        write_lines(Path(source), Path(target))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:  # noqa: BLE001 - the worker reads it as one line
        sys.stderr.write(f"{type(error).__name__}: {error}".replace("\n", " ") + "\n")
        sys.exit(1)
