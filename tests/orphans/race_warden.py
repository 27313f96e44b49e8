"""
Clean up after a race that was killed: end its PostgreSQL and its servers, and delete its directory.

A killed race cannot do that itself, so a process in a session of its own waits at a pipe until the race has ended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from millhand.embedded import embedded_postgres
from millhand.embedded.process import is_gone, wait_until


@contextlib.contextmanager
def cleared_away() -> Iterator[Path]:
    """Yield a directory for everything, temporary files too. It is deleted when this process ends, however it ends."""
    directory = Path(tempfile.mkdtemp(prefix="millhand-race-"))
    directory.chmod(0o755)
    theirs, _ours = os.pipe()  # ours stays open while this process lives, and no child has it
    os.posix_spawn(
        sys.executable,
        [sys.executable, __file__, str(directory)],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs, sys.stdin.fileno())],
        setsid=True,
    )
    os.close(theirs)
    before, tempfile.tempdir = tempfile.tempdir, str(directory)
    try:
        yield directory
    finally:
        tempfile.tempdir = before


def clear_away(directory: Path) -> None:
    """End all processes in a directory, and delete it."""
    postgres = directory / "postgres"
    if (postgres / "data" / "postmaster.pid").exists():
        with embedded_postgres(postgres):  # the last user stops it
            pass
    for pid in running_in(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda one=pid: is_gone(one))  # type: ignore[misc]
    shutil.rmtree(directory, ignore_errors=True)


def running_in(directory: Path) -> list[int]:
    """Return the processes whose working directory is below a directory, if /proc shows it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(directory):
                found.append(int(process.name))
    return found


if __name__ == "__main__":
    sys.stdin.buffer.read()  # returns when the race ends
    clear_away(Path(sys.argv[1]))
