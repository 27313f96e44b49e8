"""`./just` as a stranger meets it: the first call, the second, and the machines on which there can be none."""

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
DEADLINE_SECONDS = 300  # a bootstrap from a slow index


@pytest.fixture
def checkout() -> Iterator[Path]:
    """The script and its pins in a directory whose name has a space, as just cloned."""
    with tempfile.TemporaryDirectory(prefix="millhand just ") as name:
        path = Path(name, "a clone")
        Path(name).chmod(0o755)
        (path / "requirements").mkdir(parents=True)
        shutil.copy(PROJECT / "just", path)
        shutil.copy(PROJECT / "requirements" / "tools.lock", path / "requirements")
        yield path


@pytest.fixture
def programs(checkout: Path) -> Path:
    """A directory for PATH with the system's small programs and no Python; tests add one of their own."""
    path = checkout.parent / "bin"
    path.mkdir()
    for name in COREUTILS:
        (path / name).symlink_to(str(shutil.which(name)))
    return path


@pytest.fixture
def clone() -> Iterator[Path]:
    """The whole project in a directory whose name has a space, with nothing brought yet, beside an empty home."""
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


def test_just_says_so_when_there_is_no_python(checkout: Path, programs: Path) -> None:
    """Without any Python the message names what is needed and two ways to get it."""
    done = just(checkout, path=programs)

    assert (done.returncode, done.stderr) == (
        1,
        (
            "error: ./just needs Python 3.11 or newer, found no Python that runs\n"
            "Install one (apt install python3 python3-venv, brew install python) or name it: "
            "PYTHON=/path/to/python ./just\n"
        ),
    )


def test_just_says_so_when_python_is_too_old(checkout: Path, programs: Path) -> None:
    """A Python that is too old is named with its version."""
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


def test_just_says_so_when_python_has_neither_venv_nor_pip(checkout: Path, programs: Path) -> None:
    """Debian's Python without its venv package is told by the name of that package."""
    program(
        programs / "python3",
        'case "$*" in --version) echo "Python 3.11.2" ;; *venv* | *pip*) exit 1 ;; esac',
    )

    done = just(checkout, path=programs)

    assert (done.returncode, done.stderr) == (
        1,
        (
            "bringing just and uv into .tools, this once\n"
            "error: ./just needs Python's module venv (or pip), got neither with Python 3.11.2\n"
            "Install it: apt install python3-venv\n"
        ),
    )


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
def test_just_says_so_when_it_may_not_write(checkout: Path) -> None:
    """A checkout of somebody else's is refused before anything is fetched."""
    checkout.chmod(0o555)

    done = just(checkout)

    checkout.chmod(0o755)
    assert f"error: ./just must be able to write to {checkout}/.tools, and is not\n" in done.stderr


@pytest.mark.slow
def test_just_says_so_when_there_is_no_index(checkout: Path) -> None:
    """Without a network the first call says that it needs one, this once, and leaves nothing half-made."""
    nowhere = {
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
    }

    done = just(checkout, environment=nowhere)

    assert done.returncode == 1
    assert done.stderr.endswith(
        "error: ./just needs a package index this once, got the error above\n"
        "Behind a proxy or with a mirror, set HTTPS_PROXY or PIP_INDEX_URL as for pip.\n"
    )
    assert [path for path in (checkout / ".tools").rglob("*") if not path.is_dir()] == []


def test_just_passes_its_arguments_on(checkout: Path, programs: Path) -> None:
    """Arguments arrive as they were given, and the justfile is the checkout's, wherever one stands."""
    bring(checkout, just='printf "<%s>" "$@"')

    done = just(checkout, "test", "-k", "two words", path=programs)

    assert done.stdout == f"<--justfile><{checkout}/justfile><test><-k><two words>"


def test_just_tells_uv_what_pip_was_told(checkout: Path, programs: Path) -> None:
    """A mirror and a certificate that are set for pip hold for uv too, which reads neither setting."""
    bring(checkout, just='echo "$UV_DEFAULT_INDEX $SSL_CERT_FILE"')
    told = {
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "PIP_CERT": "/etc/mirror.pem",
        "SSL_CERT_FILE": "",
    }

    done = just(checkout, path=programs, environment=told)

    assert done.stdout == "https://mirror.example/simple /etc/mirror.pem\n"


