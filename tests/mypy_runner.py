"""Mypy in this process, which is left as it was."""

from __future__ import annotations

import gc
import sys

import pytest


def mypy(*arguments: str) -> tuple[str, str, int]:
    """Return mypy's report, its errors and its exit code. Mypy raises the recursion limit and the collector's thresholds."""
    api = pytest.importorskip("mypy.api", reason="mypy is a tool of development")
    limit, thresholds = sys.getrecursionlimit(), gc.get_threshold()
    try:
        return api.run(list(arguments))  # type: ignore[no-any-return]
    finally:
        sys.setrecursionlimit(limit)
        gc.set_threshold(*thresholds)
