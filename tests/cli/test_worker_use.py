"""Claims about wrong use of `millhand worker`; tests/acceptance has its normal behaviour."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_runner import millhand
from millhand.cli.worked_kinds import BUILT_INS, args_of
from worker_module import WORKER_MODULE

pytestmark = pytest.mark.usefixtures("worker_modules")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--queue", "mail"), "--queue must be pairs like 'default:100,mail:5', got 'mail'"),
        (("--queue", "mail:0"), "--queue.mail: max_workers must be between 1 and 10,000, got 0"),
        (("--queue", "Mail!:1"), "--queue: queue must be 1 to 64 lower-case letters"),
        (("--soft-stop-timeout", "soon"), "--soft-stop-timeout must be a duration such as"),
        (
            ("shop:config", "--soft-stop-timeout", "-5"),
            "--soft-stop-timeout: soft_stop_timeout must not be negative",
        ),
    ],
)
async def test_worker_refuses_flags_by_their_name(arguments: tuple[str, ...], message: str) -> None:
    """A wrong flag is an error with its name, before anything starts."""
    result = await millhand("worker", *arguments)

    assert result.code == 2
    assert result.err.startswith(f"error: {message}")


async def test_worker_refuses_a_file_before_anything_is_started(empty_directory: Path) -> None:
    """An error in millhand.toml is reported before the start, with file and key."""
    (empty_directory / "millhand.toml").write_text("[heartbeat]\nintervall = '5s'\n")

    result = await millhand("worker")

    assert result.code == 2
    assert (
        result.err
        == "error: millhand.toml: [heartbeat] has no setting 'intervall'; did you mean 'interval'?\n"
    )


async def test_worker_logs_in_the_schema_of_its_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--log-schema` names the keys of each JSON line."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/shop")

    result = await millhand("worker", "shop:periodic", "--log-format", "json", "--log-schema", "ecs")

    line = json.loads(result.out)
    assert (line["message"], line["log.level"], line["error.type"]) == (
        "worker not started",
        "error",
        "ConfigError",
    )


async def test_worker_with_a_json_log_logs_the_error_of_its_start(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--log-format json` or the setting, no text mixes with the log; with auto the error is text, also in a pipe."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/shop")
    wrong = "kind of periodic job 'daily' must have a worker, got 'nop' without; did you mean 'noop'?"

    chosen = await millhand("worker", "shop:periodic", "--log-format", "json")
    auto = await millhand("worker", "shop:periodic")
    shown = await millhand("worker", "shop:periodic", "--log-format", "json", "--show-config")
    (empty_directory / "millhand.toml").write_text('[log]\nformat = "json"\n')
    of_file = await millhand("worker", "shop:number")

    assert [(one.code, one.err) for one in (chosen, of_file)] == [(2, "")] * 2
    lines = [result.json for result in (chosen, of_file)]
    assert [(line["level"], line["message"], line["error_type"]) for line in lines] == [
        ("error", "worker not started", "ConfigError"),
        ("error", "worker not started", "WrongUse"),
    ]
    assert lines[0]["error"] == wrong
    assert [(one.code, one.out, one.err) for one in (auto, shown)] == [(2, "", f"error: {wrong}\n")] * 2


async def test_worker_requires_jobs(empty_directory: Path) -> None:
    """Without a configuration and with both built-in jobs disabled, the worker does not start."""
    (empty_directory / "millhand.toml").write_text(
        "[heartbeat]\nenabled = false\n[orphans]\nenabled = false\n"
    )

    result = await millhand("worker")

    assert result.code == 2
    assert result.err == (
        "error: a worker must have jobs to work, got none; enable [heartbeat] or [orphans], or name a MODULE:CONFIG\n"
    )


async def test_worker_shows_settings_with_their_origin(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    `--show-config` prints the settings with their origin, starts nothing and shows no password.

    What the code left at its default is a default.
    """
    (empty_directory / "shop.py").write_text(
        WORKER_MODULE.replace("queues={", "fetch_cooldown=timedelta(0, 0, 5_000), queues={")
    )
    (empty_directory / "millhand.toml").write_text("[worker]\nmax_attempts = 3\n")
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann:sesame@nowhere/shop")

    result = await millhand("worker", "shop:make", "--show-config", "--queue", "mail:5")

    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert result.code == 0
    assert lines[0] == "# DATABASE_URL: postgresql://ann:***@nowhere/shop"
    assert "queues = { mail = 5 } # --queue" in lines
    assert "max_attempts = 3 # millhand.toml" in lines
    assert 'job_timeout = "1m" # default' in lines
    assert 'fetch_cooldown = "5ms" # shop:make' in lines
    assert 'soft_stop_timeout = "8s" # default' in lines


