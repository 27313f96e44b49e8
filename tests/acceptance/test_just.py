"""Claims about `./just`: its first call, its second call, and its errors."""

from __future__ import annotations

import itertools
import os
import pwd
import re
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can be another user")
COREUTILS = ("cat", "cksum", "dirname", "mkdir", "mv", "rm", "sh", "tr", "uname")
SYSTEM_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
DEADLINE_SECONDS = 300  # a bootstrap from a slow index


@pytest.fixture
def checkout() -> Iterator[Path]:
    """Copy the script and its pins into a directory whose name has a space, as in a fresh clone."""
    with tempfile.TemporaryDirectory(prefix="millhand just ") as name:
        path = Path(name, "a clone")
        Path(name).chmod(0o755)
        (path / "requirements").mkdir(parents=True)
        shutil.copy(PROJECT / "just", path)
        shutil.copy(PROJECT / "requirements" / "tools.lock", path / "requirements")
        yield path


@pytest.fixture
def programs(checkout: Path) -> Path:
    """A directory for PATH with the system's programs but no Python; tests add their own."""
    path = checkout.parent / "bin"
    path.mkdir()
    for name in COREUTILS:
        (path / name).symlink_to(str(shutil.which(name)))
    return path


@pytest.fixture
def clone() -> Iterator[Path]:
    """The whole project in a directory whose name has a space, with nothing installed and an empty home."""
    if not (PROJECT / ".git").exists():
        pytest.skip("only a clone knows which files belong to the project")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="millhand just ") as name:
        Path(name).chmod(0o755)
        path = Path(name, "a clone")
        for file in filter(None, os.fsdecode(listed).split("\0")):
            if (PROJECT / file).exists():
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT / file, path / file)
        (path.parent / "home").mkdir()
        yield path


def test_just_fails_without_python(checkout: Path, programs: Path) -> None:
    """Without Python the error names the requirement and two ways to meet it."""
    done = just(checkout, path=programs)

    assert (done.returncode, done.stderr) == (
        1,
        (
            "error: ./just needs Python 3.11 or newer, found no Python that runs\n"
            "Install one (apt install python3 python3-venv, brew install python) or name it: "
            "PYTHON=/path/to/python ./just\n"
        ),
    )


def test_just_fails_with_an_old_python(checkout: Path, programs: Path) -> None:
    """The error names the version of a Python that is too old."""
    program(programs / "python3", '[ "$1" = --version ] && echo "Python 3.9.2" || exit 1')

    done = just(checkout, path=programs)

    assert (done.returncode, done.stderr) == (
        1,
        (
            "error: ./just needs Python 3.11 or newer, got Python 3.9.2\n"
            "Install one (apt install python3 python3-venv, brew install python) or name it: "
            "PYTHON=/path/to/python ./just\n"
        ),
    )


def test_just_fails_without_venv_and_pip(checkout: Path, programs: Path) -> None:
    """The error of Debian's Python without venv names the missing package."""
    program(
        programs / "python3", 'case "$*" in --version) echo "Python 3.11.2" ;; *venv* | *pip*) exit 1 ;; esac'
    )

    done = just(checkout, path=programs)

    assert (done.returncode, done.stderr) == (
        1,
        (
            "installing just and uv into .tools, once\n"
            "error: ./just needs Python's module venv (or pip), got neither with Python 3.11.2\n"
            "Install it: apt install python3-venv\n"
        ),
    )


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
def test_just_fails_in_a_read_only_checkout(checkout: Path) -> None:
    """A checkout without write access is refused before any download."""
    checkout.chmod(0o555)

    done = just(checkout)

    checkout.chmod(0o755)
    assert f"error: ./just must be able to write to {checkout}/.tools, and is not\n" in done.stderr


@pytest.mark.slow
def test_just_fails_without_an_index(checkout: Path) -> None:
    """Without a network the first call fails, names the cause, and leaves nothing incomplete."""
    nowhere = {
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
    }

    done = just(checkout, environment=nowhere)

    assert done.returncode == 1
    assert done.stderr.endswith(
        "error: ./just needs a package index for its first call, got the error above\n"
        "Behind a proxy or with a mirror, set HTTPS_PROXY or PIP_INDEX_URL as for pip. If a certificate is refused, set "
        "PIP_CERT to a file with the certificate authority of your proxy or mirror.\n"
    )
    assert [path for path in (checkout / ".tools").rglob("*") if not path.is_dir()] == []


def test_just_passes_its_arguments_on(checkout: Path, programs: Path) -> None:
    """Arguments are passed unchanged, and the justfile is the checkout's in any working directory."""
    bring(checkout, just='printf "<%s>" "$@"')

    done = just(checkout, "test", "-k", "two words", path=programs)

    assert done.stdout == f"<--justfile><{checkout}/justfile><test><-k><two words>"


