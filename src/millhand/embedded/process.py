"""Processes and sockets that are somebody else's: which are alive, and which answer."""

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
    """Return a living process's arguments, or none; a dead one stays a zombie where nobody reaps, as in containers."""
    if sys.platform == "linux":
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return []
    said = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return [said.stdout, *said.stdout.split()]


def is_gone(pid: int) -> bool:
    """Say whether no process has `pid`, or only a dead one that nobody has reaped."""
    if sys.platform != "linux":
        return not any(command_line(pid))
    try:
        said = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return said.rpartition(")")[2].split()[:1] in (["Z"], ["X"])


def is_usable_for_socket(directory: str) -> bool:
    """Say whether a socket in `directory` has a short enough path, and one that a list of directories and a URL can name."""
    is_nameable = not re.search(r'[,"@\\\udc80-\udcff]', directory)  # the last are bytes that are no UTF-8
    return is_nameable and 0 < len(os.fsencode(directory)) <= SOCKET_DIRECTORY_BYTES


def listens(socket_directory: str) -> bool:
    if not is_usable_for_socket(socket_directory):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(f"{socket_directory}/{SOCKET_NAME}") == 0


def wait_until(is_so: Callable[[], bool], *, every_seconds: float = POLL_SECONDS) -> bool:
    """Say whether `is_so` became true within WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_seconds)
    return True
