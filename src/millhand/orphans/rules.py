"""
The rules: what happens to an object or a row, decided from facts alone.

Rule 1: the table below is the whole decision. Exactly one rule fits any situation; a test tries all of them.
Rule 2: where the facts are incomplete, the object lives.
Rule 3: "due" means older than its limit: `grace` for what nothing references and for pending rows, `retention` for
        soft-deleted rows. Age counts from the first run that saw it so, by the database's clock. A later time of the row
        counts instead; an earlier one proves nothing, because a row may return to a state years after it was created.
Rule 4: rule numbers never change, even if rules are reordered.

docs/reference/orphan_rules.md describes each rule in words; `python docs/.writers/orphan_rules_page.py` writes its table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a run does because of a rule."""

    LIVE = "live"
    KEEP = "keep"
    IGNORE = "ignore"
    REPORT = "report"
    CANDIDATE = "candidate"
    REMOVE_OBJECT = "remove_object"
    REMOVE_ROW = "remove_row"
    REMOVE_ROW_AND_OBJECT = "remove_row_and_object"
    ABORT_UPLOAD = "abort_upload"
    SKIP = "skip"
    FAIL_RUN = "fail_run"


REMOVING = frozenset((Verdict.REMOVE_OBJECT, Verdict.REMOVE_ROW, Verdict.REMOVE_ROW_AND_OBJECT))


class Kind(StrEnum):
    """The kind of a finding: what is wrong with an object or a row."""

    ORPHAN = "orphan"
    ABANDONED = "abandoned"
    MISSING = "missing"
    SIZE_MISMATCH = "size_mismatch"
    SHARED = "shared"
    NEAR_MATCH = "near_match"
    UPLOAD = "upload"
    WAITING = "waiting"  # a pending or soft-deleted row within its time; nothing is wrong with it
    RECALLED = "recalled"  # an object that was removed and that a row references again; no rule records it


class Scope(StrEnum):
    """Whether a run may act on a key."""

    IN_SCOPE = "in_scope"
    UNDECLARED = "undeclared"  # no declared pattern fits it
    OUTSIDE = "outside"  # `.millhand/`, an excluded prefix
    LOCKED = "locked"  # legal hold or retention


class Reference(StrEnum):
    """The state of the row that names an object; NONE when no row names its key."""

    NONE = "none"
    READY = "ready"
    PENDING = "pending"
    SOFT_DELETED = "soft_deleted"
    UNATTACHED = "unattached"


class Tie(StrEnum):
    """What connects an object without a row of its own to another row; NONE when nothing does."""

    NONE = "none"
    PARENT = "parent"  # it is derived from a key that a row names
    PARENT_GONE = "parent_gone"  # it is derived from a key that no row names any more
    NEAR_MATCH = "near_match"  # a row names a key that differs only in how it is written


