"""What River UI's form says, read as a limit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from millhand.core.errors import ConfigError
from millhand.core.job import Json
from millhand.core.limit import Limit, QueueLimit, Rate
from millhand.limits.form import limit_in_force, limit_of_form
from millhand.limits.store import ListedLimit

RATE = Rate(10, per=timedelta(seconds=1), burst=1)
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def form(global_limit: Json = 0, local_limit: Json = 0, by_args: Json = None, by_kind: Json = None) -> Json:
    partition: Json = {"by_args": by_args, "by_kind": by_kind}
    return {"global_limit": global_limit, "local_limit": local_limit, "partition": partition}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (form(3), Limit(at_once=3)),
        (form(0, 2), Limit(at_once_per_client=2)),
        (form(3, 2, ["a", "b"]), Limit(at_once=3, at_once_per_client=2, by_args=["a", "b"])),
        (form(3, by_kind=[]), Limit(at_once=3, by_kind=True)),
        (form(3, by_kind=True), Limit(at_once=3, by_kind=True)),
        (form(3, by_kind=False), Limit(at_once=3)),
        ({"global_limit": 3}, Limit(at_once=3)),
        ({"global_limit": 3, "later": 1, "partition": None}, Limit(at_once=3)),
        (form(), None),
        (form(by_args=["a"]), None),
        ({"local_limit": 0}, None),
    ],
)
def test_form_is_read_as_the_limit_of_the_same_meaning(said: Json, expected: Limit | None) -> None:
    """Zero is for no limit, and a `by_kind` that is not null divides by kind, as River UI writes it."""
    assert limit_of_form(said) == expected


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (7, "concurrency must have the form of River UI's, got Expected `object`, got `int`"),
        (
            form("3"),
            "concurrency must have the form of River UI's, got Expected `int | null`, got `str` - at `$.global_limit`",
        ),
        (
            form(3, by_args=[]),
            "by_args must name fields of the args, got none; write the names into the form",
        ),
        (form(3, by_kind=["a"]), "by_kind must be for all kinds, got ['a']"),
        (form(-1), "at_once must be between 1 and 2,147,483,647, got -1"),
    ],
)
def test_form_without_a_meaning_is_an_error(said: Json, text: str) -> None:
    """What no limit can express is refused, and the error says why."""
    with pytest.raises(ConfigError) as raised:
        limit_of_form(said)

    assert str(raised.value) == text


def test_form_leaves_what_it_does_not_have() -> None:
    """A form replaces four values of a limit; total, rate and the others stay."""
    others = Limit(at_once=9, total=50, rate=RATE, by_args=["tenant"], by_kind=True)

    assert limit_of_form(form(3), others) == Limit(at_once=3, total=50, rate=RATE)
    assert limit_of_form(form(), others) == Limit(total=50, rate=RATE)


@pytest.mark.parametrize(
    ("row", "said", "obeyed", "expected"),
    [
        (Limit(at_once=1), None, None, Limit(at_once=1)),
        (Limit(at_once=1), form(3), form(3), Limit(at_once=1)),
        (Limit(at_once=1), form(3), form(2), Limit(at_once=3)),
        (None, form(3), None, Limit(at_once=3)),
        (Limit(at_once=3), None, form(3), Limit(at_once=8)),
        (Limit(at_once=3), form(), form(3), Limit(at_once=8)),
        (None, form(), None, None),
    ],
    ids=[
        "no form",
        "obeyed form",
        "new form",
        "form alone",
        "cleared form",
        "form without limits",
        "form without limits alone",
    ],
)
def test_what_was_said_last_is_in_force(
    row: Limit | None, said: Json, obeyed: Json, expected: Limit | None
) -> None:
    """A new form replaces the limit once; one that is cleared or limits nothing brings back what code declared."""
    found = row and QueueLimit(
        queue="mail", limit=row, declared=Limit(at_once=8), num_running=0, updated_at=NOW
    )

    assert limit_in_force(ListedLimit(queue="mail", row=found, form=said, obeyed_form=obeyed)) == expected
