"""Install the systems of Node under `.bench/node` with npm, from pinned versions; install them again when these change."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "node"
KEPT = Path(__file__).resolve().parents[2] / ".bench" / "node"
OLDEST = (22, 18)  # what graphile-worker and pg-boss require
PACKAGES = ("graphile-worker", "pg-boss")
ARCHITECTURES = {"aarch64": "arm64", "x86_64": "x64"}


def installed_node() -> str:
    """Return the path of the Node that has the packages."""
    if shutil.which("npm") is None:
        raise OSError("npm must be installed, got none")
    state, wanted = KEPT / "state", _sources()
    if not state.exists() or state.read_text() != wanted:
        shutil.rmtree(KEPT, ignore_errors=True)
        KEPT.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCES / name, KEPT)
        words = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error")
        subprocess.run(words, capture_output=True, check=True, cwd=KEPT)
        state.write_text(wanted)
    # A module finds its packages beside itself, so the programs are copied to them.
    for program in SOURCES.glob("*.mjs"):
        shutil.copy(program, KEPT)
    return _node()


def node_versions() -> dict[str, str]:
    """Return the versions of Node and of the packages that matter."""
    found = {"Node": _version(_node())}
    for name in PACKAGES:
        package = json.loads((KEPT / "node_modules" / name / "package.json").read_text())
        found[name] = package["version"]
    return found


def _sources() -> str:
    return (SOURCES / "package.json").read_text() + (SOURCES / "package-lock.json").read_text()


def _node() -> str:
    """Return the Node of the lock, or the machine's own where the registry has none for it."""
    architecture = ARCHITECTURES.get(platform.machine(), "none")
    pinned = KEPT / "node_modules" / f"node-linux-{architecture}" / "bin" / "node"
    found = str(pinned) if pinned.exists() else shutil.which("node")
    if found is None or tuple(map(int, re.findall(r"\d+", _version(found))[:2])) < OLDEST:
        raise OSError(f"Node {'.'.join(map(str, OLDEST))} or later must be installed, got {found}")
    return found


def _version(node: str) -> str:
    said = subprocess.run([node, "--version"], capture_output=True, check=True, text=True)
    return said.stdout.strip().removeprefix("v")
