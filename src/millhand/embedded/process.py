"""Checks of other processes and their sockets: which are alive, and which answer."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_DIRECTORY_BYTES = 88  # macOS allows a socket's path 103 bytes, Linux 107; `/.s.PGSQL.5432` takes 14
WAIT_SECONDS = 60  # a start includes the recovery after a crash
POLL_SECONDS = 0.01


def command_line(pid: int) -> list[str]:
    """Return the arguments of a living process; none for a dead one, or a zombie, which containers may keep."""
    if sys.platform == "linux":
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return []
    ps = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return [ps.stdout, *ps.stdout.split()]


def is_gone(pid: int) -> bool:
    """Return whether no process has `pid`, or only a zombie."""
    if sys.platform != "linux":
        return not any(command_line(pid))
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[:1] in (["Z"], ["X"])


def is_usable_for_socket(directory: str) -> bool:
    """Return whether a socket in `directory` has a path that is short enough and fits a setting and a URL."""
    is_nameable = not re.search(r'[,"@\\\udc80-\udcff]', directory)  # the last are bytes that are no UTF-8
    return is_nameable and 0 < len(os.fsencode(directory)) <= SOCKET_DIRECTORY_BYTES


def listens(socket_directory: str) -> bool:
    """Return whether a server accepts connections at the socket in `socket_directory`."""
    if not is_usable_for_socket(socket_directory):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(f"{socket_directory}/{SOCKET_NAME}") == 0


def wait_until(condition: Callable[[], bool], *, every_seconds: float = POLL_SECONDS) -> bool:
    """Wait until `condition` is true. Returns False if it is not within WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_seconds)
    return True
