"""
A process that uses an embedded server: `holder.py DIRECTORY [USER]`.

It prints the server as one line of JSON, and leaves at the end of its input. It becomes USER after all imports, because
an ordinary user may not reach root's Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import sys
from pathlib import Path

import asyncpg

from millhand.embedded import EmbeddedError, embedded_postgres


def main(directory: str, user: str = "") -> None:
    if user:
        become(user)
    try:
        with embedded_postgres(Path(directory)) as server:
            with contextlib.suppress(KeyboardInterrupt):  # it may come as soon as the line is out
                say(url=server.url, is_joined=server.is_joined, uid=os.geteuid())
                sys.stdin.read()
            say(answer=asyncio.run(ask(server.url)))
    except EmbeddedError as error:
        say(error=str(error))


def become(user: str) -> None:
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


async def ask(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT 6 * 7"))
    finally:
        await connection.close()


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
