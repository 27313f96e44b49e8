"""
A working Millhand client in its own process, for a test that kills it.

    python_member.py URL SCHEMA ID

Prints its events on standard output like River's program, and stops when standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta

from river_program import EventLog, Line
from scripted_worker import ScriptedWorkers

from millhand.client import Client
from millhand.core.config import Config


class Printed(EventLog):
    """An event log that prints each event as a JSON line."""

    def record(self, line: Line) -> None:
        print(json.dumps(line), flush=True)


async def main(url: str, schema: str, id: str) -> None:
    events = Printed()
    config = Config(
        client_id=id,
        fetch_poll_interval=timedelta(milliseconds=50),
        heartbeat_interval=None,
        queues={"default": 10},
        schema=schema,
        workers=ScriptedWorkers(id, events, is_quiet=False).workers(("act",), {}),
    )
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    async with Client(url, config):
        events.record({"event": "started", "client": id})
        await ended.wait()


asyncio.run(main(*sys.argv[1:]))
