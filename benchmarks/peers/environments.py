"""What peers need, each in an environment of its own under `.bench/`; made once, and again when its lock changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
KEPT = PROJECT / ".bench"

PYTHON_OF = {"arq": "arq", "oban": "oban"}  # whose environment is not the common one
OURS = ("floor", "millhand", "river")  # which are told by Millhand's own client what is asked


@dataclass(frozen=True)
class Found:
    """What can be measured on this machine: a Python by system, the Go program, and why the others cannot."""

    pythons: dict[str, str]
    river_go: str | None
    missing: dict[str, str]


def prepared(systems: list[str]) -> Found:
    """Make what is missing, and say what cannot be made and why."""
    pythons: dict[str, str] = {}
    missing: dict[str, str] = {}
    river_go = None
    for system in dict.fromkeys(systems):
        try:
            if system == "river":
                river_go = _built_go()
            if system in OURS:
                pythons[system] = sys.executable
            else:
                pythons[system] = _environment(PYTHON_OF.get(system, "peers"))
        except (OSError, subprocess.CalledProcessError) as error:
            said = (
                error.stderr.decode()[-300:]
                if isinstance(error, subprocess.CalledProcessError)
                else str(error)
            )
            missing[system] = " ".join(said.split())
    return Found(pythons, river_go, missing)


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
