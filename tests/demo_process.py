"""`./just demo --web` in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from user_programs import PROJECT, environment

GENEROUS_SECONDS = 180.0  # a charge is discarded after half a minute


class Demo:
    """A demo that runs, its output so far, the URL that it prints, and its API."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.text = ""
        self.url = ""
        self.api = httpx.AsyncClient()

    async def read_until(self, pattern: str) -> re.Match[str]:
        """Return the match of a pattern when it is in the output."""
        assert self.process.stdout is not None
        while not (match := re.search(pattern, self.text)):
            line = await self.process.stdout.readline()
            assert line, self.text
            self.text += line.decode()
        return match

    async def end_outage(self) -> None:
        """Press Enter, which brings the payment provider back."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        await self.read_until("payment provider is back")

    async def until(self, path: str, condition: Callable[[Any], bool]) -> Any:
        """Return an answer of the API when it fulfils a condition, which is checked at each line of the live events."""
        async with self.api.stream("GET", "/live", timeout=None) as events:
            lines = events.aiter_lines()
            while not condition(answer := (await self.api.get(f"/api/v1/{path}")).raise_for_status().json()):
                await anext(lines)
        return answer


@contextlib.asynccontextmanager
async def running_demo() -> AsyncIterator[Demo]:
    """A demo with its page; Ctrl-C ends it and the worker."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "examples.demo", "--web", "--port", "0",
        cwd=PROJECT, env=environment(), start_new_session=True,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    demo = Demo(process)
    try:
        async with asyncio.timeout(GENEROUS_SECONDS):
            url = await demo.read_until(r"Open (http://127\.0\.0\.1:\d+)/login\?token=(\S+)")
            demo.url = url[0].removeprefix("Open ")
            demo.api.base_url = url[1]
            demo.api.headers["Authorization"] = f"Bearer {url[2]}"
            yield demo
            os.killpg(process.pid, signal.SIGINT)
            await process.communicate()
    finally:
        await demo.api.aclose()
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
