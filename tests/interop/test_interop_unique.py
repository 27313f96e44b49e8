"""Both languages make the same unique key for the same job."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language
from river_program import RiverError

from factory import golden
from millhand.core.args.codec import RawArgs, encode_args
from millhand.core.errors import DriverError, InvalidJob, UniqueConflict
from millhand.core.unique import UniqueOpts, unique_key, unique_text
from millhand.testing import ManualClock

NUM_DOCUMENTS = 500
NOW = ManualClock().now()

# Whatever once meant something in a path of River's, whatever an encoder escapes, and what sorts oddly as bytes.
ODD = '.*?|#@:\\{["}],<>&/\u2028\u2029éЖ日🦀_Aa \t\x7f'
TEXTS = st.text(
    st.one_of(st.sampled_from(ODD), st.characters(codec="utf-8", exclude_characters="\x00")), max_size=8
)
NUMBERS = st.one_of(
    st.integers(-(2**80), 2**80),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, 1e-6, 9.99e-7, 1e20, 1e21, 5e-324, 1.7976931348623157e308]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=5)

# Options by which the jobs below are the same, and jobs that they distinguish: each pair of args, queue and kind.
Insert = dict[str, Any]
ONE: Insert = {"kind": "charge", "args": {"do": [], "a": 1}, "opts": {}}
OTHER_ARGS: Insert = {"kind": "charge", "args": {"do": [], "a": 2}, "opts": {}}
OTHER_QUEUE: Insert = {"kind": "charge", "args": {"do": [], "a": 1}, "opts": {"queue": "other"}}
OTHER_KIND: Insert = {"kind": "refund", "args": {"do": [], "a": 1}, "opts": {}}
REQUIRED = ["available", "pending", "running", "scheduled"]
SAME = {
    "by_args": ({"by_args": True}, OTHER_QUEUE, OTHER_ARGS),
    "by_period": ({"by_period_seconds": 24 * 3600}, OTHER_ARGS, OTHER_KIND),
    "by_queue": ({"by_queue": True}, OTHER_ARGS, OTHER_QUEUE),
    "by_state": ({"by_args": True, "by_state": REQUIRED}, OTHER_QUEUE, OTHER_ARGS),
    "exclude_kind": ({"by_args": True, "exclude_kind": True}, OTHER_KIND, OTHER_ARGS),
}


@dataclass
class Document:
    kind: ClassVar[str] = "document"
    document: dict[str, Any]


def drawn(strategy: st.SearchStrategy[Any]) -> list[Any]:
    """Return the examples that hypothesis tries."""
    found: list[Any] = []

    @settings(
        max_examples=NUM_DOCUMENTS, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


async def test_millhand_makes_river_s_keys_for_500_documents(harness: Harness) -> None:
    """10: codec: unique_column_bytes; both languages hash the same bytes for any args, given as text or as values."""
    drafts = drawn(st.tuples(OBJECTS, st.booleans(), st.sampled_from([None, 1])))
    texts = [
        json.dumps(document, ensure_ascii=is_ascii, indent=indent) for document, is_ascii, indent in drafts
    ]
    cases = [{"kind": "k", "text": text, "opts": {"unique": {"by_args": True}}} for text in texts]

    river = await harness.go.call("unique", schema=harness.schema, cases=cases)

    ours = [_key(UniqueOpts(by_args=True), encode_args(RawArgs("k", text))) for text in texts]
    wrong = [
        (text, key, one) for text, key, one in zip(texts, ours, river, strict=True) if one.get("key") != key
    ]
    assert len(texts) >= NUM_DOCUMENTS / 2
    assert wrong == []


async def test_millhand_encoder_writes_the_text_of_go_s_encoder(harness: Harness) -> None:
    """10: For the same typed args, Millhand's key text is that of Go's encoder."""
    documents = drawn(OBJECTS)

    river = await harness.go.call(
        "encode", cases=[{"text": json.dumps({"document": document})} for document in documents]
    )

    ours = [encode_args(Document(document)) for document in documents]
    assert [pair for pair in zip(ours, river, strict=True) if pair[0] != pair[1]] == []


async def test_recorded_keys_match_the_installed_river(harness: Harness) -> None:
    """10: codec: unique_hash_goldens; the recorded keys of raw args are the keys that River returns now."""
    cases = [
        case
        for case in golden("unique_keys")["cases"]
        if case["encoder"] == "raw" and case["unique_fields"] is None and case["encoded_args"]
    ]
    asked = [
        {
            "kind": case["kind"],
            "text": case["encoded_args"],
            "opts": {
                "pending": case["pending"],
                "queue": case["queue"],
                "scheduled_at": case["scheduled_at"] or "0001-01-01T00:00:00Z",
                "unique": case["unique_opts"],
            },
        }
        for case in cases
    ]

    river = await harness.go.call(
        "unique", schema=harness.schema, cases=asked, now=golden("unique_keys")["now"]
    )

    assert [one.get("key") for one in river] == [
        None if case["error"] else case["row"]["unique_key"] or "" for case in cases
    ]


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
@pytest.mark.parametrize("by", SAME)
async def test_insert_skips_a_duplicate_of_the_other_language_s_job(
    harness: Harness, first: Language, second: Language, by: str
) -> None:
    """
    11: codec: cross_language_unique_conflict.

    The result is the other language's row, and a different job is inserted.
    """
    unique, same, other = SAME[by]

    [held] = await harness.control(first).insert_many([_with(ONE, unique)])
    [skipped] = await harness.control(second).insert_many([_with(same, unique)])
    [inserted] = await harness.control(second).insert_many([_with(other, unique)])

    assert (held["skipped"], skipped, inserted["skipped"]) == (
        False,
        {"id": held["id"], "skipped": True},
        False,
    )


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_insert_skips_a_duplicate_by_its_unique_fields(
    harness: Harness, first: Language, second: Language
) -> None:
    """11: Only the fields that Go tags and Python lists, nested ones too, decide about a duplicate."""
    unique = {"by_args": ["amount", "customer.id"]}
    tagged = [{"amount": 5, "customer": {"id": "c1", "name": name}, "trace": name} for name in ("Ada", "Bob")]
    jobs: dict[Language, Any] = {
        "go": [
            {"kind": "charge", "args": args, "is_tagged": True, "opts": {"unique": {"by_args": True}}}
            for args in tagged
        ],
        "python": [{"kind": "charge", "args": args, "opts": {"unique": unique}} for args in tagged],
    }

    [held] = await harness.control(first).insert_many(jobs[first][:1])
    [skipped] = await harness.control(second).insert_many(jobs[second][1:])

    assert skipped == {"id": held["id"], "skipped": True}


async def test_river_follows_the_tags_of_a_type_once(harness: Harness) -> None:
    """11: For two tagged fields of one type, River's key has the first only; listing it in Python skips the same jobs."""
    first, second = ({"from": {"id": "c1", "name": ""}, "to": {"id": to, "name": ""}} for to in ("c2", "c3"))
    tagged = {"kind": "send", "is_twin": True, "opts": {"unique": {"by_args": True}}}
    [held] = await harness.control("go").insert_many([{**tagged, "args": first}])

    [theirs] = await harness.control("go").insert_many([{**tagged, "args": second}])
    [ours], [of_both] = [
        await harness.control("python").insert_many(
            [{"kind": "send", "args": second, "opts": {"unique": {"by_args": fields}}}]
        )
        for fields in (["from.id"], ["from.id", "to.id"])
    ]

    assert theirs == ours == {"id": held["id"], "skipped": True}
    assert of_both["skipped"] is False


