"""River's Rust port: the program in `river_rust/`, built once and kept in `.tools/` until its sources change."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from river_program import RiverProgram, started

SOURCES = Path(__file__).parent / "river_rust"
TOOLS = Path(__file__).parents[2] / ".tools"
RUST_VERSION = (1, 95)  # what the crate asks for


def built_rust() -> Path:
    """
    Return the path of the program, built anew if its sources or pins changed.

    Skips the test where it cannot be built for want of cargo or of its crates, and fails it where MILLHAND_TEST_REQUIRE
    says that there must be one.
    """
    files = [*sorted(SOURCES.glob("src/*.rs")), SOURCES / "Cargo.toml", SOURCES / "Cargo.pins"]
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
    program = TOOLS / f"river-rust-{digest}"
    TOOLS.mkdir(exist_ok=True)
    with _locked(TOOLS / "river-rust.lock"):
        if not program.exists():
            _build(program)
    return program


@contextlib.asynccontextmanager
async def started_rust(program: Path, url: str) -> AsyncIterator[RiverProgram]:
    """Start the program on a database, and stop it at the end if it still runs."""
    async with started((str(program),), postgres_environment(url)) as process:
        yield process


def postgres_environment(url: str) -> dict[str, str]:
    """Return where a URL leads, as libpq's variables; SQLx does not read a URL whose host is a directory."""
    parts = urlsplit(url)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    said = {
        "PGDATABASE": parts.path.removeprefix("/"),
        "PGHOST": query.get("host") or parts.hostname,
        "PGPASSWORD": parts.password,
        "PGPORT": query.get("port") or parts.port,
        "PGUSER": parts.username,
    }
    return {name: unquote(str(value)) for name, value in said.items() if value}


def lock_of(pins: str, source: str) -> str:
    """Return what cargo keeps as its lock: pins name versions and checksums, a lock also where they come from."""
    return re.sub(r"(?m)^(?=checksum = )", f"{source}\n", pins)


def _build(program: Path) -> None:
    """Build in a temporary directory."""
    require_cargo()
    for old in TOOLS.glob("river-rust-*"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="millhand-rust-") as name:
        place = Path(name)
        shutil.copytree(SOURCES, place, dirs_exist_ok=True)
        # cargo itself knows where crates come from on this machine; it writes that into each lock that it makes.
        made = _cargo(place, "generate-lockfile", "--quiet")
        if made.returncode:
            _not_built(f"`cargo generate-lockfile` failed: {made.stderr.strip()}")
        lock = place / "Cargo.lock"
        [source] = set(re.findall(r"(?m)^source = .*$", lock.read_text()))
        lock.write_text(lock_of((SOURCES / "Cargo.pins").read_text(), source))
        fetched = _cargo(place, "fetch", "--quiet", "--locked")
        if fetched.returncode:
            _not_built(f"`cargo fetch` failed: {fetched.stderr.strip()}")
        done = _cargo(place, "build", "--quiet", "--locked", "--offline")
        if done.returncode:
            pytest.fail(f"River's Rust program must build, got:\n{done.stderr}")
        new = program.with_suffix(".new")
        shutil.copy(place / "target" / "debug" / "river-rust-interop", new)
        new.rename(program)


def require_cargo() -> None:
    """Return if there is a cargo of the version that the crate wants; else skip the test, or fail it."""
    if shutil.which("cargo") is None:
        _not_built("there is no `cargo` on the PATH")
    if shutil.which("cc") is None:
        _not_built("there is no `cc` on the PATH to link with")
    said = subprocess.run(["cargo", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"cargo (\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < RUST_VERSION:
        _not_built(f"the crate needs Rust {'.'.join(map(str, RUST_VERSION))}, got {said.strip()!r}")


def _not_built(fault: str) -> None:
    if "cargo" in os.environ.get("MILLHAND_TEST_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"MILLHAND_TEST_REQUIRE says that River's Rust port must be built, but {fault}")
    pytest.skip(f"River's Rust port is built by cargo, and {fault}")


def _cargo(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["nice", "cargo", *arguments],
        cwd=place,
        env={**os.environ, "CARGO_TARGET_DIR": str(place / "target")},
        capture_output=True,
        text=True,
        check=False,
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one test process build while the others wait."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
