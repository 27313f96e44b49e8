"""Insert options of `millhand.compat.riverqueue`, and their differences from the real package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from riverqueue_cases import SortArgs
from sqlalchemy import Engine, create_engine

from millhand import InvalidJob
from millhand.compat import riverqueue as ours
from millhand.compat.riverqueue.driver import riversqlalchemy as our_driver
from millhand.core import unique as millhand_unique
from millhand.core.args.codec import RawArgs, encode_args
from millhand.core.unique import unique_key, unique_text
from millhand.db.driver.asyncpg import AsyncpgDriver


@pytest.fixture
def engine(schema_driver: AsyncpgDriver, postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(
        postgres_url.replace("postgresql", "postgresql+psycopg", 1),
        connect_args={"options": f"-csearch_path={schema_driver.schema}"},
    )
    yield engine
    engine.dispose()


@pytest.fixture
def client(engine: Engine) -> ours.Client:
    return ours.Client(our_driver.Driver(engine))


@pytest.mark.parametrize(
    ("asked", "same", "other"),
    [
        ({"by_args": True}, (["é", "<"], "other"), (["e"], "default")),
        ({"by_period": 86_400}, (["b"], "other"), None),
        ({"by_queue": True}, (["b"], "default"), (["é", "<"], "other")),
        ({"by_state": list(ours.UNIQUE_STATES_DEFAULT)}, (["b"], "other"), None),
    ],
)
def test_unique_job_is_skipped_as_a_duplicate(
    client: ours.Client, asked: dict[str, Any], same: Any, other: Any
) -> None:
    """Millhand skips duplicates, single and in bulk, and reports them."""

    def of(strings: list[str], queue: str) -> ours.InsertManyParams:
        return ours.InsertManyParams(
            SortArgs(strings), ours.InsertOpts(queue=queue, unique_opts=ours.UniqueOpts(**asked))
        )

    first, plainly = of(["é", "<"], "default"), ours.InsertManyParams(SortArgs(["é", "<"]))
    held = client.insert(first.args, first.insert_opts)
    again = client.insert(of(*same).args, of(*same).insert_opts)
    num_more = client.insert_many([plainly, of(*same), *([of(*other)] if other else [])])

    assert held.job.unique_key is not None
    assert (held.unique_skipped_as_duplicated, again.unique_skipped_as_duplicated) == (False, True)
    assert (again.job, num_more) == (held.job, 2 if other else 1)


def test_unique_key_is_made_from_the_text_that_go_writes(client: ours.Client) -> None:
    """The key does not depend on how `to_json` writes the args; Python's own text would give another key."""

    @dataclass
    class Written:
        text: str
        kind: str = "sort"

        def to_json(self) -> str:
            return self.text

    opts = ours.InsertOpts(unique_opts=ours.UniqueOpts(by_args=True))
    written = '{"b": 1.0, "a": "\\u00e9<\\ud83e\\udd80", "c": {"z": [1, 2.50], "y": 1e400}}'.replace(
        "1e400", "1e3"
    )
    expected = '{"a":"é\\u003c🦀","b":1,"c":{"z":[1,2.5],"y":1000}}'
    job = client.insert(Written(written), opts).job

    key = unique_key(
        unique_text(
            millhand_unique.UniqueOpts(by_args=True),
            kind="sort",
            encoded_args=encode_args(RawArgs("sort", expected)),
            queue="default",
            scheduled_at=job.created_at,
        )
    )
    assert job.unique_key == key


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (ours.InsertOpts(priority=5), "priority must be between 1 and 4, got 5"),
        (
            ours.InsertOpts(unique_opts=ours.UniqueOpts(by_args=True, by_state=[ours.JobState.RUNNING])),
            (
                "by_state must hold available, pending, running and scheduled, got them without "
                "available, pending, scheduled"
            ),
        ),
    ],
)
def test_invalid_options_raise_before_anything_is_sent(
    client: ours.Client, opts: ours.InsertOpts, message: str
) -> None:
    """Options that Go's client rejects raise InvalidJob and no database error."""
    with pytest.raises(InvalidJob) as refused:
        client.insert(SortArgs([]), opts)

    assert str(refused.value) == message


def test_args_without_a_text_are_rejected(client: ours.Client) -> None:
    """`to_json` must return JSON, as a text."""

    class Wordless:
        kind = "sort"

        def to_json(self) -> Any:
            return {"a": 1}

    with pytest.raises(InvalidJob) as refused:
        client.insert(Wordless())

    assert str(refused.value) == ("to_json of args of kind 'sort' must return JSON as a text, got {'a': 1}")
