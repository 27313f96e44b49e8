"""Values of River's conformance suite that need no database."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from millhand.core.args.go_json import compact_object
from millhand.core.crontab import parse_cron
from millhand.core.errors import ConfigError, InvalidJob
from millhand.core.job import AttemptError, JobState
from millhand.core.retry import DELAY_MAX, retry_delay
from millhand.core.step import CURSOR_KEY, STEP_KEY
from millhand.core.transition import num_snoozes
from millhand.core.unique import UniqueOpts, states_mask, unique_key, unique_text
from millhand.db.schema.migrator import migrations
from millhand.engine.store.job_row import encode_error, parse_error
from millhand.engine.store.periodic_job import PERIODIC_KEY
from river_suite import upstream, upstream_args

MAINTENANCE = upstream("maintenance_values")
PROTOCOL = upstream("protocol_values")
UNIQUE = upstream("unique_keys")
UNIQUE_CASES = [*UNIQUE["cases"], *UNIQUE["typed_only_cases"]]
ARGS = upstream_args()
# jsonb cannot store U+0000, so Millhand rejects these args before their key is needed.
NOT_STORABLE = {"typed_escaping"}


def by_name(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize("case", by_name(MAINTENANCE["cron_cases"]))
def test_cron_finds_the_instants_of_the_suite(case: dict[str, Any]) -> None:
    """cron_schedule_goldens; every expression of the suite gives its next five instants, or none."""
    at: datetime | None = datetime.fromisoformat(case["from"])
    zone = None if "TZ=" in case["expression"] else at and at.tzinfo
    schedule = parse_cron(case["expression"], zone)
    found = []
    while at is not None and len(found) < 5:
        at = schedule.next(at)
        found.append(at)

    assert [one for one in found if one] == [datetime.fromisoformat(text) for text in case["next"]]


@pytest.mark.parametrize("expression", MAINTENANCE["cron_invalid"])
def test_cron_refuses_the_expressions_that_the_suite_refuses(expression: str) -> None:
    """cron_schedule_goldens; every invalid expression of the suite raises."""
    with pytest.raises(ConfigError):
        parse_cron(expression)


@pytest.mark.parametrize("case", by_name(MAINTENANCE["snooze_counters"]))
def test_snooze_counts_on_from_the_values_of_the_suite(case: dict[str, Any]) -> None:
    """Whatever value of `snoozes` a job has, the next snooze writes the number that River writes."""
    assert num_snoozes(case["metadata"]) + 1 == case["expected_snoozes"]


@pytest.mark.parametrize("case", by_name(UNIQUE_CASES))
def test_unique_key_is_that_of_the_suite(case: dict[str, Any]) -> None:
    """unique_hash_goldens; every case of the suite has its key and its mask of states."""
    asked = case["options"]
    paths = case["selected_unique_paths"]
    opts = UniqueOpts(
        by_args=[tuple(path.split(".")) for path in paths] if paths else asked["by_args"],
        by_period=timedelta(microseconds=asked["by_period_nanos"] // 1000) or None,
        by_queue=asked["by_queue"],
        by_state=asked.get("by_state"),
        exclude_kind=asked["exclude_kind"],
    )
    text = ARGS[case["name"]]
    is_storable = case["name"] not in NOT_STORABLE

    key = unique_key(
        unique_text(
            opts,
            kind=case["kind"],
            encoded_args=compact_object(text, "args")
            if is_storable
            else msgspec.json.format(text, indent=-1),
            queue=case["queue"],
            scheduled_at=datetime.fromisoformat(case["scheduled_at"] or case["now"]),
        )
    )

    assert (key.hex(), states_mask(opts.states)) == (case["expected_sha256"], case["expected_state_mask"])


@pytest.mark.parametrize("name", sorted(NOT_STORABLE))
def test_args_of_the_suite_with_a_null_character_are_refused(name: str) -> None:
    """Args that PostgreSQL cannot store have River's key, and are refused before an insert."""
    with pytest.raises(InvalidJob, match=r"must not hold the character U\+0000"):
        compact_object(ARGS[name], "args")


def test_job_states_have_the_bits_of_the_suite() -> None:
    """Millhand has the states of the suite, in order, each with its bit."""
    assert [{"state": state.value, "unique_bit": states_mask([state])} for state in JobState] == (
        PROTOCOL["job_states"]
    )


def test_keys_of_metadata_are_those_of_the_suite() -> None:
    """Steps and periodic jobs use River's keys. Other tests of this folder read the keys that statements write."""
    keys = PROTOCOL["metadata_keys"]

    assert (keys["resumable_step"], keys["resumable_cursor"]) == (STEP_KEY, CURSOR_KEY)
    assert keys["periodic_job_id"] == PERIODIC_KEY


def test_attempt_error_is_read_and_written_as_in_the_suite() -> None:
    """The suite's error is read whole, and written with the same keys and values; only zeros follow its fraction."""
    recorded = PROTOCOL["attempt_error"]

    error = parse_error(msgspec.json.encode(recorded).decode())

    assert error == AttemptError(
        datetime.fromisoformat(recorded["at"]), recorded["attempt"], recorded["error"], recorded["trace"]
    )
    written = msgspec.json.decode(encode_error(error))
    assert written == recorded | {"at": recorded["at"].replace(".6789Z", ".678900Z")}


@pytest.mark.parametrize("case", PROTOCOL["retry_cases"], ids=lambda case: f"failure {case['error_count']}")
def test_retry_delay_of_the_suite_is_possible(case: dict[str, Any]) -> None:
    """deterministic_retry_clock_rng; the suite's delay lies within Millhand's bounds, and the longest one is equal.

    The suite does not specify how a seed becomes a jitter, so the delays between the bounds are not compared.
    """
    expected = timedelta(microseconds=case["expected_delay_ns"] // 1000)
    shortest, longest = (retry_delay(case["error_count"], jitter) for jitter in (0.0, 1.0))

    assert shortest <= expected <= longest
    assert (shortest == DELAY_MAX) == (case["error_count"] == 310)


def test_migrations_have_the_versions_and_names_of_the_suite() -> None:
    """Line main has a migration, up and down, for each pair of files of the suite, with its version and name."""
    files = sorted(file["path"].rpartition("/")[2] for file in upstream("migrations")["files"])

    ours = [f"{one.version:03}_{one.name.replace(' ', '_')}" for one in migrations()]

    assert [f"{name}.{direction}.sql" for name in ours for direction in ("down", "up")] == files
