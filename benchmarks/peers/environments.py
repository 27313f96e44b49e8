"""Create the environments of the peers under `.bench/`, and recreate them when their locks change."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rust import built_rust, rust_versions

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
KEPT = PROJECT / ".bench"

PYTHON_OF = {"arq": "arq", "oban": "oban"}  # systems with an environment of their own
OURS = ("baseline", "millhand", "river", "river_rust")  # systems whose queue Millhand's client reads
VERSIONS = (
    "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
)


@dataclass(frozen=True)
class Found:
    """The systems that this machine can measure: a Python for each, other programs, and the reasons for missing ones."""

    pythons: dict[str, str]
    programs: dict[str, str]
    missing: dict[str, str]


def prepared(systems: list[str]) -> Found:
    """Create missing environments, and collect the reasons for those that fail."""
    found = Found({}, {}, {})
    builders = {"river": _built_go, "river_rust": built_rust}
    for system in dict.fromkeys(systems):
        try:
            if system in builders:
                found.programs[system] = builders[system]()
            ours = system in OURS
            found.pythons[system] = sys.executable if ours else _environment(PYTHON_OF.get(system, "peers"))
        except (OSError, subprocess.CalledProcessError) as error:
            said = (
                error.stderr.decode()[-300:]
                if isinstance(error, subprocess.CalledProcessError)
                else str(error)
            )
            found.missing[system] = " ".join(said.split())
    return found


def versions(found: Found) -> dict[str, dict[str, str]]:
    """Return the installed versions for each system."""
    said = {system: _installed(python) for system, python in found.pythons.items()}
    for system, ask in (("river", _go_versions), ("river_rust", rust_versions)):
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
    directory = KEPT / name
    state = directory / "lock"
    python = directory / "bin" / "python"
    if not state.exists() or state.read_text() != lock.read_text():
        shutil.rmtree(directory, ignore_errors=True)
        version = _python_312() if name == "oban" else sys.executable
        _run(_uv(), "venv", "-q", "--python", version, directory)
        _run(_uv(), "pip", "install", "-q", "--python", python, "-r", lock)
        state.write_text(lock.read_text())
    return str(python)


def _python_312() -> str:
    for name in ("python3.12", "python3.13", "python3.14"):
        for found in (
            shutil.which(name),
            *map(str, Path.home().glob(f".pyenv/versions/{name[6:]}*/bin/{name}")),
        ):
            if found and subprocess.run([found, "-V"], capture_output=True, check=False).returncode == 0:
                return found
    raise OSError("a Python 3.12 or later must be installed, got none")


def _built_go() -> str:
    program = KEPT / "river_go"
    KEPT.mkdir(exist_ok=True)
    if shutil.which("go") is None:
        raise OSError("Go must be installed, got none")
    _run("go", "build", "-o", program, ".", cwd=HERE / "river_go")
    return str(program)


def _uv() -> str:
    found = shutil.which("uv") or str(PROJECT / ".tools" / "bin" / "uv")
    if not Path(found).exists():
        raise OSError("uv must be there, got none; ./just brings it")
    return found


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run(command, capture_output=True, check=True, cwd=cwd, env=environment)
