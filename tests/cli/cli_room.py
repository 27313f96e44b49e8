"""The command line in this process, on a schema of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from dataclasses import dataclass
from typing import Any

from millhand.cli.main import run


@dataclass(frozen=True)
class Result:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[list[str]]:
        """What it said as lines of fields."""
        return [line.split("\t") for line in self.out.splitlines()]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def millhand(*arguments: object) -> Result:
    """Run a command as if in a pipe, and return what came of it."""
    out, err = io.StringIO(), io.StringIO()

    def call() -> int:
        return run([str(argument) for argument in arguments])

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = await asyncio.to_thread(call)
    return Result(code, out.getvalue(), err.getvalue())