class Look(StrEnum):
    """What a second look at an absent object found: HEAD, then a new listing of this key alone."""

    NOT_TAKEN = "not_taken"
    NOT_FOUND = "not_found"
    FOUND_UNLISTED = "found_unlisted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """
    The facts about one object, or about one row and its object, that select a rule.

    For a multipart upload, READY stands for any row that still waits for it.
    """

    agrees: bool = True  # size and etag are those of the row, or the row has neither
    is_due: bool = False
    is_present: bool
    is_same: bool = (
        True  # object and row are unchanged since the last run; an overwrite makes it another object
    )
    is_seen_twice: bool = False  # in an earlier complete run, and in this one
    is_shared: bool = False  # another row names the key too
    is_upload: bool = False  # a multipart upload that was never completed, no object yet
    is_young: bool = False  # the object is younger than the least age
    look: Look = Look.NOT_TAKEN
    reference: Reference
    scope: Scope = Scope.IN_SCOPE
    tie: Tie = Tie.NONE

    @property
    def is_past(self) -> bool:
        """Whether its time is over, and two complete runs have seen it."""
        return self.is_due and self.is_seen_twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """
    One line of the table: what follows, and the situations that it fits.

    `kind` is the kind of finding that the rule records; None for a rule that records nothing. `when` maps attributes of
    `Situation` to the values that fit. Attributes that it does not name do not matter.
    """

    number: int
    outcome: str
    verdict: Verdict
    kind: Kind | None = None
    when: Mapping[str, tuple[object, ...]]

    def fits(self, situation: Situation) -> bool:
        return all(getattr(situation, name) in values for name, values in self.when.items())


YES, NO = (True,), (False,)
IN_SCOPE = {"scope": (Scope.IN_SCOPE,), "is_upload": NO}
UPLOAD = {"scope": (Scope.IN_SCOPE,), "is_upload": YES}
PRESENT = IN_SCOPE | {"is_present": YES}
ABSENT = IN_SCOPE | {"is_present": NO}
ROWLESS = PRESENT | {"reference": (Reference.NONE,)}
UNTIED = (Tie.NONE, Tie.PARENT_GONE)
ORPHANED = ROWLESS | {"is_young": NO, "tie": UNTIED}
ROW_PAST = (Reference.PENDING, Reference.SOFT_DELETED, Reference.UNATTACHED)

RULES = (
    Rule(
        number=1,
        outcome="live; clears any candidate",
        verdict=Verdict.LIVE,
        when=PRESENT | {"reference": (Reference.READY,), "agrees": YES},
    ),
    Rule(
        number=2,
        outcome="report `size_mismatch`, never delete",
        verdict=Verdict.REPORT,
        kind=Kind.SIZE_MISMATCH,
        when=PRESENT | {"reference": (Reference.READY,), "agrees": NO},
    ),
    Rule(
        number=3,
        outcome="in flight, ignore",
        verdict=Verdict.IGNORE,
        kind=Kind.WAITING,
        when=IN_SCOPE | {"reference": (Reference.PENDING,), "is_past": NO},
    ),
    Rule(
        number=4,
        outcome="claim the row, delete it, then remove the object",
        verdict=Verdict.REMOVE_ROW_AND_OBJECT,
        kind=Kind.ABANDONED,
        when=PRESENT | {"reference": (Reference.PENDING,), "is_past": YES, "is_shared": NO},
    ),
    Rule(
        number=5,
        outcome="report `shared`, delete nothing",
        verdict=Verdict.REPORT,
        kind=Kind.SHARED,
        when=IN_SCOPE | {"reference": ROW_PAST, "is_past": YES, "is_shared": YES},
    ),
    Rule(
        number=6,
        outcome="keep",
        verdict=Verdict.KEEP,
        kind=Kind.WAITING,
        when=IN_SCOPE | {"reference": (Reference.SOFT_DELETED,), "is_past": NO},
    ),
    Rule(
        number=7,
        outcome="claim the row, delete it, then remove the object",
        verdict=Verdict.REMOVE_ROW_AND_OBJECT,
        kind=Kind.ABANDONED,
        when=IN_SCOPE | {"reference": (Reference.SOFT_DELETED,), "is_past": YES, "is_shared": NO},
    ),
    Rule(
        number=8,
        outcome="candidate",
        verdict=Verdict.CANDIDATE,
        kind=Kind.ABANDONED,
        when=IN_SCOPE | {"reference": (Reference.UNATTACHED,), "is_past": NO},
    ),
    Rule(
        number=9,
        outcome="the row first, then the object",
        verdict=Verdict.REMOVE_ROW_AND_OBJECT,
        kind=Kind.ABANDONED,
        when=IN_SCOPE | {"reference": (Reference.UNATTACHED,), "is_past": YES, "is_shared": NO},
    ),
    Rule(
        number=10,
        outcome="ignore",
        verdict=Verdict.IGNORE,
        when=ROWLESS | {"is_young": YES, "tie": (*UNTIED, Tie.NEAR_MATCH)},
    ),
    Rule(
        number=11,
        outcome="candidate",
        verdict=Verdict.CANDIDATE,
        kind=Kind.ORPHAN,
        when=ORPHANED | {"is_same": YES, "is_past": NO},
    ),
    Rule(
        number=12,
        outcome="check again, then quarantine or delete",
        verdict=Verdict.REMOVE_OBJECT,
        kind=Kind.ORPHAN,
        when=ORPHANED | {"is_same": YES, "is_past": YES, "tie": (Tie.NONE,)},
    ),
    Rule(
        number=13,
        outcome="candidate; its age starts again",
        verdict=Verdict.CANDIDATE,
        kind=Kind.ORPHAN,
        when=ORPHANED | {"is_same": NO},
    ),
    Rule(number=14, outcome="keep", verdict=Verdict.KEEP, when=ROWLESS | {"tie": (Tie.PARENT,)}),
    Rule(
        number=15,
        outcome="as for its parent: check again, then quarantine or delete",
        verdict=Verdict.REMOVE_OBJECT,
        kind=Kind.ORPHAN,
        when=ORPHANED | {"is_same": YES, "is_past": YES, "tie": (Tie.PARENT_GONE,)},
    ),
    Rule(
        number=16,
        outcome="keep, count as `unclassified`",
        verdict=Verdict.KEEP,
        when={"scope": (Scope.UNDECLARED,)},
    ),
    Rule(number=17, outcome="out of scope", verdict=Verdict.IGNORE, when={"scope": (Scope.OUTSIDE,)}),
    Rule(
        number=18,
        outcome="report `missing`; if it is in quarantine, restore it and raise an alert",
        verdict=Verdict.REPORT,
        kind=Kind.MISSING,
        when=ABSENT | {"reference": (Reference.READY,), "look": (Look.NOT_TAKEN, Look.NOT_FOUND)},
    ),
    Rule(
        number=19,
        outcome="the listing cannot be trusted: the run fails",
        verdict=Verdict.FAIL_RUN,
        when=ABSENT | {"reference": (Reference.READY,), "look": (Look.FOUND_UNLISTED,)},
    ),
    Rule(
        number=20,
        outcome="claim the row and delete it",
        verdict=Verdict.REMOVE_ROW,
        kind=Kind.ABANDONED,
        when=ABSENT | {"reference": (Reference.PENDING,), "is_past": YES, "is_shared": NO},
    ),
    Rule(
        number=21,
        outcome="keep",
        verdict=Verdict.KEEP,
        when=UPLOAD | {"reference": tuple(one for one in Reference if one is not Reference.NONE)},
    ),
    Rule(
        number=22,
        outcome="abort it and check that it is gone",
        verdict=Verdict.ABORT_UPLOAD,
        kind=Kind.UPLOAD,
        when=UPLOAD | {"reference": (Reference.NONE,), "is_past": YES},
    ),
    Rule(number=23, outcome="skip and report why", verdict=Verdict.SKIP, when={"scope": (Scope.LOCKED,)}),
    Rule(
        number=24,
        outcome="report `near_match`, never delete",
        verdict=Verdict.REPORT,
        kind=Kind.NEAR_MATCH,
        when=ROWLESS | {"is_young": NO, "tie": (Tie.NEAR_MATCH,)},
    ),
    Rule(
        number=25,
        outcome="candidate",
        verdict=Verdict.CANDIDATE,
        kind=Kind.UPLOAD,
        when=UPLOAD | {"reference": (Reference.NONE,), "is_past": NO},
    ),
)
BY_NUMBER = {rule.number: rule for rule in RULES}
ORPHAN_NUMBERS = tuple(rule.number for rule in RULES if rule.kind is Kind.ORPHAN)
REMOVING_NUMBERS = tuple(rule.number for rule in RULES if rule.verdict in REMOVING)
SHARED = BY_NUMBER[5]
YOUNG = BY_NUMBER[10]
CANDIDATE = BY_NUMBER[11]
MISSING = BY_NUMBER[18]
UPLOAD_DUE = BY_NUMBER[22]
NEAR_MATCH = BY_NUMBER[24]
# No object and no row.
NOTHING = Rule(
    number=0,
    outcome="nothing to decide",
    verdict=Verdict.IGNORE,
    when=ABSENT | {"reference": (Reference.NONE,)},
)


def find_rule(situation: Situation) -> Rule:
    return next(rule for rule in (*RULES, NOTHING) if rule.fits(situation))
