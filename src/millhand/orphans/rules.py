"""
What is to become of an object or a row, decided from facts alone.

Rule 1: the table below is the whole of the decision. Exactly one of its rules fits any situation; a test tries all.
Rule 2: whatever the facts leave open is decided for the object's life.
Rule 3: "due" is older than its limit: `grace` for what nobody refers to and for pending rows, `retention` for
        soft-deleted ones. Age is the time since *we* first saw it so, on the database's clock, or the row's own time.
Rule 4: numbers are for ever, whatever the order.

The table of docs/explanation/orphan_cleanup.md is drawn from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum


class Verdict(StrEnum):
    """What follows from a rule."""

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
    ABORT = "abort"


REMOVING = frozenset((Verdict.REMOVE_OBJECT, Verdict.REMOVE_ROW, Verdict.REMOVE_ROW_AND_OBJECT))


class Scope(StrEnum):
    """Whether a key is ours to judge."""

    JUDGED = "judged"
    UNDECLARED = "undeclared"  # no declared pattern fits it
    OUTSIDE = "outside"  # `.millhand/`, an excluded prefix
    LOCKED = "locked"  # legal hold or retention


class Reference(StrEnum):
    """What the row in question says of the object; NONE when no row names the key."""

    NONE = "none"
    READY = "ready"
    PENDING = "pending"
    SOFT_DELETED = "soft_deleted"
    UNATTACHED = "unattached"


class Tie(StrEnum):
    """What else may tie an object without a row of its own to one; NONE when nothing does."""

    NONE = "none"
    PARENT = "parent"  # it was derived from a key that a row names
    PARENT_GONE = "parent_gone"  # it was derived from a key that no row names any more
    SPELLING = "spelling"  # a row names a key that differs only in how it is written


class Look(StrEnum):
    """What a second look at an absent object found: HEAD, and a fresh listing of just this key."""

    NOT_TAKEN = "not_taken"
    NOT_FOUND = "not_found"
    FOUND_UNLISTED = "found_unlisted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """
    The facts about one object, or about one row and its object, that a judgement rests on.

    Of a multipart upload, READY stands for any row that still waits for it.
    """

    agrees: bool = True  # size and etag are what the row says, or the row says nothing
    is_due: bool = False
    is_present: bool
    is_same: bool = True  # as when it was last seen; an overwrite makes it another object
    is_seen_twice: bool = False  # in an earlier complete run, and in this one
    is_shared: bool = False  # another row names the key too
    is_upload: bool = False  # a multipart upload that was never completed, no object yet
    is_young: bool = False  # the object is younger than the least age
    look: Look = Look.NOT_TAKEN
    reference: Reference
    scope: Scope = Scope.JUDGED
    tie: Tie = Tie.NONE

    @property
    def is_past(self) -> bool:
        """Whether its time is over; what no row of its own vouches for must have been seen in two complete runs."""
        has_own_row = self.reference in (Reference.PENDING, Reference.SOFT_DELETED)
        return self.is_due and (has_own_row or self.is_seen_twice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """
    One line of the table: four columns for people, and the situations that it is about.

    `when` maps attributes of `Situation` to the values that fit; those that it does not name do not matter.
    """

    number: int
    about_object: str
    about_reference: str
    about_extra: str
    says: str
    verdict: Verdict
    when: Mapping[str, tuple[object, ...]]

    def fits(self, situation: Situation) -> bool:
        """Whether the rule is about `situation`."""
        return all(getattr(situation, name) in values for name, values in self.when.items())


YES, NO = (True,), (False,)
JUDGED = {"scope": (Scope.JUDGED,), "is_upload": NO}
UPLOAD = {"scope": (Scope.JUDGED,), "is_upload": YES}
PRESENT = JUDGED | {"is_present": YES}
ABSENT = JUDGED | {"is_present": NO}
ROWLESS = PRESENT | {"reference": (Reference.NONE,)}
UNTIED = (Tie.NONE, Tie.PARENT_GONE)
NOBODYS = ROWLESS | {"is_young": NO, "tie": UNTIED}
ROW_PAST = (Reference.PENDING, Reference.SOFT_DELETED, Reference.UNATTACHED)

RULES = (
    Rule(
        number=1,
        about_object="present",
        about_reference="ready",
        about_extra="size and etag agree",
        says="live; clears any candidate",
        verdict=Verdict.LIVE,
        when=PRESENT | {"reference": (Reference.READY,), "agrees": YES},
    ),
    Rule(
        number=2,
        about_object="present",
        about_reference="ready",
        about_extra="size or etag differs",
        says="report `size_mismatch`, never delete",
        verdict=Verdict.REPORT,
        when=PRESENT | {"reference": (Reference.READY,), "agrees": NO},
    ),
    Rule(
        number=3,
        about_object="any",
        about_reference="pending, younger than grace",
        about_extra="",
        says="in flight, ignore",
        verdict=Verdict.IGNORE,
        when=JUDGED | {"reference": (Reference.PENDING,), "is_past": NO},
    ),
    Rule(
        number=4,
        about_object="present",
        about_reference="pending, older than grace",
        about_extra="no other reference",
        says="claim the row, delete it, then remove the object",
        verdict=Verdict.REMOVE_ROW_AND_OBJECT,
        when=PRESENT | {"reference": (Reference.PENDING,), "is_past": YES, "is_shared": NO},
    ),
    Rule(
        number=5,
        about_object="any",
        about_reference="pending, soft-deleted or unattached, past its time",
        about_extra="another reference exists",
        says="report `shared`, delete nothing",
        verdict=Verdict.REPORT,
        when=JUDGED | {"reference": ROW_PAST, "is_past": YES, "is_shared": YES},
    ),
    Rule(
        number=6,
        about_object="any",
        about_reference="soft-deleted, younger than retention",
        about_extra="",
        says="keep",
        verdict=Verdict.KEEP,
        when=JUDGED | {"reference": (Reference.SOFT_DELETED,), "is_past": NO},
    ),
    Rule(
        number=7,
        about_object="any",
        about_reference="soft-deleted, older than retention",
        about_extra="no other reference",
        says="claim the row, delete it, then remove the object",
        verdict=Verdict.REMOVE_ROW_AND_OBJECT,
        when=JUDGED | {"reference": (Reference.SOFT_DELETED,), "is_past": YES, "is_shared": NO},
    ),
    Rule(
        number=8,
        about_object="any",
        about_reference="a row that nothing refers to",
        about_extra="younger than grace, or seen in one run only",
        says="candidate",
        verdict=Verdict.CANDIDATE,
        when=JUDGED | {"reference": (Reference.UNATTACHED,), "is_past": NO},
    ),
    Rule(
        number=9,
        about_object="any",
        about_reference="a row that nothing refers to",
        about_extra="older than grace, seen in two complete runs, no other reference",
        says="the row first, then the object",
        verdict=Verdict.REMOVE_ROW_AND_OBJECT,
        when=JUDGED | {"reference": (Reference.UNATTACHED,), "is_past": YES, "is_shared": NO},
    ),
    Rule(
        number=10,
        about_object="present",
        about_reference="none",
        about_extra="younger than one hour",
        says="ignore",
        verdict=Verdict.IGNORE,
        when=ROWLESS | {"is_young": YES, "tie": (*UNTIED, Tie.SPELLING)},
    ),
    Rule(
        number=11,
        about_object="present",
        about_reference="none",
        about_extra="younger than grace, or seen in one run only",
        says="candidate",
        verdict=Verdict.CANDIDATE,
        when=NOBODYS | {"is_same": YES, "is_past": NO},
    ),
    Rule(
        number=12,
        about_object="present, unchanged",
        about_reference="none",
        about_extra="older than grace, seen in two complete runs",
        says="look again, then quarantine or delete",
        verdict=Verdict.REMOVE_OBJECT,
        when=NOBODYS | {"is_same": YES, "is_past": YES, "tie": (Tie.NONE,)},
    ),
    Rule(
        number=13,
        about_object="present, overwritten",
        about_reference="none",
        about_extra="",
        says="candidate, its age begins again",
        verdict=Verdict.CANDIDATE,
        when=NOBODYS | {"is_same": NO},
    ),
    Rule(
        number=14,
        about_object="present, derived",
        about_reference="a row names its parent",
        about_extra="",
        says="keep",
        verdict=Verdict.KEEP,
        when=ROWLESS | {"tie": (Tie.PARENT,)},
    ),
    Rule(
        number=15,
        about_object="present, derived, unchanged",
        about_reference="none, nor of its parent",
        about_extra="older than grace, seen in two complete runs",
        says="as its parent: look again, then quarantine or delete",
        verdict=Verdict.REMOVE_OBJECT,
        when=NOBODYS | {"is_same": YES, "is_past": YES, "tie": (Tie.PARENT_GONE,)},
    ),
    Rule(
        number=16,
        about_object="any",
        about_reference="any",
        about_extra="no declared pattern fits the key",
        says="keep, count as `unclassified`",
        verdict=Verdict.KEEP,
        when={"scope": (Scope.UNDECLARED,)},
    ),
    Rule(
        number=17,
        about_object="any",
        about_reference="any",
        about_extra="under `.millhand/`, or an excluded or other prefix",
        says="out of scope",
        verdict=Verdict.IGNORE,
        when={"scope": (Scope.OUTSIDE,)},
    ),
    Rule(
        number=18,
        about_object="absent",
        about_reference="ready",
        about_extra="a second look finds nothing",
        says="report `missing`; if it lies in our quarantine, restore it and raise the alert",
        verdict=Verdict.REPORT,
        when=ABSENT | {"reference": (Reference.READY,), "look": (Look.NOT_TAKEN, Look.NOT_FOUND)},
    ),
    Rule(
        number=19,
        about_object="absent",
        about_reference="ready",
        about_extra="a second look finds it, a second listing does not",
        says="the listing cannot be trusted: abort the run",
        verdict=Verdict.ABORT,
        when=ABSENT | {"reference": (Reference.READY,), "look": (Look.FOUND_UNLISTED,)},
    ),
    Rule(
        number=20,
        about_object="absent",
        about_reference="pending, older than grace",
        about_extra="no other reference",
        says="claim the row and delete it",
        verdict=Verdict.REMOVE_ROW,
        when=ABSENT | {"reference": (Reference.PENDING,), "is_past": YES, "is_shared": NO},
    ),
    Rule(
        number=21,
        about_object="multipart upload",
        about_reference="a row waits for it",
        about_extra="",
        says="keep",
        verdict=Verdict.KEEP,
        when=UPLOAD | {"reference": tuple(one for one in Reference if one is not Reference.NONE)},
    ),
    Rule(
        number=22,
        about_object="multipart upload",
        about_reference="none, or past its grace",
        about_extra="newest part older than grace, seen in two complete runs",
        says="abort it, and see that it is gone",
        verdict=Verdict.ABORT_UPLOAD,
        when=UPLOAD | {"reference": (Reference.NONE,), "is_past": YES},
    ),
    Rule(
        number=23,
        about_object="any",
        about_reference="any",
        about_extra="legal hold or retention lock",
        says="skip, and say why",
        verdict=Verdict.SKIP,
        when={"scope": (Scope.LOCKED,)},
    ),
    Rule(
        number=24,
        about_object="present",
        about_reference="none, but of a key that is only written otherwise",
        about_extra="",
        says="report `near_match`, never delete",
        verdict=Verdict.REPORT,
        when=ROWLESS | {"is_young": NO, "tie": (Tie.SPELLING,)},
    ),
    Rule(
        number=25,
        about_object="multipart upload",
        about_reference="none, or past its grace",
        about_extra="newest part younger than grace, or seen in one run only",
        says="candidate",
        verdict=Verdict.CANDIDATE,
        when=UPLOAD | {"reference": (Reference.NONE,), "is_past": NO},
    ),
)
BY_NUMBER = {rule.number: rule for rule in RULES}
ORPHAN_NUMBERS = (11, 12, 13, 15)
CANDIDATE = BY_NUMBER[11]
NEAR_MATCH = BY_NUMBER[24]
SHARED = BY_NUMBER[5]
ABORTING_NUMBER = 22
REMOVING_NUMBERS = tuple(rule.number for rule in RULES if rule.verdict in REMOVING)
# No object, no row: there is nothing to judge.
NOTHING = Rule(
    number=0,
    about_object="absent",
    about_reference="none",
    about_extra="",
    says="nothing to judge",
    verdict=Verdict.IGNORE,
    when=ABSENT | {"reference": (Reference.NONE,)},
)


def judge(situation: Situation) -> Rule:
    """Return the one rule that fits."""
    return next(rule for rule in (*RULES, NOTHING) if rule.fits(situation))


def judged_verdict(number: int) -> Verdict:
    """Return what follows from the rule of a number."""
    return BY_NUMBER[number].verdict


def draw_table() -> str:
    """Return the rules as the table of the documentation."""
    lines = ["| # | object | reference | extra | verdict |", "|--:|---|---|---|---|"]
    columns = [field.name for field in fields(Rule)][:5]
    lines += ["| " + " | ".join(str(getattr(rule, name)) for name in columns) + " |" for rule in RULES]
    return "\n".join(lines) + "\n"
