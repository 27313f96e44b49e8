"""The source of the last release, from the commits of this repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def last_release() -> str | None:
    """Return the commit of the last release whose code differs from this checkout; None if the clone does not have it."""
    return next(filter(_is_other, _commits()), None)


def unpack(commit: str, directory: Path) -> None:
    """Write the files of a commit into a new directory."""
    directory.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], check=True, cwd=PROJECT, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x"], check=True, cwd=directory, input=archive.stdout)


def _commits() -> list[str]:
    """Return the commit of each release, newest first: the one that dated it in the changelog."""
    versions = re.findall(r"^## \[(\d[^]]*)\] - ", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    found = [
        _git("log", f"-S## [{version}] - ", "--format=%H", "--", "CHANGELOG.md").split()
        for version in versions
    ]
    return [commits[-1] for commits in found if commits]


def _is_other(commit: str) -> bool:
    """Return whether the code of a commit differs from that of this checkout in more than its version."""
    return bool(_git("diff", "--name-only", commit, "HEAD", "--", "src", ":!src/millhand/version.py"))


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, check=True, cwd=PROJECT, text=True).stdout
