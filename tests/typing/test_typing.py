from __future__ import annotations

from pathlib import Path

import pytest

CASES = Path(__file__).with_name("cases.py")
ROOT = Path(__file__).parents[2]


def test_type_checkers_see_args_and_jobs() -> None:
    """What is right in the cases is accepted by mypy, and what they call an error is found to be one."""
    api = pytest.importorskip("mypy.api", reason="mypy is a tool of development")

    report, errors, status = api.run(
        ["--strict", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary", str(CASES)]
    )

    assert (report, errors, status) == ("", "", 0)
