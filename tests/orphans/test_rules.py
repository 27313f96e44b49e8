"""The table of rules: it is complete, has no contradiction, and keeps what is in doubt."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from millhand.orphans.rules import (
    NOTHING,
    REMOVING,
    RULES,
    Look,
    Reference,
    Rule,
    Scope,
    Situation,
    Tie,
    Verdict,
    find_rule,
)
from orphan_rules_page import DESCRIPTIONS, PAGE, draw_page, draw_table

FLAGS = ("agrees", "is_due", "is_present", "is_same", "is_seen_twice", "is_shared", "is_upload", "is_young")
# All values of each attribute of a situation.
DOMAINS = dict.fromkeys(FLAGS, (False, True)) | {
    "look": tuple(Look), "reference": tuple(Reference), "scope": tuple(Scope), "tie": tuple(Tie),
}  # fmt: skip


@pytest.fixture(scope="module")
def fitting_rules() -> list[tuple[Situation, list[Rule]]]:
    """Return every situation with all rules that fit it. A rule is asked only about situations with the values it names."""
    found = {
        values: (Situation(**dict(zip(DOMAINS, values, strict=True))), list[Rule]())  # type: ignore[arg-type]
        for values in product(*DOMAINS.values())
    }
    for rule in (*RULES, NOTHING):
        for values in product(*(rule.when.get(name, domain) for name, domain in DOMAINS.items())):
            situation, fitting = found[values]
            if rule.fits(situation):
                fitting.append(rule)
    return list(found.values())


@pytest.mark.slow
def test_exactly_one_rule_fits_any_situation(fitting_rules: list[tuple[Situation, list[Rule]]]) -> None:
    """No situation is without a rule, and none has two."""
    assert [(situation, fitting) for situation, fitting in fitting_rules if len(fitting) != 1] == []


@pytest.mark.slow
def test_every_rule_has_its_situation(fitting_rules: list[tuple[Situation, list[Rule]]]) -> None:
    """Every rule fits some situation, and the numbers are unique and in order."""
    met = {rule.number for _, fitting in fitting_rules for rule in fitting}

    assert met == {rule.number for rule in (*RULES, NOTHING)}
    assert [rule.number for rule in RULES] == list(range(1, 26))


def test_no_rule_removes_what_is_live_shared_young_or_out_of_scope(
    fitting_rules: list[tuple[Situation, list[Rule]]],
) -> None:
    """Whatever else is true, any of these facts keeps an object, its row and an upload."""
    removing = {*REMOVING, Verdict.ABORT_UPLOAD}
    for situation, fitting in fitting_rules:
        if _is_kept(situation):
            assert fitting[0].verdict not in removing, situation


def _is_kept(situation: Situation) -> bool:
    is_rowless = situation.reference is Reference.NONE
    if situation.scope is not Scope.IN_SCOPE or not (situation.is_due and situation.is_seen_twice):
        return True
    if situation.is_upload or not is_rowless:
        is_waited_for = situation.is_upload and not is_rowless
        return (
            is_waited_for
            or situation.reference is Reference.READY
            or (situation.is_shared and not is_rowless)
        )
    return situation.is_young or not situation.is_same or situation.tie in (Tie.PARENT, Tie.NEAR_MATCH)


def test_a_pending_row_without_object_is_removed_alone() -> None:
    """A pending row without object loses the row only."""
    situation = Situation(is_present=False, reference=Reference.PENDING, is_due=True, is_seen_twice=True)

    assert find_rule(situation).verdict is Verdict.REMOVE_ROW
    assert find_rule(replace(situation, is_present=True)).verdict is Verdict.REMOVE_ROW_AND_OBJECT


@pytest.mark.parametrize(
    ("situation", "number"),
    [
        (Situation(is_present=True, reference=Reference.READY), 1),
        (Situation(is_present=True, reference=Reference.READY, agrees=False), 2),
        (Situation(is_present=True, reference=Reference.PENDING), 3),
        (Situation(is_present=True, reference=Reference.PENDING, is_due=True, is_seen_twice=True), 4),
        (
            Situation(
                is_present=True, reference=Reference.PENDING, is_due=True, is_seen_twice=True, is_shared=True
            ),
            5,
        ),
        (Situation(is_present=True, reference=Reference.SOFT_DELETED), 6),
        (Situation(is_present=True, reference=Reference.SOFT_DELETED, is_due=True, is_seen_twice=True), 7),
        (Situation(is_present=True, reference=Reference.UNATTACHED), 8),
        (Situation(is_present=True, reference=Reference.UNATTACHED, is_due=True, is_seen_twice=True), 9),
        (Situation(is_present=True, reference=Reference.NONE, is_young=True, is_due=True), 10),
        (Situation(is_present=True, reference=Reference.UNATTACHED, is_due=True), 8),
        (Situation(is_present=True, reference=Reference.NONE), 11),
        (Situation(is_present=True, reference=Reference.NONE, is_due=True), 11),
        (Situation(is_present=True, reference=Reference.NONE, is_seen_twice=True), 11),
        (Situation(is_present=True, reference=Reference.NONE, is_due=True, is_seen_twice=True), 12),
        (Situation(is_present=True, reference=Reference.NONE, is_due=True, is_same=False), 13),
        (Situation(is_present=True, reference=Reference.NONE, tie=Tie.PARENT), 14),
        (
            Situation(
                is_present=True,
                reference=Reference.NONE,
                tie=Tie.PARENT_GONE,
                is_due=True,
                is_seen_twice=True,
            ),
            15,
        ),
        (Situation(is_present=True, reference=Reference.NONE, tie=Tie.PARENT_GONE, is_due=True), 11),
        (Situation(is_present=True, reference=Reference.NONE, scope=Scope.UNDECLARED), 16),
        (Situation(is_present=True, reference=Reference.NONE, scope=Scope.OUTSIDE), 17),
        (Situation(is_present=False, reference=Reference.READY, look=Look.NOT_FOUND), 18),
        (Situation(is_present=False, reference=Reference.READY, look=Look.FOUND_UNLISTED), 19),
        (Situation(is_present=False, reference=Reference.PENDING, is_due=True, is_seen_twice=True), 20),
        (Situation(is_present=False, is_upload=True, reference=Reference.READY, is_due=True), 21),
        (
            Situation(
                is_present=False, is_upload=True, reference=Reference.NONE, is_due=True, is_seen_twice=True
            ),
            22,
        ),
        (Situation(is_present=True, reference=Reference.NONE, is_due=True, scope=Scope.LOCKED), 23),
        (
            Situation(
                is_present=True, reference=Reference.NONE, tie=Tie.NEAR_MATCH, is_due=True, is_seen_twice=True
            ),
            24,
        ),
        (Situation(is_present=False, is_upload=True, reference=Reference.NONE, is_due=True), 25),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_each_rule_fits_its_plain_situation(situation: Situation, number: int) -> None:
    """The situation that a rule describes selects its number."""
    assert find_rule(situation).number == number


def test_the_table_of_the_documentation_is_drawn_from_the_rules() -> None:
    """docs/reference/orphan_rules.md shows the rules of the code."""
    assert draw_page() == PAGE.read_text()
    assert draw_table() in PAGE.read_text()
    assert DESCRIPTIONS.keys() == {rule.number for rule in RULES}
