from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.clock import SystemClock
from millhand.core.config import Config, QueueConfig, default_client_id
from millhand.core.errors import ConfigError
from millhand.core.hooks import Hook, Middleware
from millhand.core.periodic import PeriodicJob, every
from millhand.core.retry import DefaultRetryPolicy
from millhand.core.worker import NO_TIMEOUT, Workers

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@dataclass(frozen=True)
class Digest:
    kind: ClassVar[str] = "digest"


async def print_nothing() -> None: ...


def test_config_has_these_defaults() -> None:
    """The defaults are promises: a change of one changes this table."""
    config = Config()

    defaults = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in ("clock", "reindexer_schedule", "retry_policy", "workers")
    }
    assert defaults == {
        "archive": None,
        "blob_store": "",
        "cancelled_job_retention": timedelta(hours=24),
        "client_id": None,
        "client_heartbeat_interval": 5 * SECOND,
        "completed_job_retention": timedelta(hours=24),
        "database": "",
        "dead_job_retention": timedelta(days=90),
        "discarded_job_retention": timedelta(days=7),
        "error_handlers": (),
        "fetch_cooldown": timedelta(milliseconds=1),
        "fetch_only_known_kinds": True,
        "fetch_poll_interval": SECOND,
        "heartbeat_interval": timedelta(minutes=1),
        "hooks": (),
        "job_stuck_handler": None,
        "job_stuck_threshold": timedelta(seconds=10),
        "job_timeout": timedelta(seconds=60),
        "keep_completed": True,
        "prefer_other_leaders": True,
        "leader_election": True,
        "log_completed_jobs": None,
        "max_attempts": 25,
        "max_threads": 1000,
        "middleware": (),
        "periodic_jobs": (),
        "poll_only": False,
        "queue_configs": {},
        "queues": {},
        "reindexer_index_names": (
            "river_job_args_index",
            "river_job_kind",
            "river_job_metadata_index",
            "river_job_pkey",
            "river_job_prioritized_fetching_index",
            "river_job_state_and_finalized_at_index",
            "river_job_unique_idx",
        ),
        "reindexer_timeout": timedelta(minutes=1),
        "rescue_stuck_jobs_after": None,
        "schedules": (),
        "schema": "",
        "secret_keys": None,
        "skip_unknown_job_check": False,
        "soft_stop_timeout": None,
    }
    assert isinstance(config.clock, SystemClock)
    assert isinstance(config.retry_policy, DefaultRetryPolicy)
    assert len(config.workers) == 0
    assert config.reindexer_schedule is not None
    assert config.reindexer_schedule.next(datetime(2024, 5, 1, 12, tzinfo=UTC)) == datetime(
        2024, 5, 2, tzinfo=UTC
    )


def test_config_resolves_every_setting_of_a_queue() -> None:
    """A number is the number of workers, and unset settings are the client's."""
    config = Config(
        queues={
            "default": 100,
            "mail": QueueConfig(
                max_workers=1, fetch_cooldown=SECOND, fetch_poll_interval=HOUR, keep_completed=True
            ),
        },
        fetch_cooldown=timedelta(milliseconds=5),
        fetch_poll_interval=timedelta(seconds=2),
        keep_completed=False,
    )

    assert config.queue_configs == {
        "default": QueueConfig(
            max_workers=100,
            fetch_cooldown=timedelta(milliseconds=5),
            fetch_poll_interval=timedelta(seconds=2),
            keep_completed=False,
        ),
        "mail": QueueConfig(
            max_workers=1, fetch_cooldown=SECOND, fetch_poll_interval=HOUR, keep_completed=True
        ),
    }


def test_config_can_be_changed_into_another() -> None:
    """A copy with changes is checked and resolved again."""
    config = dataclasses.replace(Config(queues={"default": 100}), queues={"mail": 1}, fetch_cooldown=SECOND)

    assert config.queue_configs == {
        "mail": QueueConfig(
            max_workers=1, fetch_cooldown=SECOND, fetch_poll_interval=SECOND, keep_completed=True
        )
    }


def test_config_copies_its_lists() -> None:
    """A later change of a list that was passed has no effect."""
    hooks, queues = [Hook()], {"default": 1}
    config = Config(hooks=hooks, queues=queues)

    hooks.clear()
    queues.clear()

    assert (len(config.hooks), list(config.queue_configs), list(config.queues)) == (
        1,
        ["default"],
        ["default"],
    )


@pytest.mark.parametrize(
    ("settings", "after"),
    [
        ({}, HOUR),
        ({"job_timeout": timedelta(minutes=5)}, HOUR + timedelta(minutes=5)),
        ({"job_timeout": NO_TIMEOUT}, HOUR),
        ({"rescue_stuck_jobs_after": timedelta(minutes=2)}, timedelta(minutes=2)),
    ],
)
def test_config_rescues_after_the_timeout(settings: dict[str, Any], after: timedelta) -> None:
    """The default is an hour, or an hour more than a changed timeout."""
    assert Config(**settings).rescue_after == after


