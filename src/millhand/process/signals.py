"""
What a worker's process does when it is told to stop: by Ctrl-C, by `kill`, or because its terminal was closed.

    before the client is started   the first signal abandons the start
    while it works                 first: soft stop      second: hard stop      third: the process ends at once
    while everything is ending     the third signal ends it all the same

The handlers that were there before are put back at the end.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
NUM_ENDS_AT_ONCE = 3


class StopRequested(BaseException):
    """
    The process was told to stop while there was nothing yet to stop in order.

    Not an `Exception`, for the same reason for which KeyboardInterrupt is none.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class StopSignals:
    """
    Receives the signals while it is entered; `listen` hands them on.

    Concurrency: enter it in the main thread. The listener is called on the loop that was running in `listen`.
    """

    def __init__(self) -> None:
        self._listener: Callable[[str, int], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._num_received = 0
        self._previous: dict[int, Any] = {}
        self._is_ending = False

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if number != signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
                continue  # as `nohup` wants it; but a script ignores SIGINT for whatever it puts in the background
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def let_in(self) -> None:
        """Take what was held back by whoever started this process, until it could be heeded. Raises: StopRequested."""
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._previous)

    def listen(self, listener: Callable[[str, int], None]) -> None:
        """From now on call `listener` with the signal's name and how many there were, this one included."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener

    def end(self) -> None:
        """From now on only count: everything is ending in order already."""
        self._listener = None
        self._is_ending = True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._num_received += 1
        if self._num_received >= NUM_ENDS_AT_ONCE:
            os._exit(128 + number)
        name = signal.Signals(number).name
        if self._listener is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._listener, name, self._num_received)
        elif not self._is_ending:
            raise StopRequested(name)
