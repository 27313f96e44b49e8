"""The examples pass a strict type checker, as the code that is copied from them has to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from application import EXAMPLES

from mypy_runner import mypy
from user_programs import PROJECT

# Django has no types of its own, and the demo is a package of this project.
UNTYPED = {"django_shop", "demo", "testing_django.py"}
FOLDERS = [path for path in EXAMPLES.iterdir() if path.is_dir() and path.name not in UNTYPED]


@pytest.mark.slow
def test_mypy_accepts_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example passes `mypy --strict`, an application with its modules as its own process finds them."""
    monkeypatch.setenv("MYPYPATH", os.pathsep.join(map(str, FOLDERS)))
    programs = [path for path in EXAMPLES.glob("*.py") if path.name not in UNTYPED]
    modules = [module for folder in FOLDERS for module in folder.rglob("*.py")]

    report, errors, status = mypy(
        "--strict",
        f"--config-file={PROJECT / 'pyproject.toml'}",
        f"--cache-dir={tmp_path}",
        "--no-error-summary",
        *map(str, programs + modules),
    )

    assert (report, errors, status) == ("", "", 0)
