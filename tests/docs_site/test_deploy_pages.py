"""The files on the deploy pages: the programs that read them accept them, and Millhand has the commands in them."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from click.testing import CliRunner

from millhand.cli.main import cli
from millhand.core.config import Config
from millhand.shells.settings.load import load_settings
from page_runner import blocks
from required import missing
from user_programs import PROJECT, run_python

HOW_TO = PROJECT / "docs" / "how_to"
SYSTEMD, DOCKER, KUBERNETES = (
    HOW_TO / f"deploy_{name}.md" for name in ("with_systemd", "with_docker", "on_kubernetes")
)
FILES = {
    block.title: block.text
    for page in (SYSTEMD, DOCKER, KUBERNETES)
    for block in blocks(page)
    if block.title is not None
}
ARRAY = re.compile(r'\["millhand", .*?\]')
EXEC_START = re.compile(r"^ExecStart=\S+/(millhand .*)$", re.MULTILINE)
OLDEST_KUBERNETES = "1.30"


@pytest.mark.parametrize(
    ("file", "title"),
    [
        ("Containerfile", "Dockerfile"),
        ("compose.yaml", "compose.yaml"),
        ("shop-worker.service", "shop-worker.service"),
    ],
)
def test_file_to_copy_is_that_of_its_page(file: str, title: str) -> None:
    """A file in deploy/ is the one that the page shows and explains."""
    assert (PROJECT / "deploy" / file).read_text() == FILES[title].rstrip("\n") + "\n"


def test_procfile_has_commands_that_exist() -> None:
    """Each command of the Procfile is one of Millhand's, and the release migrates before it checks."""
    lines = dict(line.split(": ", 1) for line in (PROJECT / "deploy" / "Procfile").read_text().splitlines())
    commands = [shlex.split(part) for line in lines.values() for part in line.split(" && ")]

    for command in commands:
        assert CliRunner().invoke(cli, [*command[1:], "--help"]).exit_code == 0, command
    assert [command[1] for command in commands] == ["migrate", "kinds", "worker"]


def test_commands_in_the_files_exist() -> None:
    """Each command that a unit, an image, a Compose file or a manifest starts is a command with its options."""
    commands = [ast.literal_eval(array) for text in FILES.values() for array in ARRAY.findall(text)]
    commands += [shlex.split(line) for text in FILES.values() for line in EXEC_START.findall(text)]

    for command in commands:
        result = CliRunner().invoke(cli, [*command[1:], "--help"], prog_name="millhand")
        assert (result.exit_code, "Usage: millhand" in result.output) == (0, True), command
    assert {command[1] for command in commands} == {"worker", "migrate", "kinds", "probe"}


def test_worker_in_the_files_needs_no_variable_of_millhand_but_for_probes(tmp_path: Path) -> None:
    """Without `[orphans]`, a worker of MODULE:CONFIG runs no orphan cleanup, which would create a directory for files."""
    settings = load_settings(directory=tmp_path, environment={}).with_config(Config(), "shop.jobs:config")

    assert set(re.findall(r"MILLHAND_\w+", "\n".join(FILES.values()))) == {"MILLHAND_OBSERVE_LISTEN"}
    assert settings.get("orphans.enabled") is False


def test_unit_is_valid(tmp_path: Path) -> None:
    """A check by systemd prints nothing; about a line that it does not know, it only warns."""
    unit = FILES["shop-worker.service"].replace("/opt/shop/.venv/bin/millhand", "/bin/true")
    path = tmp_path / "shop-worker.service"
    path.write_text(unit)

    assert _systemd("verify", "--man=no", str(path)) == ""


def test_unit_stops_the_main_process_only() -> None:
    """With `--processes`, the supervisor forwards one signal; a signal to the group would interrupt jobs at once."""
    settings = dict(re.findall(r"^(\w+)=(.*)$", FILES["shop-worker.service"], re.MULTILINE))

    assert settings["KillMode"] == "mixed"
    assert settings["RestartPreventExitStatus"] == "2"
    assert float(settings["TimeoutStopSec"]) >= 8 + 10


@pytest.mark.slow
def test_manifests_are_valid() -> None:
    """Kubernetes accepts each manifest: no field is unknown, in the oldest and the newest release that we name."""
    kubernetes = _module("kubernetes_validate")
    manifests = [manifest for name in ("worker.yaml", "migrate.yaml") for manifest in _yaml(FILES[name])]

    for manifest in manifests:
        for version in (OLDEST_KUBERNETES, kubernetes.latest_version()):
            kubernetes.validate(manifest, version, strict=True)
    assert [manifest["kind"] for manifest in manifests] == ["Deployment", "PodDisruptionBudget", "Job"]


def test_job_migrates_before_it_checks_the_queued_jobs() -> None:
    """`kinds check` fails on an old or empty schema, so the migration runs before it: on Kubernetes, and in the steps."""
    (job,) = _yaml(FILES["migrate.yaml"])
    pod = job["spec"]["template"]["spec"]
    steps = (HOW_TO / "deploy.md").read_text()

    (first,), (second,) = pod["initContainers"], pod["containers"]

    assert (first["args"][1], second["args"][1]) == ("migrate", "kinds")
    assert steps.index("`millhand migrate up`") < steps.index("`millhand kinds check")


def test_pods_have_no_variables_of_services() -> None:
    """A Service `millhand-…` beside the pods adds no variables to them, which could look like Millhand's settings."""
    manifests = [manifest for name in ("worker.yaml", "migrate.yaml") for manifest in _yaml(FILES[name])]
    pods = [manifest["spec"]["template"]["spec"] for manifest in manifests if "template" in manifest["spec"]]

    assert [pod.get("enableServiceLinks") for pod in pods] == [False, False]


