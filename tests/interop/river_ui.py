"""River's own web interface: the real server, built once, started on a schema, and used over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from go_build import built
from river_program import GENEROUS_SECONDS

from free_ports import free_ports

SOURCES = Path(__file__).parent / "river_ui"
PACKAGE = "riverqueue.com/riverui/cmd/riverui"


@dataclass(frozen=True)
class Answer:
    """A response of the server. `body` is decoded if it is JSON."""

    status: int
    body: Any


class RiverUI:
    """One server, on one schema, with its log file `log`."""

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._port = port

    async def get(self, path: str, **query: Any) -> Answer:
        """Send a GET request. A list in `query` is repeated."""
        return await self.ask("GET", f"{path}?{urlencode(query, doseq=True)}" if query else path)

    async def post(self, path: str, **body: Any) -> Answer:
        """Send a POST request."""
        return await self.ask("POST", path, body)

    async def queue(self, verb: str, name: str, **body: Any) -> Answer:
        """Change a queue: `pause`, `resume` or `update`."""
        path = f"/api/queues/{quote(name, safe='')}"
        return await (
            self.ask("PATCH", path, body) if verb == "update" else self.ask("PUT", f"{path}/{verb}", {})
        )

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Send a request. An error of the server itself fails the test with the server's log."""
        answer = await asyncio.to_thread(self._ask, method, path, body)
        assert answer.status < 500, (
            f"{method} {path} must be answered, got {answer}:\n{self._log.read_text()}"
        )
        return answer

    def _ask(self, method: str, path: str, body: Any) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=GENEROUS_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read()
            is_json = response.headers.get_content_type() == "application/json"
        return Answer(response.status, json.loads(text) if is_json else text.decode())


@contextlib.asynccontextmanager
async def started_ui(program: Path, url: str, schema: str, directory: Path) -> AsyncIterator[RiverUI]:
    """Start the server on a schema of a database, and stop it at the end. It logs into a file in `directory`."""
    (port,) = free_ports(1)
    environment = {
        "DATABASE_URL": url,
        "PORT": str(port),
        "RIVER_HOST": "127.0.0.1",
        "RIVER_LOG_LEVEL": "warn",
    }
    log = directory / "river_ui.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(program), "-schema", schema, env={**os.environ, **environment}, stdout=output, stderr=output
        )
    try:
        await _listening(port, process, log)
        yield RiverUI(port, log)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def built_ui() -> Path:
    """Return the path of the server, built if it is not. Skips the test where there is no Go."""
    return built("river-ui", SOURCES, PACKAGE)


async def _listening(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(GENEROUS_SECONDS):
        while True:
            assert process.returncode is None, f"River UI must start, got:\n{log.read_text()}"
            with contextlib.suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
                return
