"""Run the command line in this process."""

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
    """The output and exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[list[str]]:
        """The fields of each line of standard output."""
        return [line.split("\t") for line in self.out.splitlines()]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Terminal(io.StringIO):
    """Standard output of a terminal."""

    def isatty(self) -> bool:
        return True


async def millhand(*arguments: object, is_terminal: bool = False) -> Result:
    """Run a command as in a pipe, or with its output on a terminal, and return its result."""
    out, err = Terminal() if is_terminal else io.StringIO(), io.StringIO()

    def call() -> int:
        return run([str(argument) for argument in arguments])

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = await asyncio.to_thread(call)
    return Result(code, out.getvalue(), err.getvalue())
