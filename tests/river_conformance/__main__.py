"""Run the adapter on the database of RIVER_CONFORMANCE_DATABASE_URL until standard input ends, or until a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import cast

from river_conformance.methods import methods_of
from river_conformance.server import serve
from river_conformance.session import Session, Settings, settings_of


def main() -> None:
    """Run the adapter."""
    try:
        settings = settings_of(os.environ)
        methods_of(settings.profile)  # raises for an unknown profile
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    current = cast("asyncio.Task[None]", asyncio.current_task())
    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, current.cancel)
    try:
        await serve(Session(settings), sys.stdin.buffer, sys.stdout.buffer)
    except asyncio.CancelledError:
        os._exit(1)  # the thread that reads standard input cannot be interrupted


if __name__ == "__main__":
    main()
