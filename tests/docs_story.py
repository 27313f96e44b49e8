"""
A page of documentation as a story: its blocks happen, one after the other, to one reader.

    ```python               runs, in one namespace a page; `await` may stand at its top level
    ```python title="a.py"  is written to the reader's directory; so is toml
    ```sh                   is run there, in a terminal; commands that install, or that CI runs, are left out
    ```text                 behind sh: each of its lines is found in what was printed, in this order
    ```sql                  is run on the reader's database, unless it makes a role: tests do that under other names

In expected lines `…` stands for anything, a number for any number, and a line `^C` says when Ctrl-C is pressed.
"""

from __future__ import annotations

import ast
import asyncio
import fcntl
import itertools
import os
import pty
import re
import signal
import struct
import sys
import termios
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from docs_room import GENEROUS_SECONDS, PROJECT, environment

_BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What installs is for a machine that has nothing yet; what `./just` does is proved in tests/acceptance, and River UI in
# tests/interop.
LEFT_OUT = ("pip install", "go install", "./just", "git clone", "cd ", "RIVER_HOST=")
ROWS, COLUMNS = 50, 250


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; `line` is that of its fence."""

    page: str
    line: int
    language: str
    title: str | None
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, those in comments too."""
    text = page.read_text()
    name = str(page.relative_to(PROJECT))
    return [
        Block(name, text.count("\n", 0, match.start()) + 1, match[1], match[2], match[3])
        for match in _BLOCK.finditer(text)
    ]


class Reader:
    """Somebody who does what a page says, in a directory and on a database of their own."""

    def __init__(self, directory: Path, database_url: str, *, has_database: bool = True) -> None:
        self._database_url = database_url
        self._directory = directory
        self._environment = environment(NO_COLOR="1", TERM="dumb")
        self._module = types.ModuleType("docs_page")
        if has_database:
            self._environment["DATABASE_URL"] = database_url

    async def follow(self, page: Path) -> None:
        """Do what the blocks of `page` say. Raises: AssertionError with the place, if something else happens."""
        sys.modules[self._module.__name__] = self._module
        try:
            told = [*blocks(page), None]
            for block, after in itertools.pairwise(told):
                if block is not None:
                    await self._do(block, after)
        finally:
            del sys.modules[self._module.__name__]

    async def _do(self, block: Block, after: Block | None) -> None:
        match block:
            case Block(title=str() as title):
                (self._directory / title).write_text(block.text)
            case Block(language="python"):
                await self._execute(block)
            case Block(language="sql") if "CREATE ROLE" not in block.text:  # roles are the whole server's
                await self._query(block)
            case Block(language="sh"):
                expected = after.text if after is not None and after.language == "text" else ""
                await self._type(block, expected)

    async def _execute(self, block: Block) -> None:
        code = compile(
            "\n" * block.line + block.text, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        waiting = eval(code, self._module.__dict__)  # noqa: S307 - it is our own page
        if waiting is not None:
            async with asyncio.timeout(GENEROUS_SECONDS):
                await waiting

    async def _query(self, block: Block) -> None:
        connection = await asyncpg.connect(self._database_url)
        try:
            await connection.execute(block.text)
        finally:
            await connection.close()

    async def _type(self, block: Block, expected: str) -> None:
        commands = list(self._commands(block))
        if not commands:
            return
        before, has_interrupt, after = expected.partition("^C\n")
        terminal = Terminal()
        # A shell in between would die of the Ctrl-C that the program survives.
        command = f"exec {commands[0]}" if len(commands) == 1 else " && ".join(commands)
        code = await terminal.run(
            command,
            self._directory,
            self._environment,
            interrupt_when=seen_in_order(before.splitlines()) if has_interrupt else None,
        )
        missing = first_missing([*before.splitlines(), *after.splitlines()], terminal.text)

        assert (missing, code) == (None, 0), f"{block.where}, not found: {missing}\n{terminal.text}"

    def _commands(self, block: Block) -> Iterator[str]:
        for line in block.text.splitlines():
            command = line.partition("  #")[0].strip()
            if command.startswith("export DATABASE_URL="):
                self._environment["DATABASE_URL"] = self._database_url
            elif command and not command.startswith(LEFT_OUT):
                yield command


class Terminal:
    """A terminal in which one command is run; `text` is what it shows."""

    def __init__(self) -> None:
        self.text = ""

    async def run(
        self,
        command: str,
        directory: Path,
        environment: dict[str, str],
        *,
        interrupt_when: Callable[[str], bool] | None,
    ) -> int:
        """Run a command, press Ctrl-C once what it shows is as wanted, and return its exit code."""
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        process = await asyncio.create_subprocess_shell(
            command,
            cwd=directory,
            env=environment,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        is_interrupted = interrupt_when is None

        def read() -> None:
            nonlocal is_interrupted
            try:
                data = os.read(ours, 1 << 16)
            except OSError:  # the other end was closed
                data = b""
            self.text += data.decode(errors="replace").replace("\r\n", "\n")
            if not data:
                loop.remove_reader(ours)
                ended.set()
            elif not is_interrupted and interrupt_when is not None and interrupt_when(self.text):
                is_interrupted = True
                os.killpg(process.pid, signal.SIGINT)

        loop.add_reader(ours, read)
        try:
            async with asyncio.timeout(GENEROUS_SECONDS):
                await ended.wait()
                return await process.wait()
        except TimeoutError:
            raise AssertionError(f"{command} goes on for ever\n{self.text}") from None
        finally:
            loop.remove_reader(ours)
            os.close(ours)
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


def seen_in_order(lines: list[str]) -> Callable[[str], bool]:
    """Return whether a text has these lines, one behind the other."""
    return lambda text: first_missing(lines, text) is None


def seen_in_any_order(lines: list[str]) -> Callable[[str], bool]:
    """Return whether a text has these lines, wherever."""
    return lambda text: all(first_missing([line], text) is None for line in lines)


def first_missing(expected: list[str], text: str) -> str | None:
    """Return the first of the expected lines that is not among those of `text`, behind the ones before it."""
    lines = iter(text.splitlines())
    for line in expected:
        pattern = _pattern(line)
        if not any(pattern.fullmatch(" ".join(found.split())) for found in lines):
            return line
    return None


def _pattern(line: str) -> re.Pattern[str]:
    escaped = re.escape(" ".join(line.split())).replace("…", ".*")
    return re.compile(re.sub(r"\d+(?:\\\.\d+)?(?:e\\-\d+)?", r"\\d+(?:\\.\\d+)?(?:e-\\d+)?", escaped))
