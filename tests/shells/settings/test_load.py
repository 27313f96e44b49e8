"""Claims about settings: their origins, their precedence and their errors."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from millhand.core.archive import Archive
from millhand.core.config import Config, QueueConfig
from millhand.core.errors import ConfigError
from millhand.core.orphans import Mode, OrphansConfig, ReferenceSource
from millhand.core.worker import NO_TIMEOUT
from millhand.shells.settings.load import Settings, load_settings, shown_settings

URL_IN_FILE = (
    "must not have a database URL, because it may contain a password; set DATABASE_URL in the environment"
)


def load(
    directory: Path,
    text: str = "",
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, tuple[str, str]] | None = None,
    *,
    name: str = "millhand.toml",
) -> Settings:
    if text:
        (directory / name).write_text(text, encoding="utf-8")
    return load_settings(directory=directory, environment=environment or {}, flags=flags)


def test_settings_without_a_file_are_the_defaults(tmp_path: Path) -> None:
    """Without settings a worker works the queue default and stores objects in the working directory."""
    settings = load(tmp_path)

    assert (
        settings.config()
        == Config(
            queues={"default": QueueConfig(max_workers=100)},
            soft_stop_timeout=timedelta(seconds=8),
            clock=settings.config().clock,
            retry_policy=settings.config().retry_policy,
            workers=settings.config().workers,
        )
        or dataclasses.asdict
    )  # compared field by field below, because objects differ
    assert settings.get("heartbeat.interval") == timedelta(seconds=60)
    assert settings.get("storage.url") == "file:.millhand/objects"
    assert settings.orphans_config() == OrphansConfig()
    assert settings.database_url is None


def test_settings_ignore_variables_that_kubernetes_sets_for_services(tmp_path: Path) -> None:
    """A Service named `millhand` or `millhand-…` adds variables to each pod of its namespace, and none is a setting."""
    named = (("", 80, "tcp"), ("_WEB", 80, "tcp"), ("_DNS", 53, "udp"), ("_SS7", 7, "sctp"))
    services = {
        f"MILLHAND{name}_{part}": text
        for name, port, protocol in named
        for part, text in (
            ("SERVICE_HOST", "10.0.0.9"),
            ("SERVICE_PORT", str(port)),
            ("SERVICE_PORT_HTTP", str(port)),
            ("PORT", f"{protocol}://10.0.0.9:{port}"),
            (f"PORT_{port}_{protocol.upper()}", f"{protocol}://10.0.0.9:{port}"),
            (f"PORT_{port}_{protocol.upper()}_ADDR", "10.0.0.9"),
            (f"PORT_{port}_{protocol.upper()}_PORT", str(port)),
            (f"PORT_{port}_{protocol.upper()}_PROTO", protocol),
        )
    }

    assert dict(load(tmp_path, environment=services).given) == {}
    assert load(tmp_path, environment={"MILLHAND_WEB_PORT": "8441"}).get("web.port") == 8441


def test_settings_of_a_file_have_their_types(tmp_path: Path) -> None:
    """Every section of millhand.toml is decoded, with durations, modes, queues and sources."""
    settings = load(
        tmp_path,
        """
        [database]
        schema = "engine"
        [worker]
        queues = { default = 20, mail = { max_workers = 5, fetch_poll_interval = "2s" } }
        job_timeout = "none"
        soft_stop_timeout = "none"
        max_attempts = 3
        [heartbeat]
        interval = "1s"
        [orphans]
        mode = "delete"
        grace = "2h"
        [[orphans.sources]]
        name = "uploads"
        table = "uploads"
        [storage]
        url = "s3://bucket"
        [log]
        level = "debug"
        """,
    )
    config = settings.config()

    assert (config.schema, config.job_timeout, config.soft_stop_timeout) == ("engine", NO_TIMEOUT, None)
    assert config.max_attempts == 3
    assert config.queues == {
        "default": QueueConfig(max_workers=20),
        "mail": QueueConfig(max_workers=5, fetch_poll_interval=timedelta(seconds=2)),
    }
    assert settings.get("heartbeat.interval") == timedelta(seconds=1)
    assert settings.orphans_config() == OrphansConfig(
        mode=Mode.DELETE,
        grace=timedelta(hours=2),
        sources=(ReferenceSource(name="uploads", table="uploads"),),
    )
    assert (settings.get("storage.url"), settings.get("log.level")) == ("s3://bucket", "debug")


def test_settings_may_stand_in_pyproject(tmp_path: Path) -> None:
    """`[tool.millhand]` of pyproject.toml works too, and errors name it."""
    assert (
        load(tmp_path, "[tool.millhand.log]\nlevel = 'error'\n", name="pyproject.toml").get("log.level")
        == "error"
    )

    with pytest.raises(ConfigError) as refused:
        load(tmp_path, "[tool.millhand.log]\nlevel = 1\n", name="pyproject.toml")

    assert str(refused.value) == (
        "pyproject.toml, [tool.millhand]: [log] level must be one of 'debug', 'info', 'warning', 'error', got 1"
    )


def test_settings_have_a_precedence(tmp_path: Path) -> None:
    """A flag overrides the environment, the environment the file, the file code; each value knows its origin."""
    settings = load(
        tmp_path,
        '[worker]\nmax_attempts = 2\nmax_threads = 2\njob_timeout = "2s"',
        {"MILLHAND_WORKER_MAX_ATTEMPTS": "3", "MILLHAND_WORKER_MAX_THREADS": "3"},
        {"worker.max_attempts": ("--max-attempts", "4")},
    ).with_config(
        Config(max_attempts=1, max_threads=1, job_timeout=timedelta(seconds=1), client_id="me"), "shop:config"
    )

    found = {
        key: (settings.get(f"worker.{key}"), settings.origin(f"worker.{key}"))
        for key in ("max_attempts", "max_threads", "job_timeout", "client_id")
    }

    assert found == {
        "max_attempts": (4, "--max-attempts"),
        "max_threads": (3, "MILLHAND_WORKER_MAX_THREADS"),
        "job_timeout": (timedelta(seconds=2), "millhand.toml"),
        "client_id": ("me", "shop:config"),
    }


def test_settings_keep_the_values_of_code(tmp_path: Path) -> None:
    """A `Config` in code passes through unchanged, except for a stop without a limit and for what `[log]` sets."""
    config = Config(
        queues={"mail": 3}, fetch_cooldown=timedelta(milliseconds=7), job_timeout=NO_TIMEOUT, schema="engine"
    )

    actual = load(tmp_path).with_config(config, "shop:config").config(config)

    expected = dataclasses.replace(
        config,
        log_completed_jobs=True,
        queues={"mail": QueueConfig(max_workers=3)},
        soft_stop_timeout=timedelta(seconds=8),
    )
    assert actual == expected
    (tmp_path / "millhand.toml").write_text("[log]\ncompleted_jobs = false\n")
    assert load(tmp_path).with_config(config, "shop:config").config(config).log_completed_jobs is False


# The settings that a Config has: the fields of a Config whose value is no default of the setting, the effective value,
# and another value as millhand.toml has it, with its meaning.
IN_CODE: list[tuple[str, dict[str, object], object, str, object]] = [
    ("database.schema", {"schema": "engine"}, "engine", '"other"', "other"),
    (
        "worker.queues",
        {"queues": {"mail": 3}},
        {"mail": QueueConfig(max_workers=3)},
        "{ sms = 4 }",
        {"sms": QueueConfig(max_workers=4)},
    ),
    *(
        (f"worker.{key}", {key: timedelta(seconds=77)}, timedelta(seconds=77), '"78s"', timedelta(seconds=78))
        for key in (
            "job_timeout",
            "soft_stop_timeout",
            "fetch_poll_interval",
            "client_heartbeat_interval",
            "job_stuck_threshold",
            "completed_job_retention",
            "cancelled_job_retention",
            "discarded_job_retention",
            "dead_job_retention",
            "reindexer_timeout",
        )
    ),
    (
        "worker.fetch_cooldown",
        {"fetch_cooldown": timedelta(seconds=77), "fetch_poll_interval": timedelta(seconds=90)},
        timedelta(seconds=77),
        '"78s"',
        timedelta(seconds=78),
    ),
    (
        "worker.rescue_stuck_jobs_after",
        {"rescue_stuck_jobs_after": timedelta(hours=7)},
        timedelta(hours=7),
        '"8h"',
        timedelta(hours=8),
    ),
    *((f"worker.{key}", {key: 77}, 77, "78", 78) for key in ("max_attempts", "max_threads")),
    *(
        (f"worker.{key}", {key: False}, False, "true", True)
        for key in ("fetch_only_known_kinds", "leader_election", "prefer_other_leaders", "keep_completed")
    ),
    *(
        (f"worker.{key}", {key: True}, True, "false", False)
        for key in ("poll_only", "skip_unknown_job_check")
    ),
    ("worker.client_id", {"client_id": "me"}, "me", '"you"', "you"),
    (
        "worker.reindexer_index_names",
        {"reindexer_index_names": ["river_job_kind"]},
        ("river_job_kind",),
        '["river_job_pkey"]',
        ("river_job_pkey",),
    ),
    ("heartbeat.enabled", {"heartbeat_interval": None}, False, "true", True),
    (
        "heartbeat.interval",
        {"heartbeat_interval": timedelta(seconds=77)},
        timedelta(seconds=77),
        '"78s"',
        timedelta(seconds=78),
    ),
    ("archive.url", {"archive": Archive(url="file:/a")}, "file:/a", '"file:/b"', "file:/b"),
    ("archive.format", {"archive": Archive(url="file:/a", format="jsonl")}, "jsonl", '"parquet"', "parquet"),
    *(
        (
            f"archive.{key}",
            {"archive": Archive(url="file:/a", **{key: timedelta(days=77)})},
            timedelta(days=77),
            '"78d"',
            timedelta(days=78),
        )
        for key in ("every", "keep", "max_delay")
    ),
    ("log.completed_jobs", {"log_completed_jobs": False}, False, "true", True),
]
# What a Config does not have.
NOT_IN_CODE = {"database.pool_size", "database.embedded"}
SECTIONS_IN_CODE = {"database", "worker", "heartbeat", "archive", "log"}


@pytest.mark.slow
def test_a_default_replaces_no_value_of_code(tmp_path: Path) -> None:
    """Each setting that a `Config` has takes its explicit value and origin, and a file overrides it."""
    known = load(tmp_path).known
    own = {path for path, each in known.items() if each.section in SECTIONS_IN_CODE} - NOT_IN_CODE
    assert {case[0] for case in IN_CODE} == own - {"log.format", "log.level", "log.schema"}

    for path, fields, value, text, file_value in IN_CODE:
        config = Config(**fields)  # type: ignore[arg-type]
        settings = Settings(known=known).with_config(config, "shop:config")
        assert (settings.get(path), settings.origin(path)) == (value, "shop:config"), path
        assert value != known[path].default, path
        effective = settings.config(config)
        expected = {name: value if name == "queues" else each for name, each in fields.items()}
        assert {name: getattr(effective, name) for name in fields} == {
            name: tuple(each) if isinstance(each, list) else each for name, each in expected.items()
        }, path
        section, _, key = path.partition(".")
        filed = load(tmp_path, f"[{section}]\n{key} = {text}").with_config(config, "shop:config")
        assert (filed.get(path), filed.origin(path)) == (file_value, "millhand.toml"), path


def test_settings_ignore_empty_and_other_variables(tmp_path: Path) -> None:
    """An empty variable of a setting counts as unset, and Millhand's variables that are no settings are ignored."""
    environment = {
        "MILLHAND_LOG_LEVEL": "",
        "MILLHAND_POSTGRES_BIN": "/usr/lib/postgresql/18/bin",
        "MILLHAND_TEST_DATABASE_URL": "postgresql://x",
        "HOME": "/root",
    }

    settings = load(tmp_path, environment=environment)

    assert dict(settings.given) == {}
    assert settings.database_url is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[worker",
            "millhand.toml must be TOML, got: Expected ']' at the end of a table declaration (at end of document)",
        ),
        ("[wroker]", "millhand.toml has no section 'wroker'; did you mean 'worker'?"),
        ("database_url = 'postgresql://ann:sesame@db/shop'", f"millhand.toml {URL_IN_FILE}"),
        ("DATABASE_URL = 'postgresql://ann:sesame@db/shop'", f"millhand.toml {URL_IN_FILE}"),
        ("[database]\ndatabase_url = 'postgresql://db/shop'", f"millhand.toml: [database] {URL_IN_FILE}"),
        ("worker = 3", "millhand.toml: [worker] must be a table, got 3; write a line [worker]"),
        (
            "log = 'pg://ann:ses ame@db'",
            "millhand.toml: [log] must be a table, got 'pg://ann:***@db'; write a line [log]",
        ),
        (
            "[worker]\nfetch_colldown = '1s'",
            "millhand.toml: [worker] has no setting 'fetch_colldown'; did you mean 'fetch_cooldown'?",
        ),
        (
            "[worker]\nmax_attempts = '3'",
            "millhand.toml: [worker] max_attempts must be a whole number, got '3'",
        ),
        (
            "[worker]\nmax_attempts = 0",
            "millhand.toml: [worker] max_attempts must be between 1 and 32,767, got 0",
        ),
        (
            "[worker]\nfetch_cooldown = '5s'",
            (
                "millhand.toml: [worker] fetch_poll_interval must not be shorter than fetch_cooldown, "
                "'5s', got '1s'"
            ),
        ),
        (
            "[worker]\nfetch_cooldown = '0.5ms'",
            "millhand.toml: [worker] fetch_cooldown must be at least 1 ms, got '0.5ms'",
        ),
        (
            "[worker]\nfetch_poll_interval = 0",
            "millhand.toml: [worker] fetch_poll_interval must not be shorter than fetch_cooldown, '1ms', got '0s'",
        ),
        (
            "[worker]\nclient_id = 'a\\u0000'".replace("'", '"'),
            "millhand.toml: [worker] client_id must be printable, got 'a\\x00'",
        ),
        (
            "[worker]\nreindexer_index_names = ['a b']",
            (
                "millhand.toml: [worker] reindexer_index_names must be at most 63 of the characters a-z, A-Z, 0-9 "
                "and _, with no digit first, got 'a b'"
            ),
        ),
        (
            "[database]\nschema = 'a-b'",
            (
                "millhand.toml: [database] schema must be letters, digits and underscores, not begin with a digit, "
                "and be at most 46 bytes long, got 'a-b'; rename the schema"
            ),
        ),
        (
            "[worker.queues]\nmail = 0",
            "millhand.toml: [worker] queues.mail: max_workers must be between 1 and 10,000, got 0",
        ),
        (
            "[worker.queues.mail]\nmax_workers = 1\n[worker.queues.mail.limit]\nby_args = ['tenant_id']",
            (
                "millhand.toml: [worker] queues.mail.limit: limit must have at_once, at_once_per_client, total, rate "
                "or in_order, got none; write at_once = 1"
            ),
        ),
        ("[database]\nurl = 'postgresql://a:sesame@b/c'", f"millhand.toml: [database] {URL_IN_FILE}"),
        (
            "[orphans]\nmode = 'delte'",
            (
                "millhand.toml: [orphans] mode must be one of 'report', 'quarantine', 'delete', got 'delte'; "
                "did you mean 'delete'?"
            ),
        ),
        (
            "[orphans]\ngrace = '5m'",
            (
                "millhand.toml: [orphans] grace must be at least 1 hour, got '5m'; "
                "for a demo, set orphans.allow_short_grace = true"
            ),
        ),
        (
            "[[orphans.sources]]\ntable = 'uploads'",
            "millhand.toml: [orphans] sources[0] must have a 'name', got none",
        ),
        (
            "[[orphans.sources]]\nname = 'u'\ntabel = 'uploads'",
            "millhand.toml: [orphans] sources[0] has no setting 'tabel'; did you mean 'table'?",
        ),
        (
            "[log]\nformat = 'xml'",
            "millhand.toml: [log] format must be one of 'auto', 'text', 'json', got 'xml'",
        ),
    ],
)
def test_settings_refuse_a_wrong_file(tmp_path: Path, text: str, message: str) -> None:
    """An error in millhand.toml has file, key, rule, value and remedy."""

    def read() -> None:
        settings = load(tmp_path, text)
        settings.config()
        settings.orphans_config()

    with pytest.raises(ConfigError) as refused:
        read()

    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"MILLHAND_WORKER_QUEUE": "mail:5"},
            "the environment has no setting 'MILLHAND_WORKER_QUEUE'; did you mean 'MILLHAND_WORKER_QUEUES'?",
        ),
        (
            {"MILLHAND_WEB_PORTS": "tcp://10.0.0.9:80"},
            "the environment has no setting 'MILLHAND_WEB_PORTS'; did you mean 'MILLHAND_WEB_PORT'?",
        ),
        ({"MILLHAND_WEB_PORT": "http"}, "MILLHAND_WEB_PORT must be a whole number, got 'http'"),
        (
            {"MILLHAND_HEARTBEAT_INTERVAL": "soon"},
            (
                "MILLHAND_HEARTBEAT_INTERVAL must be a duration such as '500ms', '30s', '5m', '1h30m' or '7d', "
                "or a number of seconds, got 'soon'"
            ),
        ),
        (
            {"MILLHAND_WORKER_FETCH_COOLDOWN": "5s"},
            (
                "MILLHAND_WORKER_FETCH_COOLDOWN: fetch_poll_interval must not be shorter than fetch_cooldown, "
                "'5s', got '1s'"
            ),
        ),
        (
            {"DATABASE_URL": "mysql://ann:sesame@db/shop"},
            (
                "DATABASE_URL must begin with 'postgresql://', 'postgresql+psycopg://' or 'postgresql+asyncpg://', "
                "got 'mysql://ann:***@db/shop'"
            ),
        ),
        (
            {"DATABASE_URL": "postgresql+psycopg2://ann:sesame@db/shop"},
            (
                "DATABASE_URL must begin with 'postgresql://', 'postgresql+psycopg://' or 'postgresql+asyncpg://', "
                "got 'postgresql+psycopg2://ann:***@db/shop'; write postgresql://"
            ),
        ),
        (
            {"DATABASE_URL": "postgresql://ann:sesame@[::1/shop"},
            (
                "DATABASE_URL must be like 'postgresql://user@host:5432/name', got 'postgresql://ann:***@[::1/shop'; "
                "write an IPv6 address in []"
            ),
        ),
        (
            {"DATABASE_URL": "shop"},
            (
                "DATABASE_URL must begin with 'postgresql://', 'postgresql+psycopg://' or 'postgresql+asyncpg://', "
                "got 'shop'"
            ),
        ),
    ],
)
def test_settings_refuse_a_wrong_environment(
    tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    """An error in the environment names the variable and shows no password."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, environment=environment).config()

    assert str(refused.value) == message


def test_settings_refuse_two_files(tmp_path: Path) -> None:
    """Settings in both files are an error."""
    (tmp_path / "pyproject.toml").write_text("[tool.millhand.log]\nlevel = 'info'\n")

    with pytest.raises(ConfigError) as refused:
        load(tmp_path, "[log]\nlevel = 'info'\n")

    assert str(refused.value) == (
        "settings must be in one file, got millhand.toml and [tool.millhand] of pyproject.toml; remove one"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tool = 3", "pyproject.toml: [tool] must be a table, got 3; write [tool.millhand]"),
        ("[tool]\nmillhand = 3", "pyproject.toml: [millhand] must be a table, got 3; write [tool.millhand]"),
    ],
)
def test_settings_refuse_a_pyproject_of_another_shape(tmp_path: Path, text: str, message: str) -> None:
    """In pyproject.toml a `millhand` that is no table is an error."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text, name="pyproject.toml")

    assert str(refused.value) == message


def test_settings_refuse_a_directory_for_a_file(tmp_path: Path) -> None:
    """A directory named millhand.toml is an error, not a missing file."""
    (tmp_path / "millhand.toml").mkdir()

    with pytest.raises(ConfigError) as refused:
        load(tmp_path)

    assert str(refused.value) == "millhand.toml must be a readable file, got: Is a directory"


@pytest.mark.parametrize("name", ["millhand.toml", "pyproject.toml", "other.toml"])
def test_settings_refuse_a_pipe_to_which_no_program_writes(tmp_path: Path, name: str) -> None:
    """A named pipe without a writer is an error, also as the file of `--config`, and is not waited for."""
    os.mkfifo(tmp_path / name)

    with pytest.raises(ConfigError) as refused:
        load_settings(tmp_path / name if name == "other.toml" else None, directory=tmp_path, environment={})

    assert str(refused.value).endswith(
        f"{name} must be a regular file, got a pipe to which no program writes"
    )


def test_settings_are_read_from_a_pipe(tmp_path: Path) -> None:
    """`--config <(…)` reads all that the program writes, although a pipe holds only a part of it at a time."""
    ours, its = os.pipe()

    def write() -> None:
        with os.fdopen(its, "wb") as file:
            file.write(b"# " + b"x" * 100_000 + b"\n[log]\nlevel = 'error'\n")

    writer = threading.Thread(target=write)
    writer.start()

    settings = load_settings(Path(f"/dev/fd/{ours}"), directory=tmp_path, environment={})

    writer.join()
    os.close(ours)
    assert settings.get("log.level") == "error"


def test_settings_refuse_a_device(tmp_path: Path) -> None:
    """A device that never ends is an error; /dev/null is a file without settings."""
    with pytest.raises(ConfigError) as refused:
        load_settings(Path("/dev/zero"), directory=tmp_path, environment={})

    assert str(refused.value) == (
        "/dev/zero must be a regular file, got a device; write the settings to a file"
    )
    assert load_settings(Path(os.devnull), directory=tmp_path, environment={}).given == {}


def test_settings_refuse_a_working_directory_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deleted working directory is an error."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with pytest.raises(ConfigError) as refused:
        load_settings(environment={})

    assert str(refused.value) == (
        "the working directory must exist, got: No such file or directory; change to another"
    )


def test_settings_are_read_from_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    """A byte order mark at the start of the file is skipped."""
    assert load(tmp_path, "\ufeff[log]\nlevel = 'error'\n").get("log.level") == "error"


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5_000], ids=["too deep", "too long a number"])
def test_settings_refuse_a_file_that_cannot_be_read_to_its_end(tmp_path: Path, value: str) -> None:
    """Nesting that Python's TOML parser cannot read is an error like invalid TOML."""
    with pytest.raises(ConfigError, match=r"millhand\.toml must be TOML, got: "):
        load(tmp_path, f"a = {value}")


