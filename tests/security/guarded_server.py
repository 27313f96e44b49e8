"""
A PostgreSQL that accepts only TLS with a password or a certificate, from a certificate authority of its own.

The PostgreSQL of the wheel has no TLS; Debian's has.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from free_ports import free_ports
from millhand.embedded.process import wait_until
from millhand.embedded.programs import Programs
from required import missing

HOST = "localhost"
OWNER = "owner"
CERTIFIED = "certified"
# Characters that a URL must escape as %XX, and that could end its password.
PASSWORD = "pa:ss/w@rd?#%é"
RULES = f"""\
hostssl all {CERTIFIED} all cert
hostssl all all all scram-sha-256
local all all trust
"""


@dataclass(frozen=True, kw_only=True)
class GuardedServer:
    """Its socket directory and port, and its certificates: `ca`, `other_ca` (which signed nothing), `client`."""

    directory: Path
    port: int

    def url(self, user: str = OWNER, *, password: str = PASSWORD, host: str = HOST, **options: str) -> str:
        """Return the URL of its database; `options` are those of TLS."""
        secret = f":{quote(password, safe='')}" if password else ""
        query = f"?{urlencode(options)}" if options else ""
        return f"postgresql://{user}{secret}@{host}:{self.port}/postgres{query}"

    def path(self, name: str) -> str:
        return str(self.directory / name)


@contextlib.contextmanager
def guarded_server() -> Iterator[GuardedServer]:
    """Make and run a cluster with certificates; skip where PostgreSQL with TLS is not installed."""
    found = _programs_with_tls()
    if found is None or shutil.which("openssl") is None:
        missing("tls", "there is no PostgreSQL with TLS; apt-get install postgresql openssl")
    directory = Path(tempfile.mkdtemp(prefix="millhand-guarded-"))
    directory.chmod(0o755)
    try:
        (port,) = free_ports(1)
        server = GuardedServer(directory=directory, port=port)
        programs = Programs(directory)
        programs.directory = found
        _make_certificates(directory)
        _make_cluster(server, programs)
        pid = _launch(server, programs)
        try:
            yield server
        finally:
            os.kill(pid, signal.SIGINT)
            assert wait_until(lambda: not (directory / "data" / "postmaster.pid").exists())
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _programs_with_tls() -> Path | None:
    named = [os.environ["MILLHAND_POSTGRES_BIN"]] if "MILLHAND_POSTGRES_BIN" in os.environ else []
    on_path = [Path(found).parent for found in [shutil.which("postgres")] if found]
    for place in (*named, *on_path, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)):
        server = Path(place, "postgres")
        if server.exists() and b"libssl" in server.read_bytes():
            return Path(place)
    return None


def _make_cluster(server: GuardedServer, programs: Programs) -> None:
    data, owner = server.directory / "data", programs.owner
    password = server.directory / "password"
    password.write_text(PASSWORD)
    data.mkdir(mode=0o700)
    key = server.directory / "server.key"
    if programs.switches_user:
        for path in (data, key):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    options = ("--username", OWNER, "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync")
    programs.run("initdb", "--pgdata", data, *options, f"--pwfile={password}")
    (server.directory / "pg_hba.conf").write_text(RULES)
    programs.run(
        "postgres", "--single", "-D", data, "postgres", stdin=f"CREATE ROLE {CERTIFIED} LOGIN SUPERUSER\n"
    )


def _launch(server: GuardedServer, programs: Programs) -> int:
    settings = {
        "fsync": "off",
        "hba_file": server.path("pg_hba.conf"),
        "listen_addresses": "localhost",
        "log_connections": "off",
        "port": str(server.port),
        "ssl": "on",
        "ssl_ca_file": server.path("ca.crt"),
        "ssl_cert_file": server.path("server.crt"),
        "ssl_key_file": server.path("server.key"),
        "unix_socket_directories": "",
    }
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    with (server.directory / "server.log").open("ab") as log:
        pid = programs.spawn(
            "postgres", "-D", server.directory / "data", *arguments, environment={}, log=log.fileno()
        )
    ready = lambda: "ready to accept" in (server.directory / "server.log").read_text()  # noqa: E731
    assert wait_until(ready), (server.directory / "server.log").read_text()
    return pid


def _make_certificates(directory: Path) -> None:
    for authority in ("ca", "other_ca"):
        _openssl(
            directory,
            f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={authority} "
            f"-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign "
            f"-keyout {authority}.key -out {authority}.crt",
        )
    for name, subject, extra in (
        ("server", HOST, f"subjectAltName=DNS:{HOST}"),
        ("client", CERTIFIED, "extendedKeyUsage=clientAuth"),
    ):
        _openssl(
            directory,
            f"req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={subject} "
            f"-keyout {name}.key -out {name}.csr",
        )
        (directory / f"{name}.ext").write_text(f"{extra}\nauthorityKeyIdentifier=keyid\n")
        _openssl(
            directory,
            f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext "
            f"-out {name}.crt",
        )
        (directory / f"{name}.key").chmod(0o600)


def _openssl(directory: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