DURATIONS = [
    ("cancelled_job_retention", "; None is for never"),
    ("completed_job_retention", "; None is for never"),
    ("dead_job_retention", "; None is for never"),
    ("discarded_job_retention", "; None is for never"),
    ("job_stuck_threshold", ""),
    ("soft_stop_timeout", "; None is for never"),
]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            (
                {name: timedelta(seconds=-1)},
                f"{name} must not be negative, got datetime.timedelta(days=-1, seconds=86399){hint}",
            )
            for name, hint in DURATIONS
        ),
        *(
            (
                {name: timedelta(0)},
                f"{name} must be positive, got datetime.timedelta(0); NO_TIMEOUT is for none",
            )
            for name in ("job_timeout", "reindexer_timeout")
        ),
        (
            {"fetch_cooldown": timedelta(microseconds=999)},
            "fetch_cooldown must be at least 1 ms, got datetime.timedelta(microseconds=999)",
        ),
        (
            {"fetch_cooldown": timedelta(seconds=2)},
            (
                "fetch_poll_interval must not be shorter than fetch_cooldown, datetime.timedelta(seconds=2), "
                "got datetime.timedelta(seconds=1)"
            ),
        ),
        (
            {"queues": {"mail": QueueConfig(max_workers=1, fetch_cooldown=HOUR)}},
            (
                "fetch_poll_interval of queue 'mail' must not be shorter than fetch_cooldown, "
                "datetime.timedelta(seconds=3600), got datetime.timedelta(seconds=1)"
            ),
        ),
        (
            {"queues": {"Mail": 1}},
            "queue must be 1 to 64 lower-case letters and digits, joined by single '_', '-' or '|', got 'Mail'",
        ),
        ({"queues": {"mail": 0}}, "queues['mail']: max_workers must be between 1 and 10,000, got 0"),
        ({"queues": {"mail": 10_001}}, "queues['mail']: max_workers must be between 1 and 10,000, got 10001"),
        ({"queues": {"mail": True}}, "queues['mail']: max_workers must be between 1 and 10,000, got True"),
        ({"queues": {"mail": "1"}}, "queue 'mail' must have a number of workers or a QueueConfig, got '1'"),
        (
            {"rescue_stuck_jobs_after": timedelta(seconds=59)},
            (
                "rescue_stuck_jobs_after must not be shorter than job_timeout, datetime.timedelta(seconds=60), "
                "got datetime.timedelta(seconds=59); or jobs are rescued while they run"
            ),
        ),
        ({"max_attempts": 0}, "max_attempts must be between 1 and 32,767, got 0"),
        ({"max_threads": 0}, "max_threads must be between 1 and 10,000, got 0"),
        ({"client_id": ""}, "client_id must have 1 to 100 bytes, got ''"),
        ({"client_id": "a\0"}, "client_id must be printable, got 'a\\x00'"),
        ({"client_id": "a\udcff"}, "client_id must be printable, got 'a\\udcff'"),
        ({"client_id": "é" * 51}, f"client_id must have 1 to 100 bytes, got {'é' * 51!r}"),
        *(
            (
                {"schema": schema},
                (
                    "schema must be at most 46 of the characters a-z, A-Z, 0-9 and _, with no digit first, "
                    f"got {schema!r}; empty is for the search path"
                ),
            )
            for schema in ("1a", "a-b", "a" * 47, 'a"; --', "a\n")
        ),
        ({"reindexer_index_names": "a"}, "reindexer_index_names must be a list of names, got 'a'"),
        (
            {"reindexer_index_names": ["a-b"]},
            (
                "reindexer_index_names must be at most 63 of the characters a-z, A-Z, 0-9 and _, "
                "with no digit first, got 'a-b'"
            ),
        ),
        ({"job_timeout": 5}, "job_timeout must be a timedelta, got 5; write timedelta(seconds=…)"),
        ({"job_timeout": None}, "job_timeout must be a timedelta, got None; write timedelta(seconds=…)"),
        (
            {"soft_stop_timeout": "1s"},
            "soft_stop_timeout must be a timedelta, got '1s'; write timedelta(seconds=…)",
        ),
        ({"workers": {}}, "workers must be a Workers, got {}"),
        ({"hooks": [Hook]}, f"hooks must be instances of Hook, got {Hook!r}; write Hook()"),
        ({"middleware": ["log"]}, "middleware must be instances of Middleware, got 'log'"),
        (
            {"middleware": [Middleware]},
            f"middleware must be instances of Middleware, got {Middleware!r}; write Middleware()",
        ),
        ({"periodic_jobs": [Digest()]}, "periodic_jobs must be instances of PeriodicJob, got Digest()"),
        (
            {"error_handlers": [print]},
            f"error_handlers must be objects with a method handle_error, got {print!r}",
        ),
        ({"job_stuck_handler": 5}, "job_stuck_handler must be a function, got 5"),
        (
            {"queues": ["mail"]},
            "queues must be a mapping of names to numbers of workers, got ['mail']; write {\"default\": 100}",
        ),
        ({"clock": 5}, "clock must be an object with a method now, got 5"),
        ({"clock": SystemClock}, f"clock must be an object with a method now, got {SystemClock!r}"),
        ({"clock": HOUR}, f"clock must be an object with a method now, got {HOUR!r}"),
        ({"reindexer_schedule": 5}, "reindexer_schedule must be an object with a method next, got 5"),
        (
            {"retry_policy": DefaultRetryPolicy},
            f"retry_policy must be an object with a method next_retry_at, got {DefaultRetryPolicy!r}",
        ),
        (
            {"periodic_jobs": [every(HOUR, Digest())], "leader_election": False},
            (
                "periodic_jobs must be empty when leader_election is False, got 1; "
                "a client that never leads would never insert them"
            ),
        ),
        (
            {"periodic_jobs": [every(HOUR, Digest(), id="digest"), every(HOUR, Digest(), id="digest")]},
            "ids of periodic_jobs must differ, got 'digest' twice",
        ),
    ],
)
def test_config_rejects_invalid_settings(settings: dict[str, Any], message: str) -> None:
    """The error names the field, the rule and the value."""
    with pytest.raises(ConfigError) as refusal:
        Config(**settings)

    assert str(refusal.value) == message


