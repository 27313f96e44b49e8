"""Embedded servers. Each test starts a real server; its cluster is copied, because initdb is slow."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from clusters import (
    CONNECT_AS_NOBODY,
    OWNER,
    QUICK,
    answer_of,
    ask,
    dismissed,
    holder,
    kill_server,
    let_go_when_met,
    listing,
    mounted,
    names,
    needs_root,
    open_directory,
    provide,
    server_pid,
)

from millhand.embedded import (
    EmbeddedError,
    EmbeddedServer,
    default_directory,
    embedded_postgres,
    project_postgres,
)


@pytest.mark.slow
async def test_embedded_postgres_starts_a_server(empty: Path) -> None:
    """An empty directory becomes a PostgreSQL that answers."""
    with embedded_postgres(empty) as server:
        answer = await ask(server.url, "SELECT current_user || ' ' || current_database()")
        version = await ask(server.url, "SHOW server_version")
    found = names(empty, "data*")

    assert answer == "millhand millhand"
    assert server == EmbeddedServer(
        data=empty / "data", is_joined=False, url=server.url, version=str(version)
    )
    assert found == ["data"]


@pytest.mark.slow
async def test_embedded_postgres_stops_the_server_when_the_last_user_leaves(directory: Path) -> None:
    """The second user joins the server, which runs until the last one leaves."""
    with embedded_postgres(directory) as first:
        with embedded_postgres(directory) as second:
            assert (first.is_joined, second.is_joined, first.url) == (False, True, second.url)
        assert await ask(first.url, "SELECT 1") == 1

    assert server_pid(directory) is None
    assert not (directory / "socket" / ".s.PGSQL.5432").exists()


@pytest.mark.slow
async def test_embedded_postgres_keeps_what_was_written_when_started_again(directory: Path) -> None:
    """Data survives a restart of the server."""
    with embedded_postgres(directory) as server:
        await ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")

    with embedded_postgres(directory) as server:
        assert await ask(server.url, "SELECT answer FROM kept") == 42


@pytest.mark.slow
async def test_embedded_postgres_applies_settings_when_it_starts_the_server(directory: Path) -> None:
    """The settings of the process that starts the server hold, and no setting opens a network port."""
    with embedded_postgres(directory, {"max_connections": "17", "listen_addresses": "*"}) as server:
        assert await ask(server.url, "SHOW max_connections") == "17"
        assert await ask(server.url, "SHOW listen_addresses") == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ['it\'s a "100%" $HOME `x`, really', "latin-1-\udce9t\udce9"])
async def test_embedded_postgres_copes_with_any_path(made_data: Path, name: str) -> None:
    """Spaces, quotes, dollar and percent signs, and bytes that are no UTF-8, work in shell and URL."""
    with open_directory() as parent:
        unusual = parent / name
        provide(unusual, made_data)

        with embedded_postgres(unusual) as server:
            assert await ask(server.url, "SELECT 1") == 1


@pytest.mark.slow
async def test_embedded_postgres_puts_the_socket_elsewhere_when_the_path_is_too_long(made_data: Path) -> None:
    """A path that is too long for a socket works, even after a move, and the other place is cleared."""
    with open_directory() as parent:
        near, deep = parent / "near", parent.joinpath(*["a-long-name-of-a-directory"] * 6)
        provide(near, made_data)
        with embedded_postgres(near):
            pass
        deep.parent.mkdir(parents=True)
        near.rename(deep)

        with embedded_postgres(deep) as server, embedded_postgres(deep) as joined:
            elsewhere = (deep / "socket").resolve()
            assert (joined.is_joined, await ask(server.url, "SELECT 1")) == (True, 1)

        assert not elsewhere.is_relative_to(deep)
        assert not elsewhere.exists()


@pytest.mark.slow
def test_embedded_postgres_starts_one_server_for_two_at_once(empty: Path) -> None:
    """Of two first starts in one directory, one makes the database, and both use it."""
    with holder(empty) as one, holder(empty) as other:
        greetings = [answer_of(one), answer_of(other)]
        farewells = [dismissed(one), dismissed(other)]

    assert sorted(bool(greeting["is_joined"]) for greeting in greetings) == [False, True]
    assert greetings[0]["url"] == greetings[1]["url"]
    assert farewells == [{"answer": 42}, {"answer": 42}]
    assert server_pid(empty) is None


@pytest.mark.slow
def test_embedded_postgres_joins_the_server_of_a_killed_process(directory: Path) -> None:
    """After `kill -9` of its only user, the server runs on, and the next start joins it and stops it at the end."""
    with holder(directory) as killed:
        answer_of(killed)
        before = server_pid(directory)
        killed.kill()
        killed.wait()

    with embedded_postgres(directory) as server:
        assert (server.is_joined, server_pid(directory)) == (True, before)
    assert server_pid(directory) is None


@pytest.mark.slow
async def test_embedded_postgres_recovers_when_the_server_was_killed(directory: Path) -> None:
    """`kill -9` of the server loses no committed data, and its pid file does not prevent a start."""
    with embedded_postgres(directory) as server:
        await ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        kill_server(directory)

        with embedded_postgres(directory) as revived:
            assert not revived.is_joined
            assert await ask(revived.url, "SELECT answer FROM kept") == 42


@pytest.mark.slow
async def test_embedded_postgres_waits_for_what_a_killed_server_left_running(directory: Path) -> None:
    """A backend may outlive its killed server for a while, and the next start waits for its end."""
    with embedded_postgres(directory) as server:
        connection = await asyncpg.connect(server.url)
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        os.kill(pid, signal.SIGSTOP)  # like a busy one, it does not notice that its server has ended
        kill_server(directory)
        met = asyncio.get_running_loop().run_in_executor(None, let_go_when_met, directory, pid)

        with embedded_postgres(directory) as revived:
            assert await ask(revived.url, "SELECT 1") == 1

        assert await met
        connection.terminate()


@pytest.mark.parametrize(
    "left", ["", "{ours}", "{ours}\n", "{ours}\n/elsewhere\n0\n5432\n/nowhere\n\n1 2\nready   \n"]
)
@pytest.mark.slow
def test_embedded_postgres_starts_over_a_stale_pid_file(directory: Path, left: str) -> None:
    """A pid file that is cut short, or names another program, does not prevent a start."""
    (directory / "data" / "postmaster.pid").write_text(left.format(ours=os.getpid()))

    with embedded_postgres(directory) as server:
        assert not server.is_joined
    assert server_pid(directory) is None


@pytest.mark.slow
def test_embedded_postgres_makes_a_whole_cluster_after_one_was_cut_short(empty: Path) -> None:
    """The files of a killed initdb are deleted and never used as a database."""
    empty.mkdir()
    (empty / "data.new-1").mkdir()
    (empty / "data.new-1" / "PG_VERSION").write_text("18\n")

    with embedded_postgres(empty, QUICK):
        assert names(empty, "data*") == ["data"]


@pytest.mark.slow
def test_embedded_postgres_outlives_ctrl_c_until_its_user_is_done(directory: Path) -> None:
    """A terminal sends Ctrl-C to every foreground process, and the server is none."""
    with holder(directory) as user:
        answer_of(user)
        os.killpg(user.pid, signal.SIGINT)

        assert answer_of(user) == {"answer": 42}
        user.wait()
    assert server_pid(directory) is None


@pytest.mark.slow
def test_embedded_postgres_rejects_data_of_another_major_version(directory: Path) -> None:
    """The error names the version that made it and a remedy, and every file stays as it was."""
    (directory / "data" / "PG_VERSION").write_text("14\n")
    before = listing(directory / "data")

    with pytest.raises(EmbeddedError) as raised, embedded_postgres(directory):
        pass

    ours = importlib.metadata.version("embedded-postgres").partition(".")[0]
    assert str(raised.value) == (
        f"{str(directory / 'data')!r} must have been made by PostgreSQL {ours}, got one made by '14'; "
        "set MILLHAND_POSTGRES_BIN to the programs of PostgreSQL 14, or move it away to begin afresh"
    )
    assert listing(directory / "data") == before


@pytest.mark.slow
def test_embedded_postgres_rejects_a_directory_that_is_no_cluster(directory: Path) -> None:
    """Other files are not used as a database, nor replaced by one."""
    (directory / "data" / "PG_VERSION").unlink()

    with pytest.raises(EmbeddedError) as raised, embedded_postgres(directory):
        pass

    assert str(raised.value) == (
        f"{str(directory / 'data')!r} must be a PostgreSQL data directory, got one without PG_VERSION; "
        "move it away to begin afresh"
    )


@pytest.mark.slow
def test_embedded_postgres_shows_why_the_server_does_not_start(directory: Path) -> None:
    """The error has the server's own reason, and the path of its log."""
    with pytest.raises(EmbeddedError) as raised, embedded_postgres(directory, {"max_connections": "many"}):
        pass

    assert 'invalid value for parameter "max_connections": "many"' in str(raised.value)
    assert str(raised.value).endswith(f"see {str(directory / 'server.log')!r}")


