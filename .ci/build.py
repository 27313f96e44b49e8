"""
Build the wheel and the source distribution twice, compare and check them, and list what they depend on.

    just build              # into dist/, from the last commit
    python .ci/build.py DIRECTORY

The builds read the files of the last commit alone, and each file has that commit's time (SOURCE_DATE_EPOCH), so that
everybody who builds the commit gets the same bytes. `sbom.json` names the versions of requirements/run.lock (CycloneDX 1.6).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

PROJECT = Path(__file__).parents[1]
CONSTRAINTS = PROJECT / "requirements" / "release.lock"


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a directory."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Return the names of the files that are not in both builds, or not the same."""
    return [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)]


def export(directory: Path) -> None:
    """Write the files of the last commit into a new directory."""
    directory.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], check=True, cwd=PROJECT, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x"], check=True, cwd=directory, input=archive.stdout)


def build(source: Path, target: Path) -> None:
    """
    Build the files below `source` into `target`, in two copies at two paths.

    Raises: SystemExit, if the builds differ or if an index would refuse them; subprocess.CalledProcessError.
    """
    with tempfile.TemporaryDirectory() as name:
        built = [_built(source, Path(name) / f"copy_{number}" / "source") for number in (1, 2)]
        if different := differences(*map(digests, built)):
            sys.exit(f"error: two builds of one commit must be equal, got different {', '.join(different)}")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(built[0], target)
    _run("twine", "check", "--strict", *map(str, sorted(target.iterdir())))
    lock = source / "requirements" / "run.lock"
    # Without a serial number and a time, it is the same each time.
    options = ("--output-reproducible", "--spec-version", "1.6", "--output-file", str(target / "sbom.json"))
    _run("cyclonedx-py", "requirements", "--pyproject", str(source / "pyproject.toml"), *options, str(lock))


def main(target: Path) -> None:
    """Build the last commit, and print the digests."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        export(source)
        build(source, target)
    for file, digest in digests(target).items():
        print(f"{digest}  {file}")


def _built(source: Path, copy: Path) -> Path:
    shutil.copytree(source, copy)
    built = copy.parent / "dist"
    seconds = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], capture_output=True, check=True, cwd=PROJECT, text=True
    ).stdout.strip()
    subprocess.run(
        ["uv", "build", "--quiet", "--build-constraints", CONSTRAINTS, "--out-dir", built, copy],
        check=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": seconds},
    )
    (built / ".gitignore").unlink(missing_ok=True)  # by uv
    return built


def _run(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / program, *arguments], capture_output=True, check=False, text=True
    )
    if done.returncode:
        sys.exit(f"error: {program} must accept the build, got:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
