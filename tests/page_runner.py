"""
Run the blocks of a documentation page, one after the other, in one directory and on one database.

    ```python               runs, in one namespace for each page; `await` may stand at the top level
    ```python title="a.py"  is written to the directory; so is toml
    ```sh                   runs in a terminal; commands that install, or that CI runs, are skipped
    ```text                 after sh: each of its lines must occur in the output, in this order
    ```sql                  runs on the database, unless it creates a role: other tests cover those

A command that ends in ` &` runs until the page ends, and the next block waits for its expected lines. `%1` is its process,
as in a shell. It gets a free port in place of 8000, and so do the commands after it.

In expected lines `…` matches anything and a number matches any number. At a line `^C`, Ctrl-C is pressed. A worker that
runs until then does several things at once, so its lines may come in any order.
Blocks in lists and in HTML comments run too.
"""

from __future__ import annotations

import ast
import asyncio
import codecs
import contextlib
import fcntl
import itertools
import os
import pty
import re
import signal
import struct
import sys
import termios
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from free_ports import free_ports
from user_programs import GENEROUS_SECONDS, PROJECT, environment

_BLOCK = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# Installation needs an empty machine, and the tests create the database. tests/acceptance covers `./just`, and
# tests/interop covers River UI.
SKIPPED = ("pip install", "createdb", "go install", "./just", "git clone", "cd ", "RIVER_HOST=")
ROWS, COLUMNS = 50, 250
PAGE_SECONDS = 600.0  # longer than the blocks of any page


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; `line` is the line of its fence."""

    page: str
    line: int
    language: str
    title: str | None
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, including those in comments."""
    text = page.read_text()
    name = str(page.relative_to(PROJECT))
    return [
        Block(name, text.count("\n", 0, match.start()) + 1, match[2], match[3], textwrap.dedent(match[4]))
        for match in _BLOCK.finditer(text)
    ]


