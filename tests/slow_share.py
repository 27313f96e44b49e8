"""
Which of the slow tests run today: those of changed capabilities, and a third of all others.

CI has no time for all of them. Files take turns by day, so each of them runs within three days. A file runs today as well
if it changed within eight hours before the newest commit, or if the package that its directory is named after did: a push
has the work of a day at most. `./just test-all` runs all.
"""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, date, datetime
from pathlib import Path
from zlib import crc32

import pytest

NUM_DAYS = 3
RECENT_SECONDS = 8 * 3600
REPOSITORY = Path(__file__).parent.parent
SOURCE = "src/millhand/"
# Lines that a move of modules changes everywhere: imports, and names alone on a line of theirs. A test that is marked as
# slow was run by the default suite before.
MOVED = re.compile(r"[+-]\s*((from|import) .*|\w+,|\)|#.*|@pytest\.mark\.slow)?$")


def changed_paths(patch: str) -> set[str]:
    """Return the paths of which a patch, as `git log --patch` prints it, changes more than imports."""
    files = re.split(r"^diff --git a/.* b/(.*)$", patch, flags=re.MULTILINE)[1:]
    return {path for path, hunks in zip(files[::2], files[1::2], strict=True) if _has_changes(hunks)}


def _has_changes(hunks: str) -> bool:
    lines = hunks.partition("\n@@")[2].splitlines()[1:]
    return any(line[:1] in ("+", "-") and not MOVED.match(line) for line in lines)


def recent_patch() -> str:
    """Return what the newest commit and those of the hours before it changed."""
    newest = _git("log", "-1", "--format=%ct").strip()
    return _git(
        "log",
        f"--since={int(newest) - RECENT_SECONDS}",
        "--patch",
        "--unified=0",
        "--find-renames",
        "--format=",
    )


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return run.stdout


def runs_today(path: str, day: date, changed: set[str]) -> bool:
    """Whether the slow tests of a file run on a day. `path` is relative to the repository."""
    if crc32(path.encode()) % NUM_DAYS == day.toordinal() % NUM_DAYS or path in changed:
        return True
    package = SOURCE + "/".join(path.split("/")[1:-1])
    return any(one.startswith((f"{package}/", f"{package}.")) for one in changed)


def keep_tests_of_today(items: list[pytest.Item]) -> None:
    """Remove the slow tests that do not run today. Those with the real River and the others run each day."""
    changed, day = changed_paths(recent_patch()), datetime.now(UTC).date()
    today = {path: runs_today(path, day, changed) for path in {_path(item) for item in items}}
    items[:] = [item for item in items if today[_path(item)] or not item.get_closest_marker("slow")]


def _path(item: pytest.Item) -> str:
    return item.path.relative_to(REPOSITORY).as_posix()
