from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from language_values import NOW, insert_params

from millhand.core.args.codec import RawArgs
from millhand.core.errors import InvalidJob
from millhand.core.insert_opts import InsertOpts, InsertParams, queue_name_error
from millhand.core.job import JobState
from millhand.core.unique import UniqueOpts

LATER = NOW + timedelta(hours=1)


@dataclass
class Plain:
    kind: ClassVar[str] = "plain"
    text: str = "a"


@dataclass
class Said:
    kind: ClassVar[str] = "said"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(
        max_attempts=7,
        metadata={"of": "class"},
        priority=3,
        queue="class",
        scheduled_at=LATER,
        tags=["class-tag"],
        unique=UniqueOpts(by_queue=True),
    )


@dataclass
class Asked:
    kind: ClassVar[str] = "asked"
    is_urgent: bool

    def insert_opts(self) -> InsertOpts:
        return InsertOpts(priority=1 if self.is_urgent else 4)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_insert_params_have_rivers_defaults() -> None:
    """Without options, a job is available at the database's time, in the default queue, for 25 attempts."""
    assert insert_params(Plain(), now=NOW) == InsertParams(
        kind="plain",
        encoded_args='{"text":"a"}',
        max_attempts=25,
        encoded_metadata="{}",
        priority=1,
        queue="default",
        state=JobState.AVAILABLE,
        created_at=None,
        scheduled_at=None,
        tags=(),
        unique_key=None,
        unique_states=None,
    )


def test_insert_params_take_the_class_over_the_client() -> None:
    """The args class's options hold where the insert sets none."""
    assert insert_params(Said(), now=NOW, default_max_attempts=3) == InsertParams(
        kind="said",
        encoded_args="{}",
        max_attempts=7,
        encoded_metadata='{"of":"class"}',
        priority=3,
        queue="class",
        state=JobState.SCHEDULED,
        scheduled_at=LATER,
        tags=("class-tag",),
        unique_key=digest("&kind=said&queue=class"),
        unique_states=0xF5,
    )


def test_insert_params_take_the_insert_over_the_class() -> None:
    """The insert's options replace those of the class one by one, without merging."""
    opts = InsertOpts(
        max_attempts=1,
        metadata={"of": "insert"},
        priority=2,
        queue="insert",
        scheduled_at=LATER + timedelta(hours=1),
        tags=["insert-tag"],
        unique=UniqueOpts(by_period=timedelta(hours=1)),
    )

    assert insert_params(Said(), opts, now=NOW) == InsertParams(
        kind="said",
        encoded_args="{}",
        max_attempts=1,
        encoded_metadata='{"of":"insert"}',
        priority=2,
        queue="insert",
        state=JobState.SCHEDULED,
        scheduled_at=LATER + timedelta(hours=1),
        tags=("insert-tag",),
        unique_key=digest("&kind=said&period=2024-05-01T12:00:00Z"),
        unique_states=0xF5,
    )


def test_insert_params_can_reset_options_of_the_class() -> None:
    """An insert can set no tags, no metadata, and not unique."""
    params = insert_params(Said(), InsertOpts(metadata={}, tags=[], unique=UniqueOpts()), now=NOW)

    assert (params.tags, params.encoded_metadata, params.unique_key, params.unique_states) == (
        (),
        "{}",
        None,
        None,
    )


@pytest.mark.parametrize(("is_urgent", "priority"), [(True, 1), (False, 4)])
def test_insert_params_call_a_method_of_the_class(is_urgent: bool, priority: int) -> None:
    """Options may depend on the args."""
    assert insert_params(Asked(is_urgent), now=NOW).priority == priority


def test_insert_params_take_the_clients_number_of_attempts() -> None:
    """The client's default holds where neither insert nor class sets one."""
    assert insert_params(Plain(), now=NOW, default_max_attempts=3).max_attempts == 3


