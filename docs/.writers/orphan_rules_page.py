"""
Write the table of rules into docs/reference/orphan_rules.md: `python docs/.writers/orphan_rules_page.py`.

If you add a rule, describe it here. A test compares the page, and the numbers, with the rules.
"""

from __future__ import annotations

import re
from pathlib import Path

from millhand.orphans.rules import RULES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "orphan_rules.md"
TABLE = re.compile(r"^\| # \|.*\n(?:\|.*\n)+", re.MULTILINE)

# What each rule is about: the object, the reference, what else must hold, and what is lost without the rule.
DESCRIPTIONS = {
    1: ("present", "ready", "size and etag agree", "an object that got a row again"),
    2: ("present", "ready", "size or etag differs", "the evidence of an accidental overwrite"),
    3: ("any", "pending", "not due", "the row of an upload in flight (`delta#1470`, `iceberg#4194`)"),
    4: ("present", "pending", "due, no other reference", "the file of an upload that finished late"),
    5: (
        "any",
        "pending, soft-deleted or unattached, past its time",
        "another reference exists",
        "the object of two rows (`django-cleanup#44`)",
    ),
    6: ("any", "soft-deleted", "not due", "the time to undo a deletion"),
    7: (
        "any",
        "soft-deleted",
        "due, no other reference",
        "the object of a row that was undeleted a moment ago",
    ),
    8: ("any", "a row that nothing references", "not due", "a row that is attached in a second request"),
    9: (
        "any",
        "a row that nothing references",
        "due, no other reference",
        "an object whose row stays, if the process dies",
    ),
    10: ("present", "none", "younger than one hour", "an object whose row is not yet committed"),
    11: ("present", "none", "not due", "the objects of one faulty run: a wrong clock, a truncated listing"),
    12: (
        "present, unchanged",
        "none",
        "due",
        "the object of a row inserted meanwhile (`docker/distribution#3045`, `rails#33438`)",
    ),
    13: ("present, overwritten", "none", "", "a new object under an old key"),
    14: ("present, derived", "a row names its parent", "", "thumbnails of live images"),
    15: (
        "present, derived, unchanged",
        "none, and none of its parent",
        "due",
        "nothing: thumbnails of deleted images would stay",
    ),
    16: ("any", "any", "no declared pattern fits the key", "files of other programs"),
    17: (
        "any",
        "any",
        "under `.millhand/`, or an excluded or other prefix",
        "the quarantine, or `images2/` beside `images/` (`supabase/storage#830`)",
    ),
    18: ("absent", "ready", "a second check finds nothing", "an object, unnoticed"),
    19: (
        "absent",
        "ready",
        "a second check finds it, a second listing does not",
        "rows of objects that an incomplete listing leaves out",
    ),
    20: (
        "absent",
        "pending",
        "due, no other reference",
        "nothing: rows of uploads that never arrived would stay",
    ),
    21: ("multipart upload", "a row waits for it", "", "parts of an upload in flight"),
    22: (
        "multipart upload",
        "none, or past its grace",
        "due",
        "parts of an old upload that still grows (`freeframe#251`)",
    ),
    23: ("any", "any", "legal hold or retention lock", "nothing: one locked object would end every run"),
    24: (
        "present",
        "none; a row names a key that differs only in how it is written",
        "",
        "objects whose rows write their keys in another way (`iceberg#2890`, `iceberg#4346`)",
    ),
    25: ("multipart upload", "none, or past its grace", "not due", "an upload that pauses"),
}


def draw_table() -> str:
    """Return the rules as the table of the page."""
    lines = ["| # | object | reference | extra | verdict | lost without it |", "|--:|---|---|---|---|---|"]
    for rule in RULES:
        object_, reference, extra, loss = DESCRIPTIONS[rule.number]
        lines.append(f"| {rule.number} | {object_} | {reference} | {extra} | {rule.outcome} | {loss} |")
    return "\n".join(lines) + "\n"


def draw_page() -> str:
    """Return the whole page with the table of today."""
    return TABLE.sub(lambda _: draw_table(), PAGE.read_text(), count=1)


if __name__ == "__main__":
    PAGE.write_text(draw_page())
