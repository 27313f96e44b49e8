from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, ClassVar

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from language_values import NOW, insert_params

from factory import golden
from millhand.core.args.codec import RawArgs, encode_args
from millhand.core.errors import InvalidJob
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.unique import (
    DEFAULT_STATES,
    REQUIRED_STATES,
    Unique,
    UniqueOpts,
    marked_paths,
    states_mask,
    unique_key,
)
from millhand.core.unique import unique_text as text_of

RECORDED = golden("unique_keys")
CASES = {case["name"]: case for case in RECORDED["cases"]}
REFUSED_BY_RIVER = [name for name, case in CASES.items() if case["error"] is not None]
INSERTED_BY_RIVER = [name for name in CASES if name not in REFUSED_BY_RIVER]

# Texts that are no objects. River accepts them as args and rejects them as unique args; Millhand's args are objects.
NO_OBJECTS = {"[]", "[1]", '"x"', "null"}


def unique_opts(case: dict[str, Any]) -> UniqueOpts:
    said = case["unique_opts"]
    fields = case["unique_fields"]
    return UniqueOpts(
        by_args=[tuple(path) for path in fields] if fields else said["by_args"],
        by_period=timedelta(seconds=said["by_period_seconds"]) or None,
        by_queue=said["by_queue"],
        by_state=said["by_state"],
        exclude_kind=said["exclude_kind"],
    )


def scheduled_at(case: dict[str, Any]) -> datetime | None:
    return datetime.fromisoformat(case["scheduled_at"]) if case["scheduled_at"] else None


@pytest.mark.parametrize("name", INSERTED_BY_RIVER)
def test_unique_key_is_rivers(name: str) -> None:
    """Every golden insert gets River's key and mask, and the hashed text is the recorded one."""
    case = CASES[name]
    opts = unique_opts(case)
    parameters = {
        "kind": case["kind"],
        "encoded_args": case["encoded_args"],
        "queue": case["queue"],
        "scheduled_at": scheduled_at(case) or NOW,
    }

    if case["row"]["unique_key"] is None:
        assert not opts.is_active
    else:
        assert opts.is_active
        assert text_of(opts, **parameters) == case["hashed"]
        assert unique_key(text_of(opts, **parameters)).hex() == case["row"]["unique_key"]
        assert f"{states_mask(opts.states):08b}" == case["row"]["unique_states"]


@pytest.mark.parametrize(
    "name", [name for name in INSERTED_BY_RIVER if CASES[name]["encoded_args"] not in NO_OBJECTS]
)
def test_insert_params_are_those_of_rivers_row(name: str) -> None:
    """Options lead to the key and mask of River's row."""
    case = CASES[name]
    opts = InsertOpts(
        pending=case["pending"],
        queue=case["queue"],
        scheduled_at=scheduled_at(case),
        unique=unique_opts(case),
    )

    params = insert_params(RawArgs(case["kind"], case["encoded_args"]), opts, now=NOW)

    key, states = case["row"]["unique_key"], case["row"]["unique_states"]
    assert params.unique_key == (bytes.fromhex(key) if key else None)
    assert params.unique_states == (int(states, 2) if states else None)
    assert params.state == case["row"]["state"]
    assert json.loads(params.encoded_args, parse_int=float) == json.loads(
        case["row"]["args_text"], parse_int=float
    )


@pytest.mark.parametrize("name", REFUSED_BY_RIVER)
def test_insert_params_reject_what_river_rejects(name: str) -> None:
    """What River or its database rejects is rejected before anything is sent."""
    case = CASES[name]

    with pytest.raises(InvalidJob):
        insert_params(
            RawArgs(case["kind"], case["encoded_args"]),
            InsertOpts(queue=case["queue"], scheduled_at=scheduled_at(case), unique=unique_opts(case)),
            now=NOW,
        )


def test_golden_cases_are_complete() -> None:
    """The tests use every recorded case."""
    assert (len(CASES), datetime.fromisoformat(RECORDED["now"])) == (95, NOW)