async def test_worker_shows_the_built_in_jobs_that_will_run(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`enabled` is true exactly if the job runs, and its origin says why; the interval is that of the code or the file."""
    monkeypatch.setenv("MILLHAND_DATABASE_EMBEDDED", "true")
    quiet = WORKER_MODULE.replace("queues={", "heartbeat_interval=None, queues={")
    (empty_directory / "quiet.py").write_text(quiet)
    (empty_directory / "millhand.toml").touch()

    async def shown(*arguments: str, file: str = "") -> list[str]:
        (empty_directory / "millhand.toml").write_text(file)
        result = await millhand("worker", *arguments, "--show-config")
        lines = [" ".join(line.split()) for line in result.out.partition("[otel]")[0].splitlines()]
        return [line for line in lines if line.startswith("enabled = ")]

    on, off = "enabled = true # ", "enabled = false # "
    no_orphans, enabled = f"{off}no setting in [orphans]", "[heartbeat]\nenabled = true\n"
    assert await shown() == [f"{on}default"] * 2
    assert await shown("--until-empty") == [f"{off}--until-empty", f"{on}default"]
    assert await shown("shop:config") == [f"{on}default", no_orphans]
    assert await shown("shop:config", "--until-empty") == [f"{off}--until-empty", no_orphans]
    assert await shown("quiet:config") == [f"{off}quiet:config", no_orphans]
    assert await shown("quiet:config", "--until-empty", file=enabled) == [f"{on}millhand.toml", no_orphans]
    assert await shown("shop:config", file="[orphans]\nmode = 'report'") == [f"{on}default", f"{on}default"]


async def test_worker_refuses_a_kind_that_is_built_in_twice(empty_directory: Path) -> None:
    """A user's kind `heartbeat` beside the built-in job is an error with a remedy."""
    (empty_directory / "shop.py").write_text(WORKER_MODULE.replace('kind="noop"', 'kind="heartbeat"'))

    result = await millhand("worker", "shop:config")

    assert result.code == 2
    assert result.err == (
        "error: kind 'heartbeat' must be registered once, got it in shop:config and as the built-in job; "
        "rename yours, or set enabled = false in [heartbeat]\n"
    )


def test_built_in_kinds_match_their_args() -> None:
    """The kinds that the command knows without importing the jobs are those of their args."""
    kinds = [kind for kinds in BUILT_INS.values() for kind in kinds]
    assert [args_of(kind).kind for kind in kinds] == kinds


async def test_worker_names_the_setting_of_a_directory_that_it_cannot_make(project: Path) -> None:
    """Without a store in the settings and a writable directory, the error has the setting and both remedies."""
    (project / ".millhand").write_text("")  # in the way, as a read-only file system is

    text = await millhand("worker")
    as_json = await millhand("worker", "--log-format", "json")

    message = (
        "[storage] storage url must name a directory that this process can make, got 'file:.millhand/objects' and "
        "'Not a directory'; make it, or name another one, or set enabled = false in [orphans]"
    )
    assert (text.code, text.err) == (2, f"error: {message}\n")
    logged = json.loads(as_json.out.splitlines()[-1])
    assert (as_json.code, as_json.err, logged["error"]) == (2, "", message)