@pytest.mark.parametrize(
    ("opts", "state"),
    [
        (InsertOpts(), JobState.AVAILABLE),
        (InsertOpts(scheduled_at=LATER), JobState.SCHEDULED),
        (InsertOpts(scheduled_at=NOW - timedelta(days=1)), JobState.SCHEDULED),
        (InsertOpts(pending=True), JobState.PENDING),
        (InsertOpts(pending=True, scheduled_at=LATER), JobState.PENDING),
    ],
)
def test_insert_params_give_the_state(opts: InsertOpts, state: JobState) -> None:
    """Pending takes precedence over scheduled, and a past instant is scheduled too, as in River."""
    params = insert_params(Plain(), opts, now=NOW)

    assert (params.state, params.scheduled_at) == (state, opts.scheduled_at)


def test_insert_params_count_the_period_from_the_scheduled_instant() -> None:
    """The period of a unique job is the one that contains `scheduled_at`."""
    opts = InsertOpts(scheduled_at=NOW + timedelta(days=1), unique=UniqueOpts(by_period=timedelta(days=1)))

    assert insert_params(Plain(), opts, now=NOW).unique_key == digest(
        "&kind=plain&period=2024-05-02T00:00:00Z"
    )


def test_insert_params_encode_metadata_as_go_does() -> None:
    """Metadata can hold every value that args can."""
    opts = InsertOpts(metadata={"at": NOW, "html": "<b>", "ratio": 2.0})

    assert insert_params(RawArgs("raw", "{}"), opts, now=NOW).encoded_metadata == (
        r'{"at":"2024-05-01T10:34:56.789Z","html":"\u003cb\u003e","ratio":2}'
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_attempts": 0}, "max_attempts must be between 1 and 32,767, got 0"),
        ({"max_attempts": 32_768}, "max_attempts must be between 1 and 32,767, got 32768"),
        ({"max_attempts": True}, "max_attempts must be between 1 and 32,767, got True"),
        ({"priority": 0}, "priority must be between 1 and 4, got 0"),
        ({"priority": 5}, "priority must be between 1 and 4, got 5"),
        ({"priority": "1"}, "priority must be between 1 and 4, got '1'"),
        (
            {"queue": "Mail"},
            "queue must be 1 to 64 lower-case letters and digits, joined by single '_', '-' or '|', got 'Mail'",
        ),
        (
            {"scheduled_at": datetime.fromisoformat("2024-05-01")},
            (
                "scheduled_at must be a datetime with a time zone, got datetime.datetime(2024, 5, 1, 0, 0); "
                "write datetime.now(UTC) + …"
            ),
        ),
        ({"tags": "mail"}, "tags must be a list of texts, got 'mail'; write ['mail']"),
        (
            {"tags": ["ab"]},
            "tags must be 3 to 255 ASCII letters, digits, '_' and '-', with no '-' at the ends, got 'ab'",
        ),
        (
            {"tags": ["a,b,c"]},
            "tags must be 3 to 255 ASCII letters, digits, '_' and '-', with no '-' at the ends, got 'a,b,c'",
        ),
        ({"metadata": []}, "metadata must be a JSON object, got []"),
        ({"unique": True}, "unique must be UniqueOpts, got True; write UniqueOpts(by_args=True)"),
        (
            {"metadata": {"river:log": []}},
            (
                "metadata must not use the keys river:… and cancel_attempted_at, got 'river:log'; "
                "River keeps them for itself"
            ),
        ),
        (
            {"metadata": {"cancel_attempted_at": "now"}},
            (
                "metadata must not use the keys river:… and cancel_attempted_at, got 'cancel_attempted_at'; "
                "River keeps them for itself"
            ),
        ),
    ],
)
def test_insert_opts_reject_what_river_or_its_tables_reject(options: dict[str, Any], message: str) -> None:
    """An invalid option raises when the options are made."""
    with pytest.raises(InvalidJob) as refusal:
        InsertOpts(**options)

    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"a": "\x00"},
            "metadata must not hold the character U+0000, which jsonb cannot store, got '\\x00' at 'a'",
        ),
        ({"a": float("nan")}, "metadata must hold finite numbers only, got nan at 'a'"),
        (
            {"a": object},
            "metadata must be encodable as JSON, got: Encoding objects of type type is unsupported",
        ),
    ],
)
def test_insert_params_reject_metadata_that_cannot_be_stored(metadata: dict[str, Any], message: str) -> None:
    """What jsonb cannot hold is rejected before anything is sent."""
    with pytest.raises(InvalidJob) as refusal:
        insert_params(Plain(), InsertOpts(metadata=metadata), now=NOW)

    assert str(refusal.value) == message