@pytest.mark.parametrize(
    ("opts", "queue", "kind", "encoded_args", "digest"),
    [
        (
            UniqueOpts(by_args=True),
            "default",
            "sort",
            '{"b":2,"a":"x","c":{"z":1,"y":[3,2]}}',
            "5bd77cf27bfc88392dda7b32c67d301d2a8db41237f9209e3901ff57bbb82aea",
        ),
        (
            UniqueOpts(by_period=timedelta(minutes=15), by_queue=True),
            "high",
            "report",
            "{}",
            "ea16c0d3abff8e4b7b4fa34cbf2c479d1cba5f00e7b38221dd5feb48c66a6ee9",
        ),
        (
            UniqueOpts(by_args=["amount", "customer_id"]),
            "default",
            "charge",
            '{"customer_id":"cus_123","trace_id":"t-9","amount":500}',
            "926439e1e182789147eb8b7d54d5a627a6cf00d2db08470665bbed536a2f7b0a",
        ),
        (
            UniqueOpts(
                by_args=["a", "customer.id"],
                by_period=timedelta(days=1),
                by_queue=True,
                by_state=REQUIRED_STATES,
                exclude_kind=True,
            ),
            "q1",
            "ignored",
            '{"customer":{"id":"c1","name":"Bob"},"a":"q"}',
            "9dff8a565a7e55b4433fb363c49147681a68f9f9f785651fae44d853553f0c03",
        ),
        (
            UniqueOpts(by_period=timedelta(days=7)),
            "default",
            "k",
            "{}",
            "9784244dfda7b2398a17375778ba7800911f837da9fe2755864e0a13ebf8272e",
        ),
    ],
)
def test_unique_key_of_the_worked_examples(
    opts: UniqueOpts, queue: str, kind: str, encoded_args: str, digest: str
) -> None:
    """The examples in docs/reference/river.md are true."""
    key = unique_key(text_of(opts, kind=kind, encoded_args=encoded_args, queue=queue, scheduled_at=NOW))

    assert key.hex() == digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"by_args": "customer_id"},
            "by_args must be True or a list of fields, got 'customer_id'; write ['customer_id']",
        ),
        (
            {"by_args": []},
            "by_args must name at least one field, got an empty list; True is for the whole args",
        ),
        ({"by_args": [()]}, "by_args must name fields by texts, got ()"),
        (
            {"by_args": ["a.b", "a"]},
            "by_args must not name a field and a part of it, got 'a.b' and its whole",
        ),
        ({"by_period": 60}, "by_period must be a timedelta, got 60; write timedelta(seconds=…)"),
        (
            {"by_period": timedelta(milliseconds=999)},
            "by_period must be at least one second, got datetime.timedelta(microseconds=999000)",
        ),
        (
            {"by_state": [*REQUIRED_STATES, "sleeping"]},
            (
                "by_state must hold states, got 'sleeping'; known states: available, cancelled, completed, discarded, "
                "pending, retryable, running, scheduled"
            ),
        ),
        (
            {"by_state": [JobState.AVAILABLE, JobState.PENDING]},
            "by_state must hold available, pending, running and scheduled, got them without running, scheduled",
        ),
        (
            {"by_state": [*REQUIRED_STATES, JobState.DISCARDED]},
            (
                "by_state must hold retryable when it holds discarded, got discarded alone; "
                "the scheduler could not discard the second of two such jobs, and would stop for all"
            ),
        ),
        (
            {"exclude_kind": True},
            "exclude_kind must have by_args, by_period or by_queue beside it, got it alone",
        ),
    ],
)
def test_unique_opts_reject_invalid_options(options: dict[str, Any], message: str) -> None:
    """The error has the rule and the value."""
    with pytest.raises(InvalidJob) as refusal:
        UniqueOpts(**options)

    assert str(refusal.value) == message


def test_unique_key_ignores_blanks_between_members() -> None:
    """A text as PostgreSQL prints it gives the key of the inserted text, unless an object is nested in it."""
    keys = {
        unique_key(
            text_of(UniqueOpts(by_args=True), kind="k", encoded_args=encoded, queue="q", scheduled_at=NOW)
        )
        for encoded in ('{"b":1,"a":"x"}', '{ "a" : "x" ,\n "b" : 1 }', '{"a": "x", "b": 1}')
    }

    assert len(keys) == 1


def test_unique_args_must_be_an_object() -> None:
    """A list has no members to sort, and River rejects it too."""
    with pytest.raises(InvalidJob) as refusal:
        unique_key(
            text_of(UniqueOpts(by_args=True), kind="k", encoded_args="[1]", queue="q", scheduled_at=NOW)
        )

    assert str(refusal.value) == "unique args of kind 'k' must be a JSON object, got [1]"


def test_states_mask_has_a_bit_for_each_state() -> None:
    """The mask is River's: available is the lowest bit, scheduled the highest."""
    assert {state: states_mask([state]) for state in JobState} == {
        JobState.AVAILABLE: 0x01,
        JobState.CANCELLED: 0x02,
        JobState.COMPLETED: 0x04,
        JobState.DISCARDED: 0x08,
        JobState.PENDING: 0x10,
        JobState.RETRYABLE: 0x20,
        JobState.RUNNING: 0x40,
        JobState.SCHEDULED: 0x80,
    }
    assert (states_mask(DEFAULT_STATES), states_mask(REQUIRED_STATES)) == (0xF5, 0xD1)


# Marked fields: the same fields in each of the ways to write an args class.


class CustomerStruct(msgspec.Struct):
    id: Annotated[str, Unique]
    name: str