def test_config_takes_two_periodic_jobs_without_ids() -> None:
    """Only ids must differ."""
    assert len(Config(periodic_jobs=[every(HOUR, Digest()), every(HOUR, Digest())]).periodic_jobs) == 2


def test_config_without_queues_cannot_be_started() -> None:
    """A client without queues inserts and does not work."""
    with pytest.raises(ConfigError) as refusal:
        Config().require_startable()

    assert str(refusal.value) == (
        'queues must name at least one queue to be worked, got none; write {"default": 100}'
    )


def test_config_without_workers_cannot_be_started() -> None:
    """Queues without workers are rejected."""
    with pytest.raises(ConfigError) as refusal:
        Config(queues={"default": 1}).require_startable()

    assert str(refusal.value) == (
        "workers must hold at least one worker, got none; register one with @workers.add()"
    )


def test_config_with_queues_and_workers_can_be_started() -> None:
    """Queues and workers are enough."""
    workers = Workers()

    @workers.add()
    def work() -> None: ...

    Config(queues={"default": 1}, workers=workers).require_startable()


PERIODIC: dict[str, tuple[Any, str]] = {
    "args": (
        every(HOUR, Digest()),
        "a periodic job must have a worker, got 'digest' without; did you mean 'digset'?",
    ),
    "args class": (
        every(HOUR, Digest, id="hourly"),
        "periodic job 'hourly' must have a worker, got 'digest' without; did you mean 'digset'?",
    ),
    "no near match": (
        every(HOUR, RawArgs("invoice", "{}"), id="hourly"),
        (
            "periodic job 'hourly' must have a worker, got 'invoice' without; register one with @workers.add(), or set "
            "skip_unknown_job_check=True if other clients work it"
        ),
    ),
}


@pytest.mark.parametrize(("job", "message"), PERIODIC.values(), ids=PERIODIC)
async def test_client_with_a_periodic_job_without_a_worker_does_not_start(
    job: PeriodicJob, message: str
) -> None:
    """The leader could never insert it, so the start is refused, before the client connects."""
    workers = Workers()
    workers.add(kind="digset")(print_nothing)

    with pytest.raises(ConfigError) as refusal:
        await Client(NOWHERE, Config(periodic_jobs=[job], queues={"default": 1}, workers=workers)).start()

    assert str(refusal.value) == f"kind of {message}"


def test_periodic_jobs_of_kinds_that_may_have_workers_are_accepted() -> None:
    """A function's args are unknown until it runs, and `skip_unknown_job_check` allows every kind."""
    Config().require_workers_of([every(HOUR, lambda: Digest())])  # noqa: PLW0108 - no args class
    Config(skip_unknown_job_check=True).require_workers_of([every(HOUR, Digest())])


@pytest.mark.parametrize(
    ("hostname", "client_id"),
    [
        ("vm.example.org", "vm_example_org_2026_11_25T08_57_31_920639"),
        ("h" * 99, "h" * 60 + "_2026_11_25T08_57_31_920639"),
        ("", "unknown_host_2026_11_25T08_57_31_920639"),
    ],
)
def test_default_client_id_is_of_rivers_form(hostname: str, client_id: str) -> None:
    """The id has the host and the start in UTC to the microsecond, and is a valid client id."""
    now = datetime.fromisoformat("2026-11-25T09:57:31.920639+01:00")

    assert default_client_id(hostname, now) == client_id
    assert Config(client_id=client_id).client_id == client_id
