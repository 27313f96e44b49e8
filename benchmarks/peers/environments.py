"""Create the environments of the peers under `.bench/`, and recreate them when their locks change."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nodejs import installed_node, node_versions
from plan import Variant
from rust import built_rust, rust_versions

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
KEPT = PROJECT / ".bench"
PINS = PROJECT / "requirements" / "test.lock"

# The environments of the systems that conflict with others.
PYTHON_OF = {"absurd": "durable", "arq": "arq", "awa": "durable", "dbos": "durable", "oban": "oban"}
OURS = ("baseline", "millhand", "river", "river_rust")  # systems whose queue Millhand's client reads
VERSIONS = (
    "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
)


@dataclass(frozen=True)
class Found:
    """What this machine can measure: a Python for each place, programs for systems, and the reasons for missing places."""

    pythons: dict[str, str]
    programs: dict[str, str]
    missing: dict[str, str]


def prepared(variants: Iterable[Variant]) -> Found:
    """Create missing environments, and collect the reasons for those that fail."""
    found = Found({}, {}, {})
    builders = {"graphile_worker": installed_node, "pg_boss": installed_node, "river": _built_go}
    builders["river_rust"] = built_rust
    for place, variant in {one.place: one for one in variants}.items():
        system = variant.system
        try:
            if system in builders:
                found.programs[system] = builders[system]()
            found.pythons[place] = _python_of(variant)
        except (OSError, subprocess.CalledProcessError) as error:
            said = (
                error.stderr.decode()[-300:]
                if isinstance(error, subprocess.CalledProcessError)
                else str(error)
            )
            found.missing[place] = " ".join(said.split())
    return found


def _python_of(variant: Variant) -> str:
    if variant.python:
        return _ours_on(variant.python)
    return sys.executable if variant.system in OURS else _environment(PYTHON_OF.get(variant.system, "peers"))


def versions(found: Found) -> dict[str, dict[str, str]]:
    """Return the installed versions for each place."""
    said = {place: _installed(python) for place, python in found.pythons.items()}
    askers = {"graphile_worker": node_versions, "pg_boss": node_versions, "river": _go_versions}
    for system, ask in (askers | {"river_rust": rust_versions}).items():
        if system in found.programs:
            said[system] = ask()
    return said


def _installed(python: str) -> dict[str, str]:
    python_version = _said(python, "-c", "import platform; print(platform.python_version())").strip()
    installed: dict[str, str] = json.loads(_said(python, "-c", VERSIONS))
    return {"Python": python_version, **installed}


def _go_versions() -> dict[str, str]:
    modules = (HERE / "river_go" / "go.mod").read_text()
    found = dict(re.findall(r"^\s+(?:\S+/)?(river|pgx/v5) v(\S+)", modules, re.MULTILINE))
    return {"Go": _said("go", "env", "GOVERSION").strip().removeprefix("go"), **found}


def _said(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def _environment(name: str) -> str:
    lock = HERE / "requirements" / f"{name}.lock"
    python = _python_312() if name == "oban" else sys.executable
    return _created(name, python, lock.read_text(), "-r", lock)


def _ours_on(version: str) -> str:
    """Return a Python of this version that has Millhand, with the versions of our own environment, and uvloop."""
    # psycopg-binary is not built for free-threaded Pythons, and Millhand's rows need only asyncpg.
    others = ("uvloop",) if version.endswith("t") else ("uvloop", "psycopg[binary]")
    wanted = ("-e", PROJECT, *others, "--constraint", PINS)
    python = _found_python(f"python{version}")
    if python is None:
        raise OSError(f"Python {version} must be installed, got none")
    return _created(f"millhand-{version}", python, f"{PROJECT}\n{PINS.read_text()}", *wanted)


def _created(name: str, of: str, wanted: str, *packages: str | Path) -> str:
    """Create an environment, unless there is one with the state `wanted`."""
    directory = KEPT / name
    state, python = directory / "lock", directory / "bin" / "python"
    if not state.exists() or state.read_text() != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        _run(_uv(), "venv", "-q", "--python", of, directory)
        _run(_uv(), "pip", "install", "-q", "--python", python, *packages)
        state.write_text(wanted)
    return str(python)


def _python_312() -> str:
    names = ("python3.12", "python3.13", "python3.14")
    if found := next(filter(None, map(_found_python, names)), None):
        return found
    raise OSError("a Python 3.12 or later must be installed, got none")


def _found_python(name: str) -> str | None:
    """Return a Python of this name that runs; a shim on the PATH may not."""
    for found in (shutil.which(name), *map(str, Path.home().glob(f".pyenv/versions/{name[6:]}*/bin/{name}"))):
        if found and subprocess.run([found, "-V"], capture_output=True, check=False).returncode == 0:
            return found
    return None


def _built_go() -> str:
    program = KEPT / "river_go"
    KEPT.mkdir(exist_ok=True)
    if shutil.which("go") is None:
        raise OSError("Go must be installed, got none")
    _run("go", "build", "-o", program, ".", cwd=HERE / "river_go")
    return str(program)


def _uv() -> str:
    found = shutil.which("uv") or next(map(str, PROJECT.glob(".tools/*/uv")), None)
    if found is None:
        raise OSError("uv must be there, got none; ./just brings it")
    return found


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run(command, capture_output=True, check=True, cwd=cwd, env=environment)
