"""JSON that is nested too deeply is refused by its rule, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
import pytest

from millhand.core.args.codec import RawArgs, decoder_of, encode_args
from millhand.core.errors import InvalidJob
from millhand.core.insert_opts import InsertOpts, insert_params_many
from millhand.core.job import checked_output
from millhand.core.json_value import DEPTH_MAX
from millhand.engine.store.job_list import JobFilters, job_delete_many
from millhand.engine.store.job_row import encode_json
from millhand.engine.store.queue import queue_update
from millhand.engine.store.where import Where

RULE = "must be nested at most 200 levels deep, without a cycle"


@dataclass(frozen=True)
class Tree:
    """Args that hold any JSON."""

    kind: ClassVar[str] = "tree"
    tree: Any


class Chain(msgspec.Struct):
    """Args that hold args of their class."""

    kind: ClassVar[str] = "chain"
    next: Chain | None = None


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def lists(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def chain(depth: int) -> Chain:
    value = Chain()
    for _ in range(depth):
        value = Chain(value)
    return value


def text(depth: int) -> str:
    return '{"a": ' + "[" * depth + "]" * depth + "}"


def with_metadata(depth: int) -> None:
    insert_params_many([(Tree(1), InsertOpts(metadata={"a": lists(depth)}))], now=NOW)


@pytest.mark.parametrize("depth", [500, 1_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_insert_refuses_args_and_metadata_that_are_too_deep(depth: int) -> None:
    """Args as text and as values, and metadata, give InvalidJob with the rule, and never RecursionError."""
    attempts = {
        "args of kind 'raw'": lambda: RawArgs("raw", text(depth)),
        "args of kind 'tree'": lambda: encode_args(Tree({"<": lists(depth)})),
        "args of kind 'chain'": lambda: encode_args(chain(min(depth, 5_000))),
        "metadata": lambda: with_metadata(depth),
    }
    for subject, attempt in attempts.items():
        with pytest.raises(InvalidJob) as refused:
            attempt()
        assert str(refused.value).startswith(f"{subject} {RULE}, got "), subject
        assert str(refused.value).endswith("; flatten them"), subject


def test_args_at_the_limit_can_be_inserted() -> None:
    """Args and metadata with as many levels as the rule allows are accepted."""
    deepest = DEPTH_MAX - 1  # the object is a level itself

    with_metadata(deepest)

    assert RawArgs("raw", text(deepest)).encoded.count("[") == deepest
    assert encode_args(Tree({"<": lists(deepest - 1)})).count("[") == deepest - 1


def test_args_of_a_row_that_are_too_deep_do_not_decode() -> None:
    """A worker's error about args that another program nested too deeply says so."""
    with pytest.raises(InvalidJob) as refused:
        decoder_of(Tree, "tree")(text(100_000).replace("a", "tree"))

    assert (
        str(refused.value)
        == "args of kind 'tree' must decode as Tree, got: more levels of nesting than Python reads"
    )


@pytest.mark.parametrize("depth", [DEPTH_MAX + 1, 500, 5_000])
def test_output_that_is_too_deep_is_refused_where_it_is_recorded(depth: int) -> None:
    """An output is refused by `record_output`, so that a batch of completions can always be encoded."""
    with pytest.raises(ValueError, match=f"^output {RULE}, got list; flatten it$"):
        checked_output(lists(depth))

    # The longest way of encoding, which replaces a character that PostgreSQL cannot store.
    assert encode_json({"output": checked_output(lists(DEPTH_MAX)), "text": "\x00"}).count("[") == DEPTH_MAX


@pytest.mark.parametrize("depth", [DEPTH_MAX, 500, 5_000])
@pytest.mark.parametrize(
    ("subject", "send"),
    [
        ("filter 'metadata'", lambda value: job_delete_many(JobFilters(metadata=value), limit=1)),
        ("metadata of queue 'mail'", lambda value: queue_update("mail", metadata=value)),
        ("where parameter", lambda value: Where("metadata @> @wanted", {"wanted": value}).values),
    ],
    ids=["filter", "queue", "where"],
)
def test_filter_and_metadata_of_a_queue_that_are_too_deep_are_refused(
    subject: str, send: Callable[[Any], object], depth: int
) -> None:
    """The metadata of a filter, of a queue and of a condition give ValueError with the rule."""
    with pytest.raises(ValueError, match=f"^{subject} {RULE}, got dict; flatten it$"):
        send({"a": lists(depth)})
