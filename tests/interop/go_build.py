"""Go programs, built once from their modules and kept in `.tools/` until their sources change."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / ".tools"
# What is built here is what is written here: no other toolchain, no file of a repository's state in it.
BUILD_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def built(name: str, sources: Path, package: str = ".") -> Path:
    """
    Return the path of the program `package` of the module in `sources`, built anew if its sources or modules changed.

    Skips the test where it cannot be built for want of Go or of its modules, and fails it where MILLHAND_TEST_REQUIRE says
    that there must be one.
    """
    files = [*sorted(sources.glob("*.go")), sources / "go.mod", sources / "go.sum"]
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
    program = TOOLS / f"{name}-{digest}"
    with _locked(TOOLS / f"{name}.lock"):
        if not program.exists():
            _require_go(sources)
            _build(name, sources, package, program)
    return program


def _require_go(sources: Path) -> None:
    """Return if Go has the version that the modules need, and can get them."""
    if shutil.which("go") is None:
        fault = "there is no `go` on the PATH"
    else:
        asked = _go(sources, "mod", "download")
        if asked.returncode == 0:
            return
        fault = f"`go mod download` failed: {asked.stderr.strip()}"
    if "go" in os.environ.get("MILLHAND_TEST_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"MILLHAND_TEST_REQUIRE says that Go programs must be built, but {fault}")
    pytest.skip(f"the test needs a Go program, and {fault}")


def _build(name: str, sources: Path, package: str, program: Path) -> None:
    for old in TOOLS.glob(f"{name}-*"):
        old.unlink()
    new = program.with_suffix(".new")
    done = _go(sources, "build", "-trimpath", "-buildvcs=false", "-o", str(new), package)
    if done.returncode:
        pytest.fail(f"{name} must build, got:\n{done.stderr}")
    new.rename(program)


def _go(sources: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["nice", "go", *arguments],
        cwd=sources,
        env={**os.environ, **BUILD_ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one test process build while the others wait."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
