"""Run the applications in examples/ by the commands of their READMEs; shared by their tests."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from page_runner import blocks
from served import Served, served, until
from user_programs import PROJECT

EXAMPLES = PROJECT / "examples"


def commands(example: str) -> list[str]:
    """Return the commands in the first block of an application's README."""
    block = next(one for one in blocks(EXAMPLES / example / "README.md") if one.language == "sh")
    lines = [line.partition("  #")[0].strip() for line in block.text.splitlines()]
    return [line for line in lines if line]


def started(
    example: str, command: str, *more: str, **variables: str
) -> contextlib.AbstractAsyncContextManager[Served]:
    """Start a command of an example, with more arguments, in its directory."""
    program, *arguments = shlex.split(command)
    script = [] if program == "python" else [str(Path(sys.executable).with_name(program))]
    return served([*script, *arguments, *more], EXAMPLES / example, **variables)


async def run(example: str, command: str, *more: str, **variables: str) -> str:
    """Run a command of an example, and return what it printed when it ended with 0."""
    async with started(example, command, *more, **variables) as program:
        assert await program.ended() == 0, program.text
    return program.text


@contextlib.asynccontextmanager
async def asking(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of HTTP, as soon as the server says where it is."""
    async with httpx.AsyncClient(base_url=await server.address(), follow_redirects=True) as http:
        yield http


async def answer_when(http: httpx.AsyncClient, path: str, **expected: object) -> dict[str, Any]:
    """Return the JSON at a path, as soon as its fields have these values."""

    async def look() -> dict[str, Any]:
        found: dict[str, Any] = (await http.get(path)).json()
        return found

    return await until(look, lambda seen: expected.items() <= seen.items())
