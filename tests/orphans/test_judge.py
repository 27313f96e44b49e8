"""The table of verdicts: whole, without contradiction, and on the side of life."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from millhand.orphans.judge import (
    NOTHING,
    REMOVING,
    RULES,
    Look,
    Reference,
    Scope,
    Situation,
    Verdict,
    draw_table,
    judge,
)

ROOT = Path(__file__).parents[2]


def all_situations() -> Iterator[Situation]:
    flags = ("agrees", "is_due", "is_present", "is_same", "is_seen_twice", "is_shared", "is_young")
    for values in product((False, True), repeat=len(flags)):
        for look, reference, scope in product(Look, Reference, Scope):
            yield Situation(
                **dict(zip(flags, values, strict=True)), look=look, reference=reference, scope=scope
            )


def test_exactly_one_rule_fits_any_situation() -> None:
    """No situation is left without a verdict, and none has two."""
    for situation in all_situations():
        assert len([rule for rule in (*RULES, NOTHING) if rule.fits(situation)]) == 1, situation


def test_every_rule_has_its_situation() -> None:
    """There is no rule that nothing can ever meet, and numbers are in order and unique."""
    met = {judge(situation).number for situation in all_situations()}

    assert met == {rule.number for rule in (*RULES, NOTHING)}
    assert [rule.number for rule in RULES] == [*range(1, 14), 16, 17, 18, 19, 20, 23]


def test_no_removal_of_what_is_live_shared_young_locked_or_foreign() -> None:
    """Whatever else is true, these facts alone keep an object and its row."""
    for situation in all_situations():
        keeping = (
            situation.reference is Reference.READY
            or situation.scope is not Scope.JUDGED
            or not situation.is_due
            or (situation.reference in (Reference.NONE, Reference.UNATTACHED) and not situation.is_seen_twice)
            or (situation.is_shared and situation.reference is not Reference.NONE)
            or (situation.reference is Reference.NONE and (situation.is_young or not situation.is_same))
        )
        if keeping:
            assert judge(situation).verdict not in REMOVING, situation


def test_a_row_is_never_removed_with_an_object_that_is_not_there() -> None:
    """A pending row without object loses the row only."""
    situation = Situation(is_present=False, reference=Reference.PENDING, is_due=True)

    assert judge(situation).verdict is Verdict.REMOVE_ROW
    assert judge(replace(situation, is_present=True)).verdict is Verdict.REMOVE_ROW_AND_OBJECT


@pytest.mark.parametrize(
    ("situation", "number"),
    [
        (Situation(is_present=True, reference=Reference.READY), 1),
        (Situation(is_present=True, reference=Reference.READY, agrees=False), 2),
        (Situation(is_present=True, reference=Reference.PENDING), 3),
        (Situation(is_present=True, reference=Reference.PENDING, is_due=True), 4),
        (Situation(is_present=True, reference=Reference.PENDING, is_due=True, is_shared=True), 5),
        (Situation(is_present=True, reference=Reference.SOFT_DELETED), 6),
        (Situation(is_present=True, reference=Reference.SOFT_DELETED, is_due=True), 7),
        (Situation(is_present=True, reference=Reference.UNATTACHED), 8),
        (Situation(is_present=True, reference=Reference.UNATTACHED, is_due=True, is_seen_twice=True), 9),
        (Situation(is_present=True, reference=Reference.NONE, is_young=True, is_due=True), 10),
        (Situation(is_present=True, reference=Reference.UNATTACHED, is_due=True), 8),
        (Situation(is_present=True, reference=Reference.NONE), 11),
        (Situation(is_present=True, reference=Reference.NONE, is_due=True), 11),
        (Situation(is_present=True, reference=Reference.NONE, is_seen_twice=True), 11),
        (Situation(is_present=True, reference=Reference.NONE, is_due=True, is_seen_twice=True), 12),
        (Situation(is_present=True, reference=Reference.NONE, is_due=True, is_same=False), 13),
        (Situation(is_present=True, reference=Reference.NONE, scope=Scope.UNDECLARED), 16),
        (Situation(is_present=True, reference=Reference.NONE, scope=Scope.OUTSIDE), 17),
        (Situation(is_present=False, reference=Reference.READY, look=Look.NOT_FOUND), 18),
        (Situation(is_present=False, reference=Reference.READY, look=Look.FOUND_UNLISTED), 19),
        (Situation(is_present=False, reference=Reference.PENDING, is_due=True), 20),
        (Situation(is_present=True, reference=Reference.NONE, is_due=True, scope=Scope.LOCKED), 23),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_each_rule_is_met_by_its_plain_situation(situation: Situation, number: int) -> None:
    """The rules say what the design says, number by number."""
    assert judge(situation).number == number


def test_the_table_of_the_documentation_is_drawn_from_the_rules() -> None:
    """docs/orphan_cleanup.md shows the rules as they are in force."""
    assert draw_table() in (ROOT / "docs" / "orphan_cleanup.md").read_text()