@pytest.mark.slow
def test_embedded_postgres_leaves_another_server_on_its_socket_alone(directory: Path) -> None:
    """If another server listens at the socket, nothing is started and nothing is deleted."""
    taken = directory / "socket" / ".s.PGSQL.5432"
    taken.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(taken))
        other.listen()

        with pytest.raises(EmbeddedError) as raised, embedded_postgres(directory):
            pass

    assert str(raised.value) == (
        f"socket {str(taken)!r} must be free, got a server that answers there and is not of "
        f"{str(directory / 'data')!r}; stop that one first"
    )
    assert taken.exists()


def test_embedded_postgres_rejects_a_file_as_directory(empty: Path) -> None:
    """The error names the path, with the system's message."""
    empty.write_text("a file")

    with (
        pytest.raises(EmbeddedError, match=r"must be fit for a database, got .*File exists"),
        embedded_postgres(empty),
    ):
        pass


def test_embedded_postgres_rejects_a_path_that_is_too_long(empty: Path) -> None:
    """A path that PostgreSQL would cut is rejected before anything is written."""
    directory = empty.resolve().joinpath(*["x" * 100] * 9)

    with pytest.raises(EmbeddedError) as refused, embedded_postgres(directory):
        pass

    assert str(refused.value) == (
        f"path of directory {str(directory)!r} must be at most 896 bytes long, got {len(str(directory))}; "
        "choose a shorter one, or set DATABASE_URL to another database"
    )
    assert not empty.exists()