def test_unknown_field_of_a_manifest_is_found() -> None:
    """The check of manifests is strict: a misspelt field is an error."""
    kubernetes = _module("kubernetes_validate")
    (deployment, _) = _yaml(FILES["worker.yaml"])
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 30

    with pytest.raises(kubernetes.ValidationError, match="terminationGracePeriod"):
        kubernetes.validate(deployment, OLDEST_KUBERNETES, strict=True)


def test_compose_file_is_valid(tmp_path: Path) -> None:
    """Docker Compose accepts the file: it satisfies the published schema."""
    path = tmp_path / "compose.yaml"
    path.write_text(FILES["compose.yaml"])

    result = CliRunner().invoke(
        _module("check_jsonschema").main, ["--builtin-schema", "vendor.compose-spec", str(path)]
    )

    assert (result.exit_code, result.output) == (0, "ok -- validation done\n")


async def test_scaler_counts_jobs_that_wait_and_run(connection: asyncpg.Connection) -> None:
    """The query that scales the workers counts the jobs of a queue that are due or running, and no others."""
    (scaled,) = _yaml(FILES["scale.yaml"])
    jobs = [
        ("available", "default", "-1 minute"),
        ("running", "default", "-1 minute"),
        ("available", "default", "1 hour"),
        ("available", "mail", "-1 minute"),
        ("scheduled", "default", "1 hour"),
    ]

    await connection.executemany(
        "INSERT INTO river_job (kind, args, max_attempts, state, queue, scheduled_at) "
        "VALUES ('k', '{}', 25, $1, $2, now() + $3::text::interval)",
        jobs,
    )

    assert await connection.fetchval(scaled["spec"]["triggers"][0]["metadata"]["query"]) == 2


def test_migrations_run_as_the_owner_and_the_rest_as_the_worker() -> None:
    """Of the commands for systemd, those that migrate read the owner's file; only root may read either file."""
    page = SYSTEMD.read_text()
    commands = re.findall(r"EnvironmentFile=/etc/shop/(\w+)\.env \S+/millhand (\w+)", page)

    assert commands == [("owner", "migrate"), ("worker", "kinds"), ("worker", "client")]
    assert {
        name: urlsplit(FILES[f"{name}.env"].partition("=")[2]).username for name in ("owner", "worker")
    } == {"owner": "shop_owner", "worker": "shop_worker"}
    assert "install -m 600 worker.env owner.env /etc/shop/" in page


@pytest.mark.slow
async def test_worker_of_an_empty_server_works_in_its_role(postgres_server_url: str, tmp_path: Path) -> None:
    """By the commands of the page, a worker runs in its role without a warning; only the owner could migrate."""
    unique = f"t{os.getpid()}_"  # roles belong to the server
    page = HOW_TO / "deploy.md"
    create = next(block.text for block in blocks(page) if block.language == "sql").replace(
        "shop", f"{unique}shop"
    )
    grant = re.findall(r"--command '(.*)'", page.read_text())[0].replace("shop", f"{unique}shop")
    roles = [f"--role={name}={unique}millhand_{name}" for name in ("worker", "inserter", "feeder", "reader")]
    url = urlunsplit(urlsplit(postgres_server_url)._replace(path=f"/{unique}shop"))

    async def millhand(role: str, *arguments: str) -> tuple[int, str]:
        role_url = f"{url}{'&' if '?' in url else '?'}options=-c%20role%3D{unique}{role}"
        ended = await run_python(["-m", "millhand", *arguments], database_url=role_url, directory=tmp_path)
        return ended.code, ended.stdout + ended.stderr

    connection = await asyncpg.connect(postgres_server_url)
    try:
        for statement in create.splitlines():
            await connection.execute(statement)
        refused = await millhand("shop_worker", "migrate", "up")
        applied = await millhand("shop_owner", "migrate", "up")
        grants = CliRunner().invoke(cli, ["migrate", "sql", "--grants", *roles]).output
        inside = await asyncpg.connect(url)
        await inside.execute(f"{grants}{grant.replace('millhand_', f'{unique}millhand_')}")
        await inside.close()
        inserted = await millhand("shop_web", "job", "insert", "orphan_cleanup", "{}")
        worked = await millhand("shop_worker", "worker", "--until-empty")
    finally:
        await connection.execute(f"DROP DATABASE IF EXISTS {unique}shop WITH (FORCE)")
        names = [
            name
            for (name,) in await connection.fetch(
                "SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)", unique
            )
        ]
        await connection.execute(f"DROP ROLE {', '.join(names)}")
        await connection.close()

    assert (refused[0], "permission denied for schema public" in refused[1]) == (1, True)
    assert (applied[0], inserted[0]) == (0, 0), inserted[1]
    assert (worked[0], re.findall(r'"level":"(?:warning|error)".*', worked[1])) == (0, []), worked[1]


def _yaml(text: str) -> list[dict[str, Any]]:
    return list(_module("yaml").safe_load_all(text))


def _module(name: str) -> Any:
    if find_spec(name) is None:
        missing("schemas", f"{name} is not installed; run ./just check")
    return __import__(name)


def _systemd(*arguments: str) -> str:
    """Return what systemd-analyze prints. It ends with 0 even if it warns."""
    try:
        ended = subprocess.run(
            ["systemd-analyze", *arguments], capture_output=True, check=False, text=True, timeout=30
        )
    except FileNotFoundError:
        missing("systemd", "systemd-analyze is not installed")
    return ended.stdout + ended.stderr