def test_settings_refuse_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file of `--config` is an error."""
    with pytest.raises(ConfigError) as refused:
        load_settings(Path("nowhere.toml"), directory=tmp_path, environment={})

    assert str(refused.value) == "nowhere.toml must be a readable file, got: No such file or directory"


def test_shown_settings_can_be_read_again(tmp_path: Path) -> None:
    """The shown settings are TOML that gives the same settings again, without passwords."""
    settings = load(
        tmp_path,
        """
        [worker]
        job_timeout = "none"
        [worker.queues]
        mail = { max_workers = 5, fetch_poll_interval = "2s" }
        texts = { max_workers = 5, keep_completed = false }
        [worker.queues.reports]
        max_workers = 20
        [worker.queues.reports.limit]
        at_once = 3
        by_args = ["tenant_id"]
        rate = { allowed = 100, per = "1m", burst = 10 }
        [orphans]
        exclude = ["tmp/", "a\\"b/", "a\\u001b[31m\\n\\t\\u007f\\u202e/"]
        [[orphans.sources]]
        name = "uploads"
        table = "uploads"
        """,
        {"DATABASE_URL": "postgresql://ann:sesame@db/shop", "MILLHAND_LOG_LEVEL": "debug"},
    )

    lines = list(shown_settings(settings))
    again = load(tmp_path, "\n".join(lines))

    assert lines[0] == "# DATABASE_URL: postgresql://ann:***@db/shop"
    assert not [line for line in lines if not line.isprintable()]
    assert 'level = "debug"                                   # MILLHAND_LOG_LEVEL' in lines
    assert "max_attempts = 25                                 # default" in lines
    assert {path: again.get(path) for path in again.known} == {
        path: settings.get(path) for path in settings.known
    }
