"""
Run one task with DuckDB: `python -m millhand.orphans.inventory.duckdb_process TASK`, where TASK is a JSON file.

The task has a process of its own, so that its memory ends with it, and a kill for its memory hits no worker. It ends when
its standard input ends, except a task that reads it: then the process that started it has died.

Standard output is one JSON object: `{"answers": […]}`, the rows of each statement in turn, or `{"error": …}`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any


def main(path: str) -> None:
    """Run the task of a file, and print its answers."""
    task = json.loads(Path(path).read_text("utf-8"))
    if not task["reads_input"]:
        threading.Thread(target=_exit_at_end_of_input, daemon=True).start()
    try:
        answer: dict[str, Any] = {"answers": _answers(task)}
    except Exception as error:  # noqa: BLE001 - the process that started this one raises it
        answer = {"error": str(error).partition("\n")[0]}
    sys.stdout.write(json.dumps(answer))


def _answers(task: dict[str, Any]) -> list[list[Any]]:
    import duckdb  # noqa: PLC0415 - the extra may be missing

    with duckdb.connect() as connection:
        for name, value in task["settings"].items():
            quoted = str(value).replace("'", "''")
            connection.execute(f"SET {name} = '{quoted}'")
        return [connection.execute(statement).fetchall() for statement in task["statements"]]


def _exit_at_end_of_input() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