async def test_key_of_a_field_whose_name_is_a_number_differs_from_river_s(harness: Harness) -> None:
    """11: River's key of a tagged field `7` has an array and Millhand's has an object, so neither skips the other's job."""
    args = {"7": "a"}
    tagged = {"kind": "send", "is_number": True, "args": args, "opts": {"unique": {"by_args": True}}}
    [theirs] = await harness.control("go").insert_many([tagged])

    ours, again = [
        await harness.control("python").insert_many(
            [{"kind": "send", "args": args, "opts": {"unique": {"by_args": ["7"]}}}]
        )
        for _ in range(2)
    ]

    assert [one["skipped"] for one in (theirs, *ours, *again)] == [False, False, True]
    keys = [(await harness.row(one["id"]))["unique_key"] for one in (theirs, *ours)]
    texts = ["[" + 7 * "null," + '"a"]', '{"7":"a"}']
    assert keys == ["\\x" + unique_key(f"&kind=send&args={text}").hex() for text in texts]


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
@pytest.mark.parametrize("state", ["cancelled", "discarded"])
async def test_finalized_job_frees_its_key(
    harness: Harness, first: Language, second: Language, state: str
) -> None:
    """12: The key of a cancelled or discarded job is free, and both languages refuse a retry if it was used again."""
    unique = {"by_args": True}
    [held] = await harness.control(first).insert_many([_with(ONE, unique)])
    sql = """
    UPDATE /* schema */river_job SET state = $2::text::/* schema */river_job_state, finalized_at = now() WHERE id = $1
    """
    await harness.fetch(sql, held["id"], state)

    [inserted] = await harness.control(second).insert_many([_with(ONE, unique)])

    assert inserted["skipped"] is False
    with pytest.raises(RiverError) as theirs:
        await harness.control("go").retry(held["id"])
    with pytest.raises(UniqueConflict) as ours:
        await harness.control("python").retry(held["id"])
    assert (theirs.value.sqlstate, theirs.value.constraint) == ("23505", ours.value.constraint)
    assert (await harness.row(held["id"]))["state"] == state


