"""Build River's Rust port, `river_rust/`, with cargo from pinned versions; rebuild it when its sources change."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "river_rust"
KEPT = Path(__file__).resolve().parents[2] / ".bench"
PROGRAM = KEPT / "river_rust"


def built_rust() -> str:
    """Return the path of the program, built for release."""
    if shutil.which("cargo") is None:
        raise OSError("cargo must be installed, got none")
    state = KEPT / "river_rust.state"
    digest = _digest()
    if not PROGRAM.exists() or not state.exists() or state.read_text() != digest:
        with tempfile.TemporaryDirectory(prefix="bench-rust-") as name:
            _build(Path(name))
        state.write_text(digest)
    return str(PROGRAM)


def rust_versions() -> dict[str, str]:
    """Return the versions of the compiler and of the crates that matter."""
    said = subprocess.run(["rustc", "--version"], capture_output=True, check=True, text=True).stdout
    crates = (SOURCES / "Cargo.toml").read_text()
    found = dict(re.findall(r'^(riverqueue|sqlx) = (?:\{ version = )?"=([^"]+)"', crates, re.MULTILINE))
    return {"Rust": said.split()[1], **found}


def _digest() -> str:
    files = [*sorted(SOURCES.glob("src/*.rs")), SOURCES / "Cargo.toml", SOURCES / "Cargo.pins"]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _build(place: Path) -> None:
    shutil.copytree(SOURCES, place, dirs_exist_ok=True)
    # cargo writes the index of this machine into each lock that it creates.
    _cargo(place, "generate-lockfile", "--quiet")
    lock = place / "Cargo.lock"
    [source] = set(re.findall(r"(?m)^source = .*$", lock.read_text()))
    pins = (SOURCES / "Cargo.pins").read_text()
    lock.write_text(re.sub(r"(?m)^(?=checksum = )", f"{source}\n", pins))
    _cargo(place, "build", "--quiet", "--release", "--locked", "--target-dir", str(place / "target"))
    KEPT.mkdir(exist_ok=True)
    new = PROGRAM.with_suffix(".new")
    shutil.copy(place / "target" / "release" / "river-rust-bench", new)
    new.rename(PROGRAM)


def _cargo(place: Path, *arguments: str) -> None:
    subprocess.run(["cargo", *arguments], capture_output=True, check=True, cwd=place)
