"""Fixtures that these tests share with others, and the counts of flows that the chaos runner checks."""

from __future__ import annotations

import sys
from pathlib import Path

from client_harness import harness  # noqa: F401 - a fixture

sys.path.append(str(Path(__file__).parents[1] / "chaos"))
