"""The values of River's conformance suite; tests/fixtures/river_conformance/README.md names their source."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "fixtures" / "river_conformance"
# The args of one case as they are written: their order, escapes, numbers and repeated keys count.
ARGS = re.compile(r'\{"args": (.*), "expected_sha256": .*"name": "(\w+)"')


def upstream(name: str) -> Any:
    """Return a file of values."""
    return json.loads((DIRECTORY / f"{name}.json").read_text())


def upstream_args() -> dict[str, str]:
    """Return the text of the args of each case of a unique key, by the case's name."""
    text = (DIRECTORY / "unique_keys.json").read_text()
    return {name: args for args, name in ARGS.findall(text)}
