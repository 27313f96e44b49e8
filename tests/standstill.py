"""
Run tests while their processes stand still for seconds, as on a machine that swaps or a virtual machine that is moved.

A test that fails beside a standstill has a limit of time that a busy machine can exceed, or shows a fault of the product.
The processes are found by a variable of their environment, which all descendants inherit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "MILLHAND_TEST_STANDSTILL"
# All, only the database, only the others, or a random half: each shows other races.
KINDS = ("all", "database", "others", "half")


def marked(value: str) -> list[int]:
    """Return the ids of the running processes that have `value` in their environment."""
    wanted = f"{MARK}={value}".encode()
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if wanted in _read(pid, "environ").split(b"\0") and not _is_stopped(pid)]


def _read(pid: int, name: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""  # it has ended


def _is_stopped(pid: int) -> bool:
    """Whether a test has stopped the process itself, which then must not go on with the others."""
    return b"\nState:\tT" in _read(pid, "status")


def is_database(pid: int) -> bool:
    """Whether the process is one of PostgreSQL's."""
    return _read(pid, "comm") == b"postgres\n"


def chosen(pids: list[int], kind: str, chance: random.Random) -> list[int]:
    """Return the processes that a standstill of this kind stops."""
    if kind == "database":
        return [pid for pid in pids if is_database(pid)]
    if kind == "others":
        return [pid for pid in pids if not is_database(pid)]
    return pids if kind == "all" else [pid for pid in pids if chance.random() < 0.5]


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Stop the processes for as long as the block takes."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def options() -> tuple[argparse.Namespace, list[str]]:
    """Return our own options, and the arguments of pytest."""
    parser = argparse.ArgumentParser("just standstill", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[5, 11, 20], help="how long, in turn (default: 5 11 20)"
    )
    parser.add_argument(
        "--every", type=float, default=20, help="seconds between two standstills (default: 20)"
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS, help="which processes stop (default: each kind)"
    )
    parser.add_argument(
        "--seed", type=int, default=time.time_ns() % 10**6, help="repeat a run's order (default: a new one)"
    )
    return parser.parse_known_args()


def main() -> int:
    """Run pytest beside standstills, and return its exit code."""
    given, arguments = options()
    print(f"seed {given.seed}", flush=True)
    chance, value = random.Random(given.seed), uuid.uuid4().hex  # noqa: S311 - no secret
    tests = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], env={**os.environ, MARK: value})
    num_standstills = 0
    while True:
        with suppress(subprocess.TimeoutExpired):
            code = tests.wait(given.every * chance.uniform(0.5, 1.5))
            print(f"{num_standstills} standstills", flush=True)
            return code
        seconds, kind = given.seconds[num_standstills % len(given.seconds)], chance.choice(given.kinds)
        pids = chosen(marked(value), kind, chance)
        print(
            f"{time.strftime('%H:%M:%S')} {kind}: {len(pids)} processes stand still for {seconds:g} s",
            flush=True,
        )
        with stopped(pids):
            time.sleep(seconds)
        num_standstills += 1


if __name__ == "__main__":
    sys.exit(main())