class ChargeStruct(msgspec.Struct, rename="camel"):
    kind: ClassVar[str] = "charge"
    customer: CustomerStruct | None
    trace_id: str
    order_id: Annotated[int, Unique()]


@dataclass
class ChargeDataclass:
    kind: ClassVar[str] = "charge"
    customer: CustomerStruct | None
    traceId: str  # noqa: N815
    orderId: Annotated[int, Unique]  # noqa: N815


@attrs.frozen
class ChargeAttrs:
    kind: ClassVar[str] = "charge"
    customer: CustomerStruct | None
    traceId: str  # noqa: N815
    orderId: Annotated[int, Unique]  # noqa: N815


class CustomerModel(pydantic.BaseModel):
    id: Annotated[str, Unique]
    name: str


class ChargeModel(pydantic.BaseModel):
    kind: ClassVar[str] = "charge"
    customer: CustomerModel | None
    trace_id: str = pydantic.Field(alias="traceId")
    order_id: Annotated[int, Unique] = pydantic.Field(alias="orderId")


@pytest.mark.parametrize(
    "args",
    [
        ChargeStruct(CustomerStruct("c1", "Bob"), "t-9", 7),
        ChargeDataclass(CustomerStruct("c1", "Bob"), "t-9", 7),
        ChargeAttrs(CustomerStruct("c1", "Bob"), "t-9", 7),
        ChargeModel(customer=CustomerModel(id="c1", name="Bob"), traceId="t-9", orderId=7),
    ],
    ids=lambda args: type(args).__name__,
)
def test_only_marked_fields_count(args: Any) -> None:
    """Only marked fields go into the key, by their names in JSON, with those of nested classes."""
    params = insert_params(args, InsertOpts(unique=UniqueOpts(by_args=True)), now=NOW)

    args_type: Any = type(args)
    assert marked_paths(args_type) == (("customer", "id"), ("orderId",))
    expected = '&kind=charge&args={"customer":{"id":"c1"},"orderId":7}'
    assert params.unique_key == hashlib.sha256(expected.encode()).digest()


class Node(msgspec.Struct):
    key: Annotated[str, Unique]
    parent: Node | None = None


def test_marked_fields_of_a_recursive_class_are_finite() -> None:
    """A recursive class is searched once."""
    assert marked_paths(Node) == (("key",),)


class Transfer(msgspec.Struct):
    from_: CustomerStruct = msgspec.field(name="from")
    to: CustomerStruct


def test_marked_fields_of_a_class_count_in_each_place() -> None:
    """The marks of a class count in both fields of its type, so jobs that differ in either are different."""
    assert marked_paths(Transfer) == (("from", "id"), ("to", "id"))


def test_named_fields_win_over_marked_ones() -> None:
    """A list of fields takes precedence over marks."""
    args = ChargeStruct(None, "t-9", 7)

    params = insert_params(args, InsertOpts(unique=UniqueOpts(by_args=["traceId"])), now=NOW)

    assert params.unique_key == hashlib.sha256(b'&kind=charge&args={"traceId":"t-9"}').digest()


TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(st.dictionaries(TEXT, JSON, max_size=5), st.randoms())
def test_unique_key_does_not_depend_on_the_order_of_members(members: dict[str, Any], random: Any) -> None:
    """The order of members and blanks between them do not change the key."""
    shuffled = list(members.items())
    random.shuffle(shuffled)

    keys = {
        unique_key(
            text_of(UniqueOpts(by_args=True), kind="k", encoded_args=encoded, queue="q", scheduled_at=NOW)
        )
        for encoded in (
            encode_args(RawArgs("k", json.dumps(members, separators=(",", ":")))),
            encode_args(RawArgs("k", json.dumps(dict(shuffled), separators=(" , ", " : ")))),
        )
    }

    assert len(keys) == 1


@given(
    st.datetimes(
        datetime.fromisoformat("1900-01-01"), datetime.fromisoformat("2200-01-01"), timezones=st.just(UTC)
    ),
    st.timedeltas(timedelta(seconds=1), timedelta(days=400)),
    st.integers(-14 * 60, 14 * 60),
)
def test_unique_period_contains_its_instant_in_every_zone(
    at: datetime, period: timedelta, minutes: int
) -> None:
    """A period begins at or before the instant and ends after it, and no zone moves it."""
    elsewhere = at.astimezone(timezone(timedelta(minutes=minutes)))

    def start(instant: datetime) -> str:
        opts = UniqueOpts(by_period=period)
        return text_of(opts, kind="k", encoded_args="{}", queue="q", scheduled_at=instant).removeprefix(
            "&kind=k&period="
        )

    begin = datetime.fromisoformat(start(at))
    assert start(elsewhere) == start(at)
    assert begin <= at < begin + period + timedelta(seconds=1)