@needs_root
@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount")
def test_embedded_postgres_rejects_a_disk_that_is_too_small(empty: Path) -> None:
    """A new database is not begun without enough free space, and nothing unfinished stays."""
    with mounted(empty, megabytes=20):
        with pytest.raises(EmbeddedError) as raised, embedded_postgres(empty):
            pass

        assert str(raised.value) == (
            f"the disk of {str(empty)!r} must have 96 MB free for a new database, got 20 MB; "
            "free some space, or set DATABASE_URL to another database"
        )
        assert names(empty, "data*") == []


@pytest.mark.slow
@needs_root
@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount")
async def test_embedded_postgres_keeps_its_data_through_a_full_disk(empty: Path, made_data: Path) -> None:
    """A start on a full disk fails with the reason; with free space, all data is there."""
    with mounted(empty, megabytes=120):
        provide(empty, made_data)
        with embedded_postgres(empty) as server:
            await ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        filler = empty / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass

        with pytest.raises(EmbeddedError) as raised, embedded_postgres(empty):
            pass
        filler.unlink()
        with embedded_postgres(empty) as server:
            assert await ask(server.url, "SELECT answer FROM kept") == 42

    assert str(raised.value) == (
        f"the disk of {str(empty)!r} must have free space for the database, got 'No space left on device'; "
        "free some space and start again, nothing was deleted"
    )