def test_just_passes_pip_settings_to_uv(checkout: Path, programs: Path) -> None:
    """A mirror and a certificate that are set for pip apply to uv too."""
    bring(checkout, just='echo "$UV_DEFAULT_INDEX $SSL_CERT_FILE"')
    variables = {
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "PIP_CERT": "/etc/mirror.pem",
        "SSL_CERT_FILE": "",
    }

    done = just(checkout, path=programs, environment=variables)

    assert done.stdout == "https://mirror.example/simple /etc/mirror.pem\n"


@pytest.mark.skipif(
    not any(map(os.path.exists, SYSTEM_CERTIFICATES)), reason="the machine has no certificates"
)
def test_just_passes_the_certificates_of_the_system_to_uv(checkout: Path, programs: Path) -> None:
    """Uv trusts what the system trusts, such as a proxy that inspects TLS, unless the user decides otherwise."""
    bring(checkout, just='echo "$UV_SYSTEM_CERTS $SSL_CERT_FILE"')

    plain = just(checkout, path=programs)
    decided = {"UV_SYSTEM_CERTS": "false", "REQUESTS_CA_BUNDLE": "/etc/mirror.pem"}
    own = just(checkout, path=programs, environment=decided)

    assert (plain.stdout, own.stdout) == ("true \n", "false /etc/mirror.pem\n")


@pytest.mark.skipif(shutil.which("just") is None, reason="./just puts just on the PATH")
def test_just_names_the_setting_for_a_refused_certificate(checkout: Path, programs: Path) -> None:
    """If uv cannot install the dependencies, the last line names the variable for a certificate."""
    for file in ("justfile", "pyproject.toml", "requirements/run.lock"):
        shutil.copy(PROJECT / file, checkout / file)
    bring(checkout, just=f'exec {shutil.which("just")} "$@"')
    uv = next((checkout / ".tools").glob("*/uv"))
    refusal = "invalid peer certificate: UnknownIssuer"
    program(uv, f'[ "$1" = pip ] && echo "{refusal}" >&2 && exit 1; mkdir -p "$5/bin"; touch "$5/bin/python"')
    program(checkout / ".venv" / "bin" / "python", ":")

    done = just(checkout, "worker", path=programs)

    assert done.returncode == 1
    assert done.stderr.startswith(
        "installing requirements/run.lock into .venv\n"
        f"{refusal}\n"
        "error: requirements/run.lock must be installed from a package index, got the error above\n"
        "Behind a proxy or with a mirror, set HTTPS_PROXY or UV_DEFAULT_INDEX. If a certificate is refused, set "
        "SSL_CERT_FILE to a file with the certificate authority of your proxy or mirror.\n"
    )


def test_just_keeps_caches_in_the_checkout_when_there_is_no_home(checkout: Path, programs: Path) -> None:
    """`./just` works without a home directory, as for a service's user."""
    bring(checkout, just='echo "$UV_CACHE_DIR"')

    done = just(checkout, path=programs, environment={"HOME": str(checkout / "nobody")})

    assert done.stdout == f"{checkout}/.tools/cache\n"


def test_just_worker_replaces_the_shell(checkout: Path, programs: Path) -> None:
    """The started process is the worker itself, so signals reach it."""
    bring(checkout, just='echo "just: $3 $4"')
    program(checkout / ".venv" / "bin" / "millhand", 'echo "$$ $PWD $*"')
    command = [str(checkout / "just"), "worker", "--queue", "mail:5"]
    environment = {"PATH": str(programs), "HOME": str(checkout)}

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        said = process.stdout.read()

    assert said == f"just: _install run\n{process.pid} {checkout} worker --embedded --queue mail:5\n"


@pytest.mark.slow
def test_just_adds_less_than_a_tenth_of_a_second_once_the_tools_are_there(
    checkout: Path, programs: Path
) -> None:
    """Compare the best of ten calls by CPU time, because other tests may keep the machine busy."""
    bring(checkout, just=":")

    seconds = []
    for _ in range(10):
        begun = cpu_seconds_of_children()
        just(checkout, path=programs)
        seconds.append(cpu_seconds_of_children() - begun)

    assert min(seconds) < 0.1


def test_justfile_has_one_worker_recipe() -> None:
    """The recipe of the README's first command is a line with its name and a colon."""
    lines = (PROJECT / "justfile").read_text().splitlines()

    assert len([line for line in lines if line.startswith("worker:")]) == 1


