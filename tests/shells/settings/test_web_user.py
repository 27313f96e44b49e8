from __future__ import annotations

from collections.abc import Sequence

import pytest

from millhand.shells.settings.web_user import within
from millhand.web import Role, User, UserConfig


@pytest.mark.parametrize(
    ("asked", "allowed", "expected"),
    [
        (None, None, None),
        (None, ("mail",), ("mail",)),
        (["mail"], None, ["mail"]),
        (["mail", "media"], ("mail", "x"), ["mail"]),
        (["media"], ("mail",), []),
        (None, (), ()),
    ],
)
def test_filter_of_a_list_has_only_names_within_the_limits(
    asked: Sequence[str] | None, allowed: Sequence[str] | None, expected: Sequence[str] | None
) -> None:
    """None is every name, and an empty list none, so a search for others' names finds nothing rather than all."""
    assert within(asked, allowed) == expected


def test_user_sees_jobs_within_both_limits() -> None:
    """A job's queue and its kind must both be within the limits; without limits every job is."""
    limited = UserConfig(role="operator", queues=("mail",), kinds=("send",)).user("ada")
    found = [
        (queue, kind)
        for queue in ("mail", "x")
        for kind in ("send", "x")
        if limited.sees(queue=queue, kind=kind)
    ]

    assert limited == User(name="ada", role=Role.OPERATOR, queues=("mail",), kinds=("send",))
    assert (found, limited.is_limited) == ([("mail", "send")], True)
    assert User(name="bob").sees(queue="x", kind="x")
    assert not User(name="bob").is_limited
