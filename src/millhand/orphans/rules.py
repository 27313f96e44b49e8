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

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

When: TypeAlias = dict[str, tuple[object, ...]]


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
    when: When

    def fits(self, situation: Situation) -> bool:
        return all(getattr(situation, name) in values for name, values in self.when.items())


YES, NO = (True,), (False,)
IN_SCOPE: When = {"scope": (Scope.IN_SCOPE,), "is_upload": NO}
UPLOAD: When = {"scope": (Scope.IN_SCOPE,), "is_upload": YES}
PRESENT = IN_SCOPE | {"is_present": YES}
ABSENT = IN_SCOPE | {"is_present": NO}
NO_ROW: When = {"reference": (Reference.NONE,)}
ROW_READY: When = {"reference": (Reference.READY,)}
ROW_PENDING: When = {"reference": (Reference.PENDING,)}
ROW_SOFT_DELETED: When = {"reference": (Reference.SOFT_DELETED,)}
ROW_UNATTACHED: When = {"reference": (Reference.UNATTACHED,)}
ROW_PAST: When = {"reference": (Reference.PENDING, Reference.SOFT_DELETED, Reference.UNATTACHED)}
ANY_ROW: When = {"reference": tuple(one for one in Reference if one is not Reference.NONE)}
PAST: When = {"is_past": YES}
NOT_PAST: When = {"is_past": NO}
PAST_ALONE: When = {"is_past": YES, "is_shared": NO}
PAST_SHARED: When = {"is_past": YES, "is_shared": YES}
SAME: When = {"is_same": YES}
UNTIED = (Tie.NONE, Tie.PARENT_GONE)
ROWLESS = PRESENT | NO_ROW
ORPHANED = ROWLESS | {"is_young": NO, "tie": UNTIED}
CHECK_AGAIN = "check again, then quarantine or delete"
CLAIM = "claim the row, delete it, then remove the object"

_TABLE: tuple[tuple[int, str, Verdict, Kind | None, When], ...] = (
    (1, "live; clears any candidate", Verdict.LIVE, None, PRESENT | ROW_READY | {"agrees": YES}),
    (
        2,
        "report `size_mismatch`, never delete",
        Verdict.REPORT,
        Kind.SIZE_MISMATCH,
        PRESENT | ROW_READY | {"agrees": NO},
    ),
    (3, "in flight, ignore", Verdict.IGNORE, Kind.WAITING, IN_SCOPE | ROW_PENDING | NOT_PAST),
    (4, CLAIM, Verdict.REMOVE_ROW_AND_OBJECT, Kind.ABANDONED, PRESENT | ROW_PENDING | PAST_ALONE),
    (5, "report `shared`, delete nothing", Verdict.REPORT, Kind.SHARED, IN_SCOPE | ROW_PAST | PAST_SHARED),
    (6, "keep", Verdict.KEEP, Kind.WAITING, IN_SCOPE | ROW_SOFT_DELETED | NOT_PAST),
    (7, CLAIM, Verdict.REMOVE_ROW_AND_OBJECT, Kind.ABANDONED, IN_SCOPE | ROW_SOFT_DELETED | PAST_ALONE),
    (8, "candidate", Verdict.CANDIDATE, Kind.ABANDONED, IN_SCOPE | ROW_UNATTACHED | NOT_PAST),
    (
        9,
        "the row first, then the object",
        Verdict.REMOVE_ROW_AND_OBJECT,
        Kind.ABANDONED,
        IN_SCOPE | ROW_UNATTACHED | PAST_ALONE,
    ),
    (10, "ignore", Verdict.IGNORE, None, ROWLESS | {"is_young": YES, "tie": (*UNTIED, Tie.NEAR_MATCH)}),
    (11, "candidate", Verdict.CANDIDATE, Kind.ORPHAN, ORPHANED | SAME | NOT_PAST),
    (12, CHECK_AGAIN, Verdict.REMOVE_OBJECT, Kind.ORPHAN, ORPHANED | SAME | PAST | {"tie": (Tie.NONE,)}),
    (13, "candidate; its age starts again", Verdict.CANDIDATE, Kind.ORPHAN, ORPHANED | {"is_same": NO}),
    (14, "keep", Verdict.KEEP, None, ROWLESS | {"tie": (Tie.PARENT,)}),
    (
        15,
        f"as for its parent: {CHECK_AGAIN}",
        Verdict.REMOVE_OBJECT,
        Kind.ORPHAN,
        ORPHANED | SAME | PAST | {"tie": (Tie.PARENT_GONE,)},
    ),
    (16, "keep, count as `unclassified`", Verdict.KEEP, None, {"scope": (Scope.UNDECLARED,)}),
    (17, "out of scope", Verdict.IGNORE, None, {"scope": (Scope.OUTSIDE,)}),
    (
        18,
        "report `missing`; if it is in quarantine, restore it and raise an alert",
        Verdict.REPORT,
        Kind.MISSING,
        ABSENT | ROW_READY | {"look": (Look.NOT_TAKEN, Look.NOT_FOUND)},
    ),
    (
        19,
        "the listing cannot be trusted: the run fails",
        Verdict.FAIL_RUN,
        None,
        ABSENT | ROW_READY | {"look": (Look.FOUND_UNLISTED,)},
    ),
    (
        20,
        "claim the row and delete it",
        Verdict.REMOVE_ROW,
        Kind.ABANDONED,
        ABSENT | ROW_PENDING | PAST_ALONE,
    ),
    (21, "keep", Verdict.KEEP, None, UPLOAD | ANY_ROW),
    (22, "abort it and check that it is gone", Verdict.ABORT_UPLOAD, Kind.UPLOAD, UPLOAD | NO_ROW | PAST),
    (23, "skip and report why", Verdict.SKIP, None, {"scope": (Scope.LOCKED,)}),
    (
        24,
        "report `near_match`, never delete",
        Verdict.REPORT,
        Kind.NEAR_MATCH,
        ROWLESS | {"is_young": NO, "tie": (Tie.NEAR_MATCH,)},
    ),
    (25, "candidate", Verdict.CANDIDATE, Kind.UPLOAD, UPLOAD | NO_ROW | NOT_PAST),
)
RULES = tuple(
    Rule(number=number, outcome=outcome, verdict=verdict, kind=kind, when=when)
    for number, outcome, verdict, kind, when in _TABLE
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
NOTHING = Rule(number=0, outcome="nothing to decide", verdict=Verdict.IGNORE, when=ABSENT | NO_ROW)


def find_rule(situation: Situation) -> Rule:
    return next(rule for rule in (*RULES, NOTHING) if rule.fits(situation))