def test_insert_params_reject_options_of_another_type() -> None:
    """An `insert_opts` of another type raises."""

    @dataclass
    class Wrong:
        kind: ClassVar[str] = "wrong"
        insert_opts: ClassVar[dict[str, int]] = {"priority": 1}

    with pytest.raises(InvalidJob) as refusal:
        insert_params(Wrong(), now=NOW)

    assert str(refusal.value).endswith("Wrong must be InsertOpts, got {'priority': 1}")


@pytest.mark.parametrize("tag", ["abc", "a-b", "a_b", "___", "a" * 255, "A1z"])
def test_tags_of_the_form_that_river_accepts(tag: str) -> None:
    """Tags of three to 255 word characters, with dashes inside, are accepted."""
    assert InsertOpts(tags=[tag]).tags == [tag]


@pytest.mark.parametrize("tag", ["", "a", "ab", "-ab", "ab-", "é-bc", "a" * 256, "abc\n", "a b"])
def test_tags_of_the_form_that_river_rejects(tag: str) -> None:
    """Go's word characters are ASCII, and its end of text does not match before a line break."""
    with pytest.raises(InvalidJob):
        InsertOpts(tags=[tag])


@pytest.mark.parametrize("queue", ["a", "a_b", "a|b", "a-b-c", "default", "q" * 64, "9"])
def test_queue_names_that_river_accepts(queue: str) -> None:
    """Lower-case letters and digits, joined by single marks, are accepted."""
    assert queue_name_error(queue) is None


@pytest.mark.parametrize("queue", ["", "A", "a--b", "a__b", "a_", "-a", "a.b", "a\n", "é", "q" * 65, None])
def test_queue_names_that_river_rejects(queue: Any) -> None:
    """What River's pattern does not match is rejected."""
    assert queue_name_error(queue) is not None


def test_long_queue_names_are_rejected_fast() -> None:
    """A name on which River's own pattern is exponential in Python is rejected at once."""
    assert queue_name_error("a" * 63 + "!") is not None


@given(st.text("aZ0_-|. \né", max_size=12))
def test_queue_names_match_as_rivers_pattern_does(queue: str) -> None:
    """The pattern without nested repetition matches what River's matches."""
    rivers = re.fullmatch(r"(?:[a-z0-9])+(?:[_|\-]?[a-z0-9]+)*", queue, re.ASCII)

    assert (queue_name_error(queue) is None) == (rivers is not None)


def test_insert_opts_can_be_changed_into_others() -> None:
    """A copy with changes is checked again."""
    opts = InsertOpts(priority=2)

    assert dataclasses.replace(opts, queue="mail") == InsertOpts(priority=2, queue="mail")
    with pytest.raises(InvalidJob):
        dataclasses.replace(opts, priority=9)


def test_insert_params_keep_the_zone_out_of_the_key() -> None:
    """The same instant in another zone gives the same key."""
    there = LATER.astimezone(UTC).astimezone()

    keys = {
        insert_params(
            Plain(), InsertOpts(scheduled_at=at, unique=UniqueOpts(by_period=timedelta(days=1))), now=NOW
        ).unique_key
        for at in (LATER, there)
    }

    assert len(keys) == 1
