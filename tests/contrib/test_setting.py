"""`MILLHAND` in Django's settings is decoded as strictly as millhand.toml."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import django
import pytest
from django.conf import settings

from millhand import (
    NO_TIMEOUT,
    Archive,
    Config,
    ConfigError,
    ConstantRetryPolicy,
    Hook,
    Limit,
    QueueConfig,
    Rate,
    SecretKeys,
)
from millhand.contrib.django.setting import database_alias, pool_size, project_config, schema_name

LIMIT = Limit(by_args=["tenant_id"], rate=Rate(100, per=timedelta(minutes=1), burst=10))
ARCHIVE = Archive(url="s3://jobs", format="jsonl")
SECRET_KEYS = SecretKeys({"new": b"n" * 32})

# `DATABASE` is an alias of Django's, and the others are in `<app>/jobs.py`.
NO_SETTINGS = {"database", "periodic_jobs", "schedules", "workers"}
SETTINGS = sorted(one.name for one in dataclasses.fields(Config) if one.init and one.name not in NO_SETTINGS)


class Seen(Hook):
    pass


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that sets MILLHAND."""
    if not settings.configured:  # another test may have configured Django
        settings.configure(DATABASES={}, USE_TZ=True)
        django.setup()
    monkeypatch.setattr(settings, "DATABASES", {"default": {}, "jobs": {}}, raising=False)

    def say(**said: object) -> None:
        monkeypatch.setattr(settings, "MILLHAND", said, raising=False)

    return say


def test_settings_are_fields_of_config(say: Any) -> None:
    """Values may be Python objects: durations, queues, None for no limit, objects and their dotted paths."""
    here = __name__
    say(
        DATABASE="jobs",
        SCHEMA="work",
        POOL_SIZE=3,
        QUEUES={
            "default": 5,
            "mail": {"max_workers": 2, "fetch_cooldown": "50ms"},
            "slow": QueueConfig(max_workers=1, limit=LIMIT),
            "slower": {"max_workers": 1, "limit": LIMIT},
        },
        JOB_TIMEOUT=None,
        COMPLETED_JOB_RETENTION=None,
        SOFT_STOP_TIMEOUT=timedelta(minutes=2),
        FETCH_POLL_INTERVAL="2s",
        REINDEXER_INDEX_NAMES=("a", "b"),
        HOOKS=[f"{here}.Seen", Seen()],
        RETRY_POLICY=ConstantRetryPolicy(timedelta(seconds=1)),
        MAX_ATTEMPTS=4,
    )
    config = project_config()

    assert (database_alias(), schema_name(), pool_size()) == ("jobs", "work", 3)
    assert (config.schema, config.job_timeout, config.completed_job_retention) == ("work", NO_TIMEOUT, None)
    assert config.soft_stop_timeout == timedelta(minutes=2)
    assert config.fetch_poll_interval == timedelta(seconds=2)
    assert config.queue_configs["mail"].fetch_cooldown == timedelta(milliseconds=50)
    assert {name: queue.max_workers for name, queue in config.queue_configs.items()} == {
        "default": 5,
        "mail": 2,
        "slow": 1,
        "slower": 1,
    }
    assert [config.queue_configs[name].limit for name in ("mail", "slow", "slower")] == [None, LIMIT, LIMIT]
    assert [type(hook) for hook in config.hooks] == [Seen, Seen]
    assert (config.reindexer_index_names, config.max_attempts) == (("a", "b"), 4)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_field_of_config_is_a_setting(say: Any, name: str) -> None:
    """Each field of `Config` that does not belong into `<app>/jobs.py` has a key, which takes the field's own value."""
    value = getattr(Config(), name)
    say(**{name.upper(): value})

    assert getattr(project_config(), name) == value


def test_secret_keys_archive_and_blob_store_are_settings(say: Any) -> None:
    """The keys and the archive are objects or dotted paths, and the blob store is a URL."""
    here = __name__
    say(SECRET_KEYS=f"{here}.SECRET_KEYS", ARCHIVE=f"{here}.ARCHIVE", BLOB_STORE="s3://blobs")
    by_path = project_config()
    say(SECRET_KEYS=SECRET_KEYS, ARCHIVE=ARCHIVE)
    by_object = project_config()

    assert (by_path.secret_keys, by_path.archive, by_path.blob_store) == (SECRET_KEYS, ARCHIVE, "s3://blobs")
    assert (by_object.secret_keys, by_object.archive) == (SECRET_KEYS, ARCHIVE)


def test_defaults_are_those_of_the_command_line(say: Any) -> None:
    """Without settings a project's worker has the defaults of `millhand worker`."""
    say()
    config = project_config()

    assert {name: queue.max_workers for name, queue in config.queue_configs.items()} == {"default": 100}
    assert config.soft_stop_timeout == timedelta(seconds=8)
    assert config.job_timeout == Config().job_timeout
    assert (database_alias(), schema_name(), pool_size()) == ("default", "", 10)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"QEUES": {}}, "MILLHAND has no setting 'QEUES'; did you mean 'QUEUES'?"),
        ({"queues": {}}, "MILLHAND has no setting 'queues'; known: "),
        (
            {"DATABASE": "other"},
            "MILLHAND['DATABASE'] must be one of DATABASES, 'default', 'jobs', got 'other'",
        ),
        ({"DATABASE": None}, "MILLHAND['DATABASE'] must be a string, got None"),
        ({"MAX_ATTEMPTS": "4"}, "MILLHAND['MAX_ATTEMPTS'] must be a whole number, got '4'"),
        ({"MAX_ATTEMPTS": 0}, "MILLHAND: max_attempts must be between 1 and 32,767, got 0"),
        ({"POOL_SIZE": 0}, "MILLHAND: pool_size must be between 1 and 1,000, got 0"),
        ({"QUEUES": {"a": {"max": 1}}}, "MILLHAND['QUEUES'].a has no setting 'max'; known: "),
        ({"QUEUES": {"A b": 1}}, "MILLHAND: queue must be 1 to 64 lower-case letters and digits"),
        ({"FETCH_COOLDOWN": "soon"}, "MILLHAND['FETCH_COOLDOWN'] must be a duration such as '500ms'"),
        ({"FETCH_COOLDOWN": None}, "MILLHAND['FETCH_COOLDOWN'] must be a duration such as '500ms'"),
        ({"HOOKS": f"{__name__}.Seen"}, "MILLHAND['HOOKS'] must be a list, got "),
        (
            {"HOOKS": ["no.such.Hook"]},
            "MILLHAND['HOOKS'][0] must be an object or the dotted path of one, got ",
        ),
        ({"HOOKS": [3]}, "MILLHAND: hooks must be instances of Hook, got 3"),
        ({"SCHEMA": "a b"}, "MILLHAND: schema must be at most 46 of the characters"),
    ],
)
def test_wrong_values_are_refused(say: Any, said: dict[str, object], words: str) -> None:
    """An error has its place, the rule and the value."""
    say(**said)
    with pytest.raises(ConfigError) as refused:
        project_config()

    assert str(refused.value).startswith(words)


def test_settings_that_are_no_dictionary_are_refused(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """MILLHAND must be a dictionary."""
    monkeypatch.setattr(settings, "MILLHAND", ["QUEUES"], raising=False)
    with pytest.raises(ConfigError) as refused:
        project_config()

    assert str(refused.value) == "MILLHAND must be a dictionary, got ['QUEUES']"
