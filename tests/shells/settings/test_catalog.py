"""Claims about the list of settings."""

from __future__ import annotations

import dataclasses

from millhand.core.config import Config
from millhand.core.limit import Limit, Rate
from millhand.shells.settings.catalog import WORKER_SETTINGS, all_settings
from setting_meanings import LIMIT_MEANINGS, MEANINGS

# Fields that hold objects, which millhand.toml cannot express; and those that stand in another section than [worker].
FOR_CODE_ONLY = {
    "archive",
    "blob_store",
    "clock",
    "database",
    "error_handlers",
    "heartbeat_interval",
    "hooks",
    "job_stuck_handler",
    "log_completed_jobs",
    "middleware",
    "periodic_jobs",
    "queue_configs",
    "reindexer_schedule",
    "retry_policy",
    "schedules",
    "schema",
    "secret_keys",
    "workers",
}


def test_settings_cover_the_configuration() -> None:
    """Every field of `Config` is a setting or listed above as code only."""
    config = {field.name for field in dataclasses.fields(Config)}

    assert config - set(WORKER_SETTINGS) == FOR_CODE_ONLY


def test_every_setting_has_a_meaning() -> None:
    """The reference page explains every setting, and no other name."""
    assert set(MEANINGS) == set(all_settings())


def test_every_field_of_a_limit_has_a_meaning() -> None:
    """The reference page explains every field of a limit and of its rate."""
    fields = [field.name for field in dataclasses.fields(Limit)]
    fields += [f"rate.{field.name}" for field in dataclasses.fields(Rate)]

    assert set(LIMIT_MEANINGS) == set(fields)


def test_settings_have_the_defaults_of_the_configuration() -> None:
    """Only the listed defaults differ from those of `Config`."""
    defaults = {
        setting.key: setting.default for setting in all_settings().values() if setting.section == "worker"
    }
    config = Config()

    differing = {key for key, default in defaults.items() if getattr(config, key) != default}

    assert differing == {"queues", "soft_stop_timeout"}
