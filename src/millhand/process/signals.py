"""
Handle the stop signals of a worker process: Ctrl-C, `kill`, and a closed terminal.

    before the client has started   the first signal aborts the start
    while it works                  first: soft stop      second: hard stop      third: the process exits at once
    while it stops                  the third signal still exits at once

The previous handlers are restored at the end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
NUM_ENDS_AT_ONCE = 3


class StopRequested(BaseException):
    """A stop signal arrived before the start; a `BaseException`, so that `except Exception` does not catch it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class StopSignals:
    """
    Receives the signals inside its `with` block and passes them to the listener.

    Concurrency: Python calls handlers in the main thread alone, so another thread takes no signals. The listener runs on
    the loop that called `listen`.
    """

    def __init__(self) -> None:
        self._listener: Callable[[str, int], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._num_received = 0
        self._previous: dict[int, Any] = {}
        self._received: str | None = None  # the name of the last signal
        self._is_ending = False

    def __enter__(self) -> Self:
        self._take(SIGNALS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def retake(self) -> None:
        """
        Take the signals back from handlers that an import has set. Raises: StopRequested if a signal has arrived.

        The import may have caught the first StopRequested, as `except BaseException` does.
        """
        self._take(tuple(self._previous))
        if self._received is not None:
            raise StopRequested(self._received)

    def unblock(self) -> None:
        """Unblock the signals that the supervisor blocked for the start of this process. Raises: StopRequested."""
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._previous)

    def listen(self, listener: Callable[[str, int], None]) -> None:
        """Call `listener` with the name of each signal and the number of signals so far."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener

    def end(self) -> None:
        """Only count from now on, because the process is already stopping."""
        self._listener = None
        self._is_ending = True

    def _take(self, numbers: Iterable[int]) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in numbers:
            if number != signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
                continue  # as `nohup` sets it; SIGINT is taken anyway, because shells ignore it for background jobs
            previous = signal.signal(number, self._receive)
            self._previous.setdefault(number, previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._num_received += 1
        if self._num_received >= NUM_ENDS_AT_ONCE:
            os._exit(128 + number)
        self._received = name = signal.Signals(number).name
        if self._listener is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._listener, name, self._num_received)
        elif not self._is_ending:
            raise StopRequested(name)