def test_just_keeps_caches_in_the_checkout_when_there_is_no_home(checkout: Path, programs: Path) -> None:
    """A home that does not exist, as a service's user has it, is no obstacle."""
    bring(checkout, just='echo "$UV_CACHE_DIR"')

    done = just(checkout, path=programs, environment={"HOME": str(checkout / "nobody")})

    assert done.stdout == f"{checkout}/.tools/cache\n"


def test_just_worker_takes_the_place_of_the_shell(checkout: Path, programs: Path) -> None:
    """Between a worker and its signals stands nobody: the process that was started is the worker."""
    bring(checkout, just='echo "just: $3 $4"')
    program(checkout / ".venv" / "bin" / "millhand", 'echo "$$ $PWD $*"')
    command = [str(checkout / "just"), "worker", "--queue", "mail:5"]
    environment = {"PATH": str(programs), "HOME": str(checkout)}

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        said = process.stdout.read()

    assert said == f"just: _install run\n{process.pid} {checkout} worker --queue mail:5\n"


def test_just_adds_less_than_a_tenth_of_a_second_once_the_tools_are_there(
    checkout: Path, programs: Path
) -> None:
    """The best of ten calls, by the CPU that they use, for the machine may be busy with other tests."""
    bring(checkout, just=":")

    seconds = []
    for _ in range(10):
        begun = cpu_seconds_of_children()
        just(checkout, path=programs)
        seconds.append(cpu_seconds_of_children() - begun)

    assert min(seconds) < 0.1


def test_justfile_has_one_worker_recipe() -> None:
    """The line that the README's first command stands on begins with its name and a colon."""
    lines = (PROJECT / "justfile").read_text().splitlines()

    assert len([line for line in lines if line.startswith("worker:")]) == 1


def test_locks_name_no_host() -> None:
    """Whoever installs brings an index of their own; the locks hold names, versions and hashes."""
    texts = {path.name: path.read_text() for path in sorted((PROJECT / "requirements").glob("*.lock"))}

    names = ["dev", "elsewhere", "emulator", "oldest", "run", "test", "tools"]
    assert list(texts) == [f"{name}.lock" for name in names]
    assert [name for name, text in texts.items() if "://" in text] == []
    assert [name for name, text in texts.items() if not re.search(r"--hash=sha256:[0-9a-f]{64}", text)] == []


def test_locks_agree_on_every_version() -> None:
    """What one command installs, no other moves: a package has the same version in each lock that has it."""
    locks = [pins(PROJECT / "requirements" / f"{name}.lock") for name in ("run", "test", "dev")]

    for smaller, larger in itertools.pairwise(locks):
        assert smaller <= larger


@pytest.mark.slow
def test_just_works_in_a_fresh_clone_with_an_empty_home(clone: Path) -> None:
    """The first call brings what it needs and the second asks nobody, not even for a network."""
    home = {"HOME": str(clone.parent / "home")}
    offline = {**home, "PIP_INDEX_URL": "http://127.0.0.1:9/", "UV_OFFLINE": "1"}

    first = just(clone, "millhand", "--version", environment=home)
    second = just(clone, "millhand", "--version", environment=offline)

    assert (first.returncode, first.stdout) == (0, second.stdout)
    assert first.stderr == (
        "bringing just and uv into .tools, this once\ninstalling requirements/run.lock into .venv\n"
    )
    assert (second.returncode, second.stderr) == (0, "")
    assert re.fullmatch(r"millhand,? (version )?\d+\.\d+\.\d+\n", first.stdout)


@pytest.mark.slow
def test_just_works_when_it_is_called_twice_at_once(clone: Path) -> None:
    """Two first calls in one fresh clone do each other no harm, whatever they bring."""
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
    """The README's first command, by root and by an ordinary user: a heartbeat, Ctrl-C, in order, exit code 0."""
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
    """Call `./just` from elsewhere; with `path`, where nothing else can be found and nothing else is set."""
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
    """Put tools where the script looks for its own; the just among them runs the given shell words."""
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
