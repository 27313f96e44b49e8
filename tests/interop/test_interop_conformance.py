"""The migrations of River's conformance suite, and those of the River that the other tests of this folder run."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

from river_program import SOURCES

MIGRATIONS = Path(__file__).parents[1] / "fixtures" / "river_conformance" / "migrations.json"
MODULE = "github.com/riverqueue/river/riverdriver/riverpgxv5"
# The suite is of another commit than River v0.51.2. In these versions the files differ.
DIFFERENT_VERSIONS = {"007", "008"}


def test_river_s_migrations_have_the_hashes_of_the_suite(river_path: Path) -> None:
    """River v0.51.2, which wrote the recorded catalogs, has the suite's files, except for those of two versions."""
    listed = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", MODULE],
        cwd=SOURCES,
        check=True,
        capture_output=True,
        text=True,
    )
    root = Path(listed.stdout.strip()) / "migration" / "main"
    expected = {
        Path(file["path"]).name: file["sha256"] for file in json.loads(MIGRATIONS.read_text())["files"]
    }

    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.glob("*.sql")}

    assert hashes.keys() == expected.keys()
    different = {name[:3] for name, digest in hashes.items() if digest != expected[name]}
    assert different == DIFFERENT_VERSIONS