@pytest.mark.slow
@needs_root
def test_embedded_postgres_works_for_an_ordinary_user(empty: Path) -> None:
    """A user who is not root runs the server, and other users cannot read its directory."""
    home = empty.parent / "home"
    home.mkdir()
    shutil.chown(home, "nobody")

    with holder(home / "postgres", "nobody") as user:
        greeting = answer_of(user)
        farewell = dismissed(user)

    assert (greeting["is_joined"], greeting["uid"]) == (False, pwd.getpwnam("nobody").pw_uid)
    assert farewell == {"answer": 42}
    assert (home / "postgres").stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
@needs_root
def test_embedded_postgres_rejects_a_directory_that_is_not_writable(empty: Path) -> None:
    """The error names the directory."""
    with holder(empty / "inside", "nobody") as user:
        answer = answer_of(user)

    assert answer == {
        "error": f"directory {str(empty / 'inside')!r} must be writable for user 'nobody', got 'Permission denied' at "
        f"{str(empty)!r}; run as its owner, or set DATABASE_URL to another database"
    }


@pytest.mark.slow
@needs_root
def test_embedded_postgres_rejects_a_directory_of_another_user(directory: Path) -> None:
    """Neither root nor another user takes over a directory, because its owners would get mixed."""
    shutil.chown(directory, "nobody")

    with pytest.raises(EmbeddedError) as raised, embedded_postgres(directory):
        pass

    assert str(raised.value) == (
        f"{str(directory)!r} must belong to user 'root', got 'nobody'; "
        "run as the user who made it, or set DATABASE_URL to another database"
    )


@pytest.mark.slow
@needs_root
def test_embedded_postgres_rejects_data_of_another_owner(directory: Path) -> None:
    """The error names both users."""
    shutil.chown(directory / "data", "root")

    with pytest.raises(EmbeddedError) as raised, embedded_postgres(directory):
        pass

    assert str(raised.value) == (
        f"{str(directory / 'data')!r} must belong to user {OWNER!r}, got 'root'; "
        "run as the user who made it, or set DATABASE_URL to another database"
    )


@pytest.mark.slow
@needs_root
def test_embedded_postgres_accepts_no_other_user(directory: Path) -> None:
    """Clients are identified by their user and not by a password."""
    with embedded_postgres(directory) as server:
        (directory / "socket").chmod(0o755)  # were it open, `peer` would still refuse
        refused = subprocess.run(
            [sys.executable, "-c", CONNECT_AS_NOBODY, server.url], capture_output=True, text=True, check=False
        )

    assert refused.stdout == 'Peer authentication failed for user "millhand"\n'


def test_default_directory_is_beside_the_project(empty: Path) -> None:
    """The data is in one hidden directory of the project."""
    empty.mkdir()

    assert default_directory(empty) == empty / ".millhand" / "postgres"


@needs_root
def test_default_directory_is_outside_when_roots_project_is_closed(empty: Path) -> None:
    """Root in a closed home gets a directory that the server's user can enter, the same one each time."""
    empty.mkdir(mode=0o700)

    found = default_directory(empty)

    assert found.parent == Path("/var/lib/millhand")
    assert found == default_directory(empty)


@pytest.mark.slow
def test_embedded_module_runs_the_server_of_its_directory(empty: Path, made_data: Path) -> None:
    """
    `python -m millhand.embedded` runs the server that a worker in this directory starts or joins, until Ctrl-C.

    A shell that reads the printed line has its URL, and Git ignores the data.
    """
    project = empty / "it's a shop"
    provide(project / ".millhand/postgres", made_data)
    with subprocess.Popen(
        [sys.executable, "-m", "millhand.embedded"], cwd=project, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        with project_postgres(project) as server:
            shell = ["sh", "-c", f'{line}printf %s "$DATABASE_URL"']
            url = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
            process.send_signal(signal.SIGINT)
            assert (server.is_joined, server.url, process.wait(timeout=30)) == (True, url, 0)

    assert line.startswith("export DATABASE_URL='postgresql://millhand@/millhand?host=")
    assert (project / ".millhand/.gitignore").read_text() == "*\n"
    assert not (server.data / "postmaster.pid").exists()
