"""Claims about how StopSignals handles signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys

import pytest

from millhand.process.signals import StopRequested, StopSignals

STUBBORN = """
import signal, sys, threading
from millhand.process.signals import StopSignals
for number in (signal.SIGHUP, signal.SIGINT):  # a shell's background, or `nohup`, ignores them
    signal.signal(number, signal.SIG_DFL)
with StopSignals() as signals:
    signals.end()
    print("ready", flush=True)
    threading.Event().wait()
"""


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_signals_abort_a_start_without_a_listener() -> None:
    """Without a listener the first signal raises StopRequested with its name."""
    with StopSignals(), pytest.raises(StopRequested) as stopped:
        os.kill(os.getpid(), signal.SIGTERM)

    assert stopped.value.name == "SIGTERM"


def test_signals_restore_previous_handlers() -> None:
    """The previous handlers are back after the block."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    with StopSignals():
        during = signal.getsignal(signal.SIGINT)

    assert during != before[signal.SIGINT]
    assert {number: signal.getsignal(number) for number in before} == before


def test_signals_are_counted_for_the_listener() -> None:
    """The listener gets each signal with its count, until `end`."""

    async def listen(signals: StopSignals) -> list[tuple[str, int]]:
        received: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        signals.listen(lambda name, count: received.put_nowait((name, count)))
        _interrupt()
        first = await received.get()
        signals.end()
        _interrupt()
        await asyncio.sleep(0)
        return [first, *([] if received.empty() else [received.get_nowait()])]

    with StopSignals() as signals:
        received = asyncio.run(listen(signals))

    assert received == [("SIGINT", 1)]


def test_signals_leave_a_hangup_ignored_that_was_ignored() -> None:
    """A process under `nohup` keeps running without its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals():
            os.kill(os.getpid(), signal.SIGHUP)
            during = signal.getsignal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)

    assert during is signal.SIG_IGN


@pytest.mark.slow
def test_signals_end_the_process_at_the_third() -> None:
    """The third signal ends even a blocked process, and the exit code names the signal."""
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        codes = []
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            codes.append(process.poll())
            process.send_signal(number)
        code = process.wait(timeout=20)

    assert codes[:2] == [None, None]
    assert code in (128 + signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGHUP)


def test_signals_are_taken_back_from_a_handler_of_an_import() -> None:
    """After `retake` a signal is a stop again, and the handlers of before are back after the block."""
    before = signal.getsignal(signal.SIGTERM)

    with StopSignals() as signals:
        signal.signal(signal.SIGTERM, lambda *_: None)
        signals.retake()
        with pytest.raises(StopRequested):
            os.kill(os.getpid(), signal.SIGTERM)

    assert signal.getsignal(signal.SIGTERM) == before


def test_signal_that_an_import_has_caught_is_raised_again() -> None:
    """`retake` raises StopRequested for a signal whose first one was caught."""
    with StopSignals() as signals:
        with contextlib.suppress(StopRequested):
            _interrupt()

        with pytest.raises(StopRequested, match="SIGINT"):
            signals.retake()
