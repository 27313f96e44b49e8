"""
The record of a race: each call of each process with its result, and each act of the application, in one file.

All processes append to it, each line in one write, so a process that is killed loses none of its lines. The times are those
of the machine's one clock. A call has a line when it begins and one when it ends, because others may act in between.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from millhand.db.driver.protocol import Executor
from millhand.db.query import CopyOut
from millhand.orphans.ledger import Action, Finding
from millhand.storage import ObjectInfo, ObjectPage, ObjectStore, ObjectVersion

LONGEST = 4_000  # characters of arguments, or of a result
AROUND = 150  # characters that a story shows before and after a key
MOST = 400  # lines of a story
LISTINGS = ("list_pages", "list_uploads", "list_versions")
BEGINS = " …"
OF_ALL = " * "  # marks a line that concerns every key


class Record:
    """One writer of a record. `name` says which process it is."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    def __call__(self, text: str) -> None:
        """Write one line."""
        line = f"{time.monotonic():.4f} {self.name}: {text}".replace("\n", " ")
        os.write(self._file, f"{line}\n".encode(errors="backslashreplace"))

    def of_all(self, text: str) -> None:
        """Write a line that concerns every key."""
        self(f"{OF_ALL}{text}")

    def close(self) -> None:
        os.close(self._file)

    async def of_call(self, text: str, call: Awaitable[Any]) -> Any:
        """Make a call, and write when it begins and how it ends."""
        self(f"{text}{BEGINS}")
        try:
            result = await call
        except BaseException as error:
            self(f"{text} raised {type(error).__name__}: {str(error)[:LONGEST]}")
            raise
        self(f"{text} = {shown(result)}")
        return result


class RecordedStore:
    """A store whose calls are recorded."""

    def __init__(self, store: ObjectStore, record: Record) -> None:
        self._store = store
        self._record = record

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found
        return partial(self._pages if name in LISTINGS else self._call, name, found)

    async def _call(self, name: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return await self._record.of_call(_call_text(name, args, options), method(*args, **options))

    async def _pages(
        self, name: str, method: Callable[..., AsyncIterator[Any]], *args: Any, **options: Any
    ) -> AsyncIterator[Any]:
        text = _call_text(name, args, options)
        self._record(f"{text}{BEGINS}")
        async for page in method(*args, **options):
            self._record(f"{text} = {shown(page)}")
            yield page


class RecordedExecutor:
    """An executor whose statements are recorded."""

    def __init__(self, executor: Executor, record: Record, where: str = "") -> None:
        self._executor = executor
        self._record = record
        self._where = where

    async def run(self, query: Any) -> Any:
        text = f"{self._where}{query.name} {shown(query.params)}"
        return await self._record.of_call(text, self._executor.run(query))

    async def fetch(self, sql: str, params: Sequence[Any] = (), **options: Any) -> Any:
        text = f"{self._where}{_sql_text(sql)} {shown(params)}"
        return await self._record.of_call(text, self._executor.fetch(sql, params, **options))

    async def copy_out(self, copy: CopyOut) -> int:
        text = f"{self._where}copy out {_sql_text(copy.select)}"
        return int(await self._record.of_call(text, self._executor.copy_out(copy)))

    async def execute_script(self, sql: str, **options: Any) -> None:
        await self._executor.execute_script(sql, **options)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[RecordedExecutor]:
        name = f"tx {time.monotonic_ns() // 1_000 % 10**7}"
        try:
            async with self._executor.begin() as tx:
                yield RecordedExecutor(tx, self._record, f"{name}: ")
        except BaseException as error:
            self._record(f"{name} is rolled back by {type(error).__name__}")
            raise
        self._record(f"{name} is committed")


def shown(value: object) -> str:
    """Return a value as a story shows it: times to the second, and of an object what tells it from others."""
    return _shown(value)[:LONGEST]


def _shown(value: object) -> str:
    match value:
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case Enum():
            return str(value.value)
        case ObjectInfo():
            return f"object {value.key!r} {_identity(value)}"
        case ObjectVersion():
            kind = "marker" if value.is_delete_marker else "version"
            return f"{kind} of {value.key!r} {_identity(value)}{' latest' if value.is_latest else ''}"
        case Action():
            return f"action {value.id} on {value.key!r} {value.state} since {_shown(value.updated_at)}"
        case Finding():
            return f"finding {value.id} on {value.key!r} by rule {value.rule}"
        case ObjectPage():
            return _shown(value.keys)
        case Mapping():
            shown_ones = (
                f"{key}={_shown(one)}" for key, one in value.items() if key != "bucket" and one is not None
            )
            return f"{{{', '.join(shown_ones)}}}"
        case list() | tuple():
            return f"[{', '.join(map(_shown, value))}]"
        case _:
            return repr(value)


def lines_about(path: Path, key: str, ids: Iterable[int] = ()) -> list[str]:
    """
    Return the lines that name a key, or its actions by their ids, and those that concern every key, in the order of time.

    Of a call during which nothing else happened there is one line.
    """
    name = re.compile(rf"(?:quarantine/\d+/|(?<![\w/.~-])){re.escape(repr(key)[1:-1])}(?![\w/.~-])")
    actions = "|".join(map(str, ids)) or "none"
    action = re.compile(rf"set_state_many \{{ids=\[[^]]*?\b(?:{actions})\b")
    transactions: set[str] = set()
    found: list[str] = []
    # Each writer notes the time before it writes.
    lines = sorted(
        path.read_text(errors="replace").splitlines(), key=lambda one: float(one.partition(" ")[0])
    )
    for line in lines:
        at = name.search(line) or action.search(line)
        transaction = re.search(r": (tx \d+)", line)
        if at is not None and transaction is not None:
            transactions.add(transaction[1])
        is_end = transaction is not None and transaction[1] in transactions and " is " in line
        if at is not None or is_end or OF_ALL in line:
            began = found[-1].partition(" ")[2].removesuffix(BEGINS) if found else None
            if found and found[-1].endswith(BEGINS) and line.partition(" ")[2].startswith(str(began)):
                found.pop()
            found.append(line)
    return [_cut(line, name.search(line)) for line in found[-MOST:]]


def _cut(line: str, at: re.Match[str] | None) -> str:
    if at is None or len(line) <= 3 * AROUND:
        return line[: 3 * AROUND]
    start = max(AROUND, at.start() - AROUND)
    end = max(at.end() + AROUND, 2 * AROUND)
    return (
        f"{line[:AROUND]}{' … ' if start > AROUND else ''}{line[start:end]}{' …' if end < len(line) else ''}"
    )


def _identity(value: ObjectInfo | ObjectVersion) -> str:
    version = "" if value.version is None else f" version {value.version[-8:]}"
    return f"(etag {value.etag[:6]} of {_shown(value.modified_at)}{version})"


def _call_text(name: str, args: Sequence[Any], options: Mapping[str, Any]) -> str:
    values = [*map(shown, args), *(f"{option}={shown(value)}" for option, value in options.items())]
    return f"{name}({', '.join(values)})"


def _sql_text(sql: str) -> str:
    words = " ".join(sql.split())
    return words if len(words) <= AROUND else f"{words[: AROUND // 2]} … {words[-AROUND // 2 :]}"
