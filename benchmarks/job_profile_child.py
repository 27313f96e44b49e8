"""
The worker of `job_profile.py`: drains jobs and samples where its CPU time goes.

    python benchmarks/job_profile_child.py FILE PID    # reads the order from standard input, writes JSON to FILE

PID is the server whose processes' CPU time is counted too, 0 for none.

The timer runs with the CPU time of the process, not with the clock, so other programs do not matter and waiting takes no
samples. Python calls the handler between two instructions: an extension counts for its caller, and a collection of
garbage for the callback that ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from worker_child import read_order, work

# The kernel rounds this up to its tick of 1 to 10 ms, so 300,000 jobs give some thousand samples.
INTERVAL_SECONDS = 0.00097

FETCH, BEGIN, EXECUTE, COMPLETE = "fetch", "begin", "execute", "complete"
EVENTS, LOOP, GARBAGE = "events", "event loop", "garbage"
STAGES = (FETCH, BEGIN, EXECUTE, COMPLETE, EVENTS, LOOP, GARBAGE)

# The end of a module's path, its functions (none means all), and the stage. The innermost frame with a rule decides, and
# of several rules the first.
RULES: tuple[tuple[str, frozenset[str], str], ...] = (
    ("job_profile_child.py", frozenset({"record_collection"}), GARBAGE),
    ("millhand/engine/producer.py", frozenset({"_start_attempts", "_work", "_remove"}), BEGIN),
    ("millhand/engine/producer.py", frozenset(), FETCH),
    ("millhand/engine/store/job_row.py", frozenset({"parse_job", "parse_jobs"}), FETCH),
    # Results are decoded where they are read, and those of completions are nearly empty.
    ("asyncio/selector_events.py", frozenset({"_read_ready__data_received"}), FETCH),
    ("millhand/engine/job_executor.py", frozenset(), EXECUTE),
    (
        "millhand/engine/completer.py",
        frozenset({"_emit_completed", "_emit", "_event", "_completed_row"}),
        EVENTS,
    ),
    ("millhand/engine/completer.py", frozenset(), COMPLETE),
    ("millhand/engine/subscription.py", frozenset(), EVENTS),
    ("millhand/bench/noop_client.py", frozenset({"_count"}), EVENTS),
)


class Sampler:
    """Counts samples by stage and function inside its `with` block."""

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self.counts: Counter[tuple[str, str]] = Counter()
        self.server_seconds = 0.0

    def __enter__(self) -> Self:
        self.server_seconds = -server_seconds(self._server_pid)
        gc.callbacks.append(self.record_collection)
        signal.signal(signal.SIGPROF, self.take)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        gc.callbacks.remove(self.record_collection)
        self.server_seconds += server_seconds(self._server_pid)

    def take(self, _signal: int, frame: FrameType | None) -> None:
        """Count one sample."""
        self.counts[stage_of(frame), name_of(frame)] += 1

    def record_collection(self, phase: str, info: dict[str, int]) -> None:
        """Run after a collection, so that a signal during it is handled in this function."""


def stage_of(frame: FrameType | None) -> str:
    """Return the stage to which a stack belongs."""
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        for end, names, stage in RULES:
            if path.endswith(end) and (not names or name in names):
                return stage
        frame = frame.f_back
    return LOOP


def name_of(frame: FrameType | None) -> str:
    """Return module and function for a table."""
    if frame is None:
        return "?"
    return f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])} {frame.f_code.co_qualname}"


def server_seconds(pid: int) -> float:
    """Return the CPU seconds of all processes of a server, including those that have ended."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat") if pid else ():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # After the name, which may contain anything: state, parent, and from the 12th field on the times.
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                ticks += sum(map(int, fields[11:13]))
            elif stat.parent.name == str(pid):
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    sampler = Sampler(int(sys.argv[2]))
    asyncio.run(work(read_order(), sampler))
    samples = [[stage, name, count] for (stage, name), count in sampler.counts.items()]
    found = {"samples": samples, "server_seconds": sampler.server_seconds}
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
