"""The server of a project: where its data is, and how commits of the project leave that out."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from millhand.embedded.cluster import EmbeddedServer, embedded_postgres
from millhand.embedded.programs import is_open_to_all


@contextlib.contextmanager
def project_postgres(project: Path) -> Iterator[EmbeddedServer]:
    """Start or join the server of a project, as `embedded_postgres` does, and keep its data out of Git."""
    with embedded_postgres(default_directory(project)) as server:
        directory = project / ".millhand"
        if directory.is_dir() and not (directory / ".gitignore").exists():
            with contextlib.suppress(OSError):
                (directory / ".gitignore").write_text("*\n")
        yield server


def default_directory(project: Path) -> Path:
    """Return `.millhand/postgres` in `project`; a directory outside for root if other users cannot enter `project`."""
    inside = project.resolve() / ".millhand" / "postgres"
    if os.geteuid() or is_open_to_all(project.resolve()):
        return inside
    return Path("/var/lib/millhand", hashlib.sha256(os.fsencode(inside)).hexdigest()[:12])
