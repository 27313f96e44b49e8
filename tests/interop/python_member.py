"""
A working client of ours in a process of its own, for a test that kills it.

    python_member.py URL SCHEMA ID

Tells what happens as River's program does, on standard output, and stops when standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta

from river_program import Line, Told
from scripted_worker import ScriptedWorkers

from millhand.client import Client
from millhand.config import Config


class Printed(Told):
    """Tells to whoever reads."""

    def tell(self, line: Line) -> None:
        print(json.dumps(line), flush=True)


async def main(url: str, schema: str, id: str) -> None:
    told = Printed()
    config = Config(
        client_id=id,
        fetch_poll_interval=timedelta(milliseconds=50),
        queues={"default": 10},
        schema=schema,
        workers=ScriptedWorkers(id, told, is_quiet=False).workers(("act",), {}),
    )
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    async with Client(url, config):
        told.tell({"event": "started", "client": id})
        await ended.wait()


asyncio.run(main(*sys.argv[1:]))
