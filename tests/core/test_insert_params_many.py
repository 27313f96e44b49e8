from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from language_values import NOW, insert_params

from millhand.core.args.codec import RawArgs
from millhand.core.errors import InvalidJob
from millhand.core.insert_opts import InsertOpts, insert_params_many
from millhand.core.unique import UniqueOpts


@dataclass
class Letter:
    kind: ClassVar[str] = "letter"
    text: str


class Parcel(msgspec.Struct):
    kind: ClassVar[str] = "parcel"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(queue="parcels", tags=["heavy"])
    weight: float | None


@dataclass
class Asked:
    kind: ClassVar[str] = "asked"
    priority: int

    def insert_opts(self) -> InsertOpts:
        return InsertOpts(priority=self.priority)


@dataclass
class Owned:
    kind: ClassVar[str] = "owned"
    priority: int

    @property
    def insert_opts(self) -> InsertOpts:
        return InsertOpts(priority=self.priority)


class Carried(msgspec.Struct):
    kind: ClassVar[str] = "carried"
    raw: msgspec.Raw


ARGS = (
    st.builds(Letter, st.sampled_from(["a", "a < b", "é", "two\nlines", "null", "T10:00:00"]))
    | st.builds(Parcel, st.none() | st.floats(allow_nan=False, allow_infinity=False))
    | st.builds(Asked, st.integers(1, 4))
    | st.builds(Owned, st.integers(1, 4))
    | st.builds(RawArgs, st.sampled_from(["raw", "rawer"]), st.just('{"a": 1}'))
)
OPTS = st.sampled_from(
    [
        None,
        InsertOpts(priority=2, metadata={"b": 1, "a": 2}),
        InsertOpts(unique=UniqueOpts(by_args=True)),
        InsertOpts(tags=[], queue="other"),
    ]
)


@pytest.mark.slow
@given(st.lists(st.tuples(ARGS, OPTS), max_size=6))
def test_jobs_of_a_batch_get_the_params_that_each_gets_alone(
    jobs: list[tuple[object, InsertOpts | None]],
) -> None:
    """The params of a job do not depend on the others of its batch."""
    alone = [insert_params(args, opts, now=NOW, default_max_attempts=7) for args, opts in jobs]

    assert insert_params_many(jobs, now=NOW, default_max_attempts=7) == alone


@pytest.mark.parametrize("args_type", [Asked, Owned])
def test_options_that_each_job_makes_are_its_own(args_type: type[Asked | Owned]) -> None:
    """A method or property of the class is asked for each job."""
    jobs = [(args_type(1 + n % 4), None) for n in range(100)]

    priorities = [one.priority for one in insert_params_many(jobs, now=NOW)]

    assert priorities == [1 + n % 4 for n in range(100)]


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (
            Letter(5),  # type: ignore[arg-type]
            "args of kind 'letter' must decode as Letter, got: Expected `str`, got `int` - at `$.text`",
        ),
        (
            Letter("\x00"),
            "args of kind 'letter' must not hold the character U+0000, which jsonb cannot store, got '\\x00' at 'text'",
        ),
        (object(), "args class must declare its kind as `kind: ClassVar[str] = …`, got object without it"),
    ],
)
def test_invalid_job_of_a_batch_raises_its_own_error(last: object, message: str) -> None:
    """The error is the one that the job raises alone."""
    jobs: list[tuple[Any, InsertOpts | None]] = [(Letter("a"), None), (Letter("b"), None), (last, None)]

    with pytest.raises(InvalidJob) as refused:
        insert_params_many(jobs, now=NOW)

    assert str(refused.value) == message


def test_raw_json_with_line_breaks_stays_with_its_job() -> None:
    """Line breaks in a raw JSON value are not taken for ends of jobs."""
    jobs = [(Carried(msgspec.Raw(b'{"a":1,\n"b":2}')), None), (Carried(msgspec.Raw(b"{}")), None)]

    assert [one.encoded_args for one in insert_params_many(jobs, now=NOW)] == [
        insert_params(args, now=NOW).encoded_args for args, _ in jobs
    ]


def test_no_jobs_are_no_rows() -> None:
    """An empty batch gives no params."""
    assert insert_params_many([], now=NOW) == []