class PageRunner:
    """Runs the blocks of pages in one directory and on one database."""

    def __init__(
        self,
        directory: Path,
        database_url: str,
        *,
        has_database: bool = True,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._database_url = database_url
        self._directory = directory
        self._environment = environment(NO_COLOR="1", TERM="dumb", **(variables or {}))
        self._in_background: list[Background] = []
        self._port = str(free_ports(1)[0])
        self._module = types.ModuleType("docs_page")
        if has_database:
            self._environment["DATABASE_URL"] = database_url

    async def run(self, page: Path) -> None:
        """Run the blocks of `page`. Raises: AssertionError with the place, if the output differs."""
        sys.modules[self._module.__name__] = self._module
        try:
            for block, after in itertools.pairwise([*blocks(page), None]):
                if block is not None:
                    await self._run_block(block, after)
        finally:
            for background in self._in_background:
                await background.stop()
            del sys.modules[self._module.__name__]

    async def _run_block(self, block: Block, after: Block | None) -> None:
        match block:
            case Block(title=str() as title):
                file = self._directory / title
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.text)
            case Block(language="python"):
                await self._execute(block)
            case Block(language="sql") if (
                "CREATE ROLE" not in block.text
            ):  # a role exists on the whole server
                await self._query(block)
            case Block(language="sh"):
                expected = after.text if after is not None and after.language == "text" else ""
                await self._type(block, expected)

    async def _execute(self, block: Block) -> None:
        code = compile(
            "\n" * block.line + block.text, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        waiting = eval(code, self._module.__dict__)  # noqa: S307 - the page is our own
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
        if commands[0].endswith(" &"):
            [command] = commands
            background = Background(block, command.removesuffix(" &"), self._directory, self._environment)
            self._in_background.append(background)
            await background.wait_for(expected.splitlines())
            return
        before, has_interrupt, after = expected.partition("^C\n")
        terminal = Terminal()
        # With `exec`, Ctrl-C reaches the program and not a shell, which would exit first.
        command = f"exec {commands[0]}" if len(commands) == 1 else " && ".join(commands)
        code = await terminal.run(
            command,
            self._directory,
            self._environment,
            interrupt_when=seen_in_any_order(before.splitlines()) if has_interrupt else None,
        )
        lines = [*before.splitlines(), *after.splitlines()]
        missing = first_unseen(lines, terminal.text) if has_interrupt else first_missing(lines, terminal.text)

        assert (missing, code) == (None, 0), f"{block.where}, not found: {missing}\n{terminal.text}"

    def _commands(self, block: Block) -> Iterator[str]:
        for line in block.text.splitlines():
            command = line.partition("  #")[0].strip()
            if command.startswith("export DATABASE_URL="):
                self._environment["DATABASE_URL"] = self._database_url
            elif command.startswith("export ") and command[7:].partition("=")[0] in self._environment:
                continue  # the tests have set it
            elif command and not command.startswith(SKIPPED):
                command = command.replace("8000", self._port)
                yield re.sub(r"%(\d)", lambda found: str(self._in_background[int(found[1]) - 1].pid), command)


class Terminal:
    """A terminal that runs one command; `text` is its output, and `pid` the id of its process."""

    def __init__(self) -> None:
        self.pid = 0
        self.text = ""

    async def run(
        self,
        command: str,
        directory: Path,
        environment: dict[str, str],
        *,
        interrupt_when: Callable[[str], bool] | None,
        seconds: float = GENEROUS_SECONDS,
    ) -> int:
        """Run a command, press Ctrl-C when `interrupt_when` accepts the output, and return the exit code."""
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        process = await asyncio.create_subprocess_shell(
            command, cwd=directory, env=environment, stdin=its, stdout=its, stderr=its, start_new_session=True
        )
        os.close(its)
        self.pid = process.pid
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        is_interrupted = interrupt_when is None
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end within a character

        def read() -> None:
            nonlocal is_interrupted
            try:
                data = os.read(ours, 1 << 16)
            except OSError:  # the program closed its end
                data = b""
            self.text += decoder.decode(data).replace("\r\n", "\n")
            if not data:
                loop.remove_reader(ours)
                ended.set()
            elif not is_interrupted and interrupt_when is not None and interrupt_when(self.text):
                is_interrupted = True
                os.killpg(process.pid, signal.SIGINT)

        loop.add_reader(ours, read)
        try:
            async with asyncio.timeout(seconds):
                await ended.wait()
                return await process.wait()
        except TimeoutError:
            raise AssertionError(f"{command} did not end in time\n{self.text}") from None
        finally:
            loop.remove_reader(ours)
            os.close(ours)
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


class Background:
    """A terminal whose command runs beside the blocks after it."""

    def __init__(self, block: Block, command: str, directory: Path, environment: dict[str, str]) -> None:
        self._where = block.where
        self._terminal = Terminal()
        self._changed = asyncio.Event()
        self._running = asyncio.create_task(
            self._terminal.run(
                f"exec {command}", directory, environment, interrupt_when=self._on_text, seconds=PAGE_SECONDS
            )
        )

    @property
    def pid(self) -> int:
        return self._terminal.pid

    async def wait_for(self, expected: list[str]) -> None:
        """Wait until the output has these lines. Raises: AssertionError with the place, if they do not come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GENEROUS_SECONDS):
                while not self._terminal.text or first_unseen(expected, self._terminal.text):
                    self._changed.clear()
                    await self._changed.wait()
        missing = first_unseen(expected, self._terminal.text)
        assert missing is None, f"{self._where}, not found: {missing}\n{self._terminal.text}"

    async def stop(self) -> None:
        """Kill the command, if it has not ended."""
        self._running.cancel()
        await asyncio.wait([self._running])

    def _on_text(self, _: str) -> bool:
        self._changed.set()
        return False


def seen_in_order(lines: list[str]) -> Callable[[str], bool]:
    """Return a function that checks whether a text has these lines in this order."""
    return lambda text: first_missing(lines, text) is None


def seen_in_any_order(lines: list[str]) -> Callable[[str], bool]:
    """Return a function that checks whether a text has these lines in any order."""
    return lambda text: first_unseen(lines, text) is None


def first_unseen(expected: list[str], text: str) -> str | None:
    """Return the first expected line that is nowhere in `text`, or None."""
    return next((line for line in expected if first_missing([line], text)), None)


def first_missing(expected: list[str], text: str) -> str | None:
    """Return the first expected line that is missing in `text` after the lines before it, or None."""
    lines = iter(text.splitlines())
    for line in expected:
        pattern = _pattern(line)
        if not any(pattern.fullmatch(" ".join(found.split())) for found in lines):
            return line
    return None


def _pattern(line: str) -> re.Pattern[str]:
    escaped = re.escape(" ".join(line.split())).replace("…", ".*")
    return re.compile(re.sub(r"\d+(?:\\\.\d+)?(?:e\\-\d+)?", r"\\d+(?:\\.\\d+)?(?:e-\\d+)?", escaped))