@pytest.mark.parametrize("language", LANGUAGES)
async def test_insert_refuses_two_equal_jobs_in_one_batch(harness: Harness, language: Language) -> None:
    """13: One statement cannot insert a key twice, and inserts nothing."""
    batch = [_with(ONE, {"by_args": True})] * 2

    with pytest.raises((RiverError, DriverError)) as refused:
        await harness.control(language).insert_many(batch)

    assert refused.value.sqlstate == "21000"  # type: ignore[attr-defined]
    assert await harness.rows() == []


async def test_river_copy_fails_at_a_key_of_a_millhand_job(harness: Harness) -> None:
    """13: River's insert by COPY fails at a key that a Millhand job has."""
    await harness.control("python").insert_many([_with(ONE, {"by_args": True})])

    with pytest.raises(RiverError) as refused:
        await harness.go.call(
            "insert", schema=harness.schema, fast=True, jobs=[_with(ONE, {"by_args": True})]
        )

    assert (refused.value.sqlstate, refused.value.constraint) == ("23505", "river_job_unique_idx")


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_duplicate_of_another_kind_changes_nothing(
    harness: Harness, first: Language, second: Language
) -> None:
    """14: If the key leaves out the kind, a duplicate of another kind does not change the row."""
    unique = {"by_args": True, "exclude_kind": True}
    [held] = await harness.control(first).insert_many([_with(ONE, unique)])
    before = await harness.row(held["id"])

    [skipped] = await harness.control(second).insert_many([_with(OTHER_KIND, unique)])

    assert skipped["skipped"] is True
    assert await harness.row(held["id"]) == before


async def test_both_languages_refuse_exclude_kind_alone(harness: Harness) -> None:
    """14: A key without any field would be the same for all jobs."""
    with pytest.raises(RiverError):
        await harness.control("go").insert_many([_with(ONE, {"exclude_kind": True})])
    with pytest.raises(InvalidJob, match="exclude_kind must have"):
        await harness.control("python").insert_many([_with(ONE, {"exclude_kind": True})])


async def test_unique_periods_begin_at_the_same_instant_in_each_zone(harness: Harness) -> None:
    """15: Uneven periods and weeks begin at the same instant for each time zone and for a River in another zone."""
    hours = (1 / 3600, 0.25, 1, 7, 24, 7 * 24)
    instants = [
        "2024-05-01T10:34:56.789Z",
        "2024-05-05T23:59:59.999+14:00",
        "2024-05-06T00:30:00+00:00",
        "2024-03-31T02:30:00+01:00",
        "1969-12-31T23:59:59.5-08:00",
        "2040-01-01T00:00:00+05:45",
    ]
    cases = [(hour, instant) for hour in hours for instant in instants]
    asked = [
        {"kind": "k", "args": {}, "opts": {"scheduled_at": at, "unique": {"by_period_seconds": hour * 3600}}}
        for hour, at in cases
    ]

    async with harness.another_river(TZ="Australia/Lord_Howe") as elsewhere:
        here = await harness.go.call("unique", schema=harness.schema, cases=asked)
        there = await elsewhere.call("unique", schema=harness.schema, cases=asked)

    ours = [
        _key(UniqueOpts(by_period=timedelta(hours=hour)), "{}", datetime.fromisoformat(at))
        for hour, at in cases
    ]
    assert [one["key"] for one in here] == ours
    assert [one["key"] for one in there] == ours


def _key(opts: UniqueOpts, encoded_args: str, scheduled_at: datetime = NOW) -> str:
    key = unique_key(
        unique_text(opts, kind="k", encoded_args=encoded_args, queue="default", scheduled_at=scheduled_at)
    )
    return key.hex()


def _with(job: Insert, unique: dict[str, Any]) -> Insert:
    return {**job, "opts": {**job["opts"], "unique": unique}}