def test_locks_contain_no_host() -> None:
    """The locks hold names, versions and hashes, and no index address."""
    texts = {path.name: path.read_text() for path in sorted((PROJECT / "requirements").glob("*.lock"))}

    names = ["dev", "elsewhere", "emulator", "models", "oldest", "release", "run", "spark", "test", "tools"]
    assert list(texts) == [f"{name}.lock" for name in names]
    assert [name for name, text in texts.items() if "://" in text] == []
    assert [name for name, text in texts.items() if not re.search(r"--hash=sha256:[0-9a-f]{64}", text)] == []


def test_locks_agree_on_every_version() -> None:
    """A package has the same version in every lock, so no command changes what another installed."""
    locks = [pins(PROJECT / "requirements" / f"{name}.lock") for name in ("run", "test", "dev")]

    for smaller, larger in itertools.pairwise(locks):
        assert smaller <= larger


@pytest.mark.slow
def test_just_works_in_a_fresh_clone_with_an_empty_home(clone: Path) -> None:
    """The first call installs everything, and the second needs no network."""
    home = {"HOME": str(clone.parent / "home")}
    offline = {**home, "PIP_INDEX_URL": "http://127.0.0.1:9/", "UV_OFFLINE": "1"}

    first = just(clone, "millhand", "--version", environment=home)
    second = just(clone, "millhand", "--version", environment=offline)

    assert (first.returncode, first.stdout) == (0, second.stdout)
    assert first.stderr == (
        "installing just and uv into .tools, once\ninstalling requirements/run.lock into .venv\n"
    )
    assert (second.returncode, second.stderr) == (0, "")
    assert re.fullmatch(r"millhand,? (version )?\d+\.\d+\.\d+\n", first.stdout)


@pytest.mark.slow
def test_just_works_when_it_is_called_twice_at_once(clone: Path) -> None:
    """Two simultaneous first calls in one fresh clone both succeed."""
    commands = [[clone / "just", "_install", name] for name in ("run", "test")]

    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate(timeout=DEADLINE_SECONDS)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], said
    assert just(clone, "test", "--version").returncode == 0
    assert [path.name for path in clone.glob(".venv*")] == [".venv"]
    assert [path.name for path in (clone / ".tools").glob("new-*")] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "user", [pytest.param("nobody", marks=needs_root), pwd.getpwuid(os.geteuid()).pw_name]
)
def test_just_worker_starts_and_stops_in_a_fresh_clone(clone: Path, user: str) -> None:
    """The README's first command works for root and for an ordinary user: a heartbeat, then Ctrl-C, exit code 0."""
    entry = pwd.getpwnam(user)
    subprocess.run(["chown", "-R", f"{entry.pw_uid}:{entry.pw_gid}", clone.parent], check=True)
    environment = {
        name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "PYTHON"}
    }

    with subprocess.Popen(
        [str(clone / "just"), "worker"],
        env=environment | {"HOME": str(clone.parent / "home")},
        extra_groups=[] if IS_ROOT else None,
        group=entry.pw_gid if IS_ROOT else None,
        start_new_session=True,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
        user=entry.pw_uid if IS_ROOT else None,
    ) as worker:
        assert worker.stdout
        began = list(itertools.takewhile(lambda line: "worker heartbeat" not in line, worker.stdout))
        os.killpg(worker.pid, signal.SIGINT)
        ended = worker.stdout.readlines()

    assert worker.returncode == 0, [*began, *ended]
    assert "worker stopped" in ended[-1]
    assert {path.stat().st_uid for path in (clone / ".venv").iterdir()} == {entry.pw_uid}
    assert not (clone / ".millhand" / "postgres" / "data" / "postmaster.pid").exists()


def just(
    checkout: Path, *arguments: str, path: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `./just` from another directory; with `path`, with only that PATH and no other variables."""
    inherited = dict(os.environ) if path is None else {"PATH": str(path), "HOME": str(checkout)}
    inherited.pop("PYTHON", None)
    return subprocess.run(
        [checkout / "just", *arguments],
        capture_output=True,
        check=False,
        cwd=checkout.parent,
        env=inherited | dict(environment or {}),
        text=True,
        timeout=DEADLINE_SECONDS,
    )


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bring(checkout: Path, *, just: str) -> None:
    """Put tools where the script expects its own; `just` runs the given shell commands."""
    system = subprocess.run(["uname", "-sm"], capture_output=True, check=True, text=True).stdout
    lock = (checkout / "requirements" / "tools.lock").read_bytes()
    pinned = subprocess.run(["cksum"], input=lock, capture_output=True, check=True).stdout.decode()
    tools = checkout / ".tools" / "-".join([*system.split(), *pinned.split()])
    for name, words in {"just": just, "uv": ":"}.items():
        program(tools / name, words)


def program(path: Path, words: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{words}\n")
    path.chmod(0o755)


def pins(lock: Path) -> set[tuple[str, str]]:
    return set(re.findall(r"^([a-z0-9.-]+)==([^ ]+)", lock.read_text(), re.MULTILINE))
