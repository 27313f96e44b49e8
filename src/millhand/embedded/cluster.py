"""
Starts, shares and stops the PostgreSQL cluster of a directory.

Three rules keep it intact, whichever process is killed and when:

1. A process that starts or stops the server holds `lock` (exclusive), so that starts and stops never race.
2. A process that uses the server holds `users` (shared). The kernel releases it when a process is killed, so there is
   no count that could be wrong. The last process gets it exclusively and stops the server. If all users are killed, the
   server keeps running, and the next start joins it.
3. Clients connect by Unix socket and are identified by their operating-system user (`peer`), without port or password.

```
DIR/data           the cluster, made by initdb        DIR/socket        the server's socket
DIR/pg_hba.conf    which users may connect            DIR/pg_ident.conf their database roles
DIR/server.log     the server's log                   DIR/lock, users   the two locks
DIR/programs       a copy, if root's are not readable
```

For root, DIR must be open to all users, because the server runs as another user. The mode of an existing directory is
never changed, and data is never deleted.

Source: PostgreSQL 18, "Starting the Database Server", "Peer Authentication"; miscinit.c `CreateLockFile`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from millhand.embedded.errors import ELSEWHERE, EmbeddedError, disk_is_full, explain_os_errors, wrong_owner
from millhand.embedded.process import (
    SOCKET_DIRECTORY_BYTES,
    SOCKET_NAME,
    WAIT_SECONDS,
    command_line,
    is_gone,
    is_usable_for_socket,
    listens,
    wait_until,
)
from millhand.embedded.programs import ProgramFailed, Programs, is_open_to_all

ROLE = DATABASE = "millhand"
NEW_CLUSTER_BYTES = 96 << 20  # initdb writes 40 MB and 16 MB of WAL, which the first jobs soon double
# PostgreSQL's message if processes of a killed server still exist.
ORPHAN_PROCESSES = "pre-existing shared memory block"
ORPHANS_POLL_SECONDS = 0.2
FULL_BYTES = 1 << 20  # with less space free, a failure comes from a full disk
DIRECTORY_BYTES = 896  # PostgreSQL silently cuts paths at 1,023 bytes; those of its files take 100
LOG_BYTES = 10 << 20  # the log is rotated at this size, so that it does not fill the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """
    A running server.

    Attributes:
        data: The data directory.
        is_joined: Whether it was running already, with the settings of the process that started it.
        url: Where to connect.
        version: Such as "18.6".
    """

    data: Path
    is_joined: bool
    url: str
    version: str


@contextlib.contextmanager
def embedded_postgres(directory: Path, settings: Mapping[str, str] | None = None) -> Iterator[EmbeddedServer]:
    """
    Start the server of `directory`, or join it if it runs, and yield it when it answers. The last user stops it.

    Args:
        directory: Where the cluster is, or will be made.
        settings: Server settings such as `{"max_connections": "200"}`. Only the process that starts the server sets
            them. With `fsync` off, which is for tests, a new cluster is not synchronised to disk either.

    Raises:
        EmbeddedError: If the server cannot be started. The message has a remedy.

    Concurrency: any number of processes and threads may use it at once. Entry and exit block for up to a minute each.
    """
    with contextlib.ExitStack() as leaving:
        with explain_os_errors(directory):
            cluster = _Cluster(directory.resolve(), settings or {})
            users = leaving.enter_context((cluster.directory / "users").open("ab"))
            # Registered before the start, so that an interrupted start leaves no server behind.
            leaving.callback(cluster.leave, users)
            with cluster.locked():
                fcntl.flock(users, fcntl.LOCK_SH)
                server = cluster.start()
        yield server


class _Cluster:
    """The cluster in one directory. Call `start` and `stop` only while `locked`."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.data = directory / "data"
        self.directory = directory
        self.launched_pid: int | None = None  # known before the server has written its pid file
        self.log = directory / "server.log"
        # Only the server of this directory has this argument.
        self.identifying_argument = f"--hba_file={directory / 'pg_hba.conf'}"
        self.programs = Programs(directory)
        self.settings = settings
        self.socket = directory / "socket"
        self._make_directory()
        self._check_access()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with (self.directory / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def start(self) -> EmbeddedServer:
        try:
            if not self.data.exists():
                self._check_room()
                self._make_cluster()
            self._check_version()
            joined = self._running()
            socket_directory = joined or self._launch_after_orphans()
        except ProgramFailed as failure:
            raise self._explain(failure) from failure
        return EmbeddedServer(
            data=self.data,
            is_joined=joined is not None,
            url=f"postgresql://{ROLE}@/{DATABASE}?host={quote(socket_directory, safe='/')}&port=5432",
            version=self.programs.version,
        )

    def leave(self, users: BinaryIO) -> None:
        """Stop the server unless another process or thread holds `users`."""
        with explain_os_errors(self.directory), self.locked(), contextlib.suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.stop()

    def stop(self) -> None:
        server = self._read_pid_file()
        pid = server.pid if server else self.launched_pid
        if pid is None or not self._is_ours(pid):
            return
        os.kill(pid, signal.SIGINT)  # PostgreSQL's "fast" shutdown: clients are disconnected, no data is lost
        if not wait_until(lambda: self._has_ended(pid)):
            raise self._too_slow("stop", pid)
        self._clear_socket()

    def _make_directory(self) -> None:
        if (found := len(os.fsencode(self.directory))) > DIRECTORY_BYTES:
            raise EmbeddedError(
                f"path of directory {str(self.directory)!r} must be at most {DIRECTORY_BYTES} bytes long, got {found}; "
                f"choose a shorter one, or {ELSEWHERE}"
            )
        if self.directory.is_dir():
            return
        for missing in reversed([self.directory, *self.directory.parents]):
            if not missing.is_dir():
                missing.mkdir(exist_ok=True)
                if self.programs.switches_user:
                    missing.chmod(0o755)
        if not self.programs.switches_user:
            self.directory.chmod(0o700)

    def _check_access(self) -> None:
        user, owner = self.programs.user, self.programs.owner
        if self.programs.switches_user and not is_open_to_all(self.directory):
            raise EmbeddedError(
                f"directory {str(self.directory)!r} must be open to user {owner.pw_name!r}, as whom PostgreSQL runs "
                "for root, got one that is closed, or is in one; choose another such as '/var/lib/millhand', "
                f"run as an ordinary user, or {ELSEWHERE}"
            )
        if (found := self.directory.stat().st_uid) != user.pw_uid:
            raise wrong_owner(self.directory, expected=user.pw_uid, found=found)
        if self.data.exists() and (found := self.data.stat().st_uid) != owner.pw_uid:
            raise wrong_owner(self.data, expected=owner.pw_uid, found=found)

    def _check_room(self) -> None:
        if (free := shutil.disk_usage(self.directory).free) < NEW_CLUSTER_BYTES:
            raise EmbeddedError(
                f"the disk of {str(self.directory)!r} must have {NEW_CLUSTER_BYTES >> 20} MB free for a new database, "
                f"got {free >> 20} MB; free some space, or {ELSEWHERE}"
            )

    def _check_version(self) -> None:
        marker = self.data / "PG_VERSION"
        if not marker.exists():
            raise EmbeddedError(
                f"{str(self.data)!r} must be a PostgreSQL data directory, got one without PG_VERSION; "
                "move it away to begin afresh"
            )
        made_by, ours = marker.read_text().strip(), self.programs.version.partition(".")[0]
        if made_by != ours:
            raise EmbeddedError(
                f"{str(self.data)!r} must have been made by PostgreSQL {ours}, got one made by {made_by!r}; "
                f"set MILLHAND_POSTGRES_BIN to the programs of PostgreSQL {made_by}, or move it away to begin afresh"
            )

    def _make_cluster(self) -> None:
        for unfinished in self.directory.glob("data.new-*"):  # of a process that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
        # Renamed when complete. The name has our pid, because the initdb of a killed process may still run.
        new = self.directory / f"data.new-{os.getpid()}"
        self._make_owned(new)
        try:
            sync = ["--no-sync"] if self.settings.get("fsync") == "off" else []
            options = ("--username", ROLE, "--auth=peer", "--encoding=UTF8", "--no-locale", *sync)
            self.programs.run("initdb", "--pgdata", new, *options)
            # Single-user mode, because a running server could not be reached without a database of that name.
            create = f"CREATE DATABASE {DATABASE}\n"
            self.programs.run("postgres", "--single", "-D", new, "postgres", stdin=create)
            new.rename(self.data)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _running(self) -> str | None:
        """Return the socket directory of a running server, or None. Waits for a start or stop under way."""
        server = self._read_pid_file()
        if server is None:
            return None
        if not wait_until(self._is_settled):
            raise self._too_slow("become ready", server.pid)
        server = self._read_pid_file()
        if server is not None and listens(server.socket_directory):
            return server.socket_directory
        self.stop()  # it is dead, which is harmless, or it is alive and its socket was deleted
        return None

    def _is_settled(self) -> bool:
        server = self._read_pid_file()
        if server is None or server.is_ready:
            return True
        return not self._is_ours(server.pid) and not listens(server.socket_directory)

    def _launch_after_orphans(self) -> str:
        """Launch when the processes of a killed server have ended. A busy one takes a while to notice."""
        launched: list[str] = []

        def is_launched() -> bool:
            try:
                launched.append(self._launch())
            except ProgramFailed as failure:
                if ORPHAN_PROCESSES not in failure.output:
                    raise
            return bool(launched)

        if wait_until(is_launched, every_seconds=ORPHANS_POLL_SECONDS):
            return launched[0]
        raise EmbeddedError(
            f"{str(self.data)!r} must be free of the processes of a server that was killed, got some after "
            f"{WAIT_SECONDS} s; end those whose command line begins with 'postgres:', and see {str(self.log)!r}"
        )

    def _launch(self) -> str:
        stale = self._read_pid_file()
        if stale is None:
            # It may exist half-written. PostgreSQL does not start if the file names no process.
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.old"))
        socket_directory = self._make_socket_directory()
        with self.log.open("ab") as log:
            beginning = os.fstat(log.fileno()).st_size
            pid = self.launched_pid = self.programs.spawn(
                "postgres",
                "-D",
                self.data,
                *self._options(socket_directory),
                # The pid in a stale file may belong to another program by now, which PostgreSQL would take for a
                # server. It ignores the pid given here, and still finds orphans of the dead server.
                environment={"PG_GRANDPARENT_PID": str(stale.pid)} if stale else {},
                log=log.fileno(),
            )
        is_settled = wait_until(lambda: self._is_ready(pid) or self._has_ended(pid))
        if not is_settled:
            raise self._too_slow("become ready", pid)
        if not self._is_ready(pid):
            raise ProgramFailed("postgres", self.log.read_bytes()[beginning:].decode(errors="replace"))
        return socket_directory

    def _options(self, socket_directory: str) -> list[str]:
        rules, names = self.directory / "pg_hba.conf", self.directory / "pg_ident.conf"
        _write_if_changed(rules, "local all all peer map=millhand\n")
        _write_if_changed(names, f'millhand "{self.programs.user.pw_name}" {ROLE}\n')
        fixed = {"listen_addresses": "", "port": "5432", "unix_socket_directories": socket_directory}
        settings = [f"--{name}={value}" for name, value in {**self.settings, **fixed}.items()]
        return [self.identifying_argument, f"--ident_file={names}", *settings]

    def _make_socket_directory(self) -> str:
        if listens(str(self.socket)):
            raise EmbeddedError(
                f"socket {str(self.socket / SOCKET_NAME)!r} must be free, got a server that answers there and is not "
                f"of {str(self.data)!r}; stop that one first"
            )
        self._clear_socket()
        if not is_usable_for_socket(str(self.socket)):
            if self.socket.exists():  # its path was usable before the project was moved
                self.socket.rmdir()
            # The link stores the place, so that the next start can clear it.
            self.socket.symlink_to(tempfile.mkdtemp(prefix="millhand-", dir=_short_temporary_directory()))
        self._make_owned(self.socket)
        return str(self.socket.resolve())

    def _clear_socket(self) -> None:
        for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
            (self.socket / name).unlink(missing_ok=True)
        if self.socket.is_symlink():
            with contextlib.suppress(OSError):
                self.socket.resolve().rmdir()
            self.socket.unlink()

    def _make_owned(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        if self.programs.switches_user:
            os.chown(directory, self.programs.owner.pw_uid, self.programs.owner.pw_gid)

    def _is_ready(self, pid: int) -> bool:
        server = self._read_pid_file()
        return server is not None and server.pid == pid and server.is_ready

    def _is_ours(self, pid: int) -> bool:
        """Return whether `pid` is the living server of this directory. Another program may have got its pid."""
        return any(self.identifying_argument in argument for argument in command_line(pid))

    def _has_ended(self, pid: int) -> bool:
        # A living process can have an empty command line, too: while the shell executes the program, and while the
        # process exits and still holds its files.
        return not self._is_ours(pid) and (is_gone(pid) or any(command_line(pid)))

    def _read_pid_file(self) -> _PidFile | None:
        try:
            lines = (self.data / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return None
        if not lines or not lines[0].strip().isdecimal():
            return None
        lines += [""] * (8 - len(lines))
        return _PidFile(pid=int(lines[0]), socket_directory=lines[4], is_ready=lines[7].strip() == "ready")

    def _explain(self, failure: ProgramFailed) -> EmbeddedError:
        lines = [line.strip() for line in failure.output.splitlines() if line.strip()]
        # On a full disk, the line that reports it may be missing from the log.
        if (
            any("No space left" in line for line in lines)
            or shutil.disk_usage(self.directory).free < FULL_BYTES
        ):
            return disk_is_full(self.directory)
        reasons = (
            [line for line in lines if re.search(r"\b(FATAL|PANIC|error):", line)] or lines or ["nothing"]
        )
        return EmbeddedError(
            f"{failure.program} must succeed in {str(self.directory)!r}, got {reasons[-1]!r}; see {str(self.log)!r}"
        )

    def _too_slow(self, what: str, pid: int) -> EmbeddedError:
        return EmbeddedError(
            f"the server of {str(self.data)!r} must {what} within {WAIT_SECONDS} s, process {pid} has not; "
            f"see {str(self.log)!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PidFile:
    """The content of `postmaster.pid`."""

    is_ready: bool
    pid: int
    socket_directory: str


def _write_if_changed(path: Path, text: str) -> None:
    """Write `text` if it differs, so that a start on a full disk does not destroy the file."""
    if path.exists() and path.read_text() == text:
        return
    path.write_text(text)
    path.chmod(0o644)


def _short_temporary_directory() -> str:
    for candidate in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 (mkdtemp makes an unguessable name there)
        if is_usable_for_socket(f"{candidate}/millhand-12345678"):
            return candidate
    raise EmbeddedError(
        f"a socket's directory must be at most {SOCKET_DIRECTORY_BYTES} bytes long, got {tempfile.gettempdir()!r}; "
        "set TMPDIR to a shorter one"
    )
