"""
Write the table of rules into docs/reference/orphan_rules.md: `python tests/orphans/orphan_rules_page.py`.

If you add a rule, describe it here. A test compares the page, and the numbers, with the rules.
"""

from __future__ import annotations

import re
from pathlib import Path

from millhand.orphans.rules import RULES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "orphan_rules.md"
TABLE = re.compile(r"^\| # \|.*\n(?:\|.*\n)+", re.MULTILINE)

# What each rule is about: the object, the reference, what else must hold, and what happens without the rule.
DESCRIPTIONS = {
    1: (
        "present",
        "ready",
        "size and etag agree",
        "an object that got a row again would keep its age as an orphan",
    ),
    2: (
        "present",
        "ready",
        "size or etag differs",
        "an upload that was overwritten by accident would go, and the evidence with it",
    ),
    3: ("any", "pending", "not due", "an upload in flight would lose its row (`delta#1470`, `iceberg#4194`)"),
    4: ("present", "pending", "due, no other reference", "the file of an upload that finished late would go"),
    5: (
        "any",
        "pending, soft-deleted or unattached, past its time",
        "another reference exists",
        "the object of two rows would go with the first of them (`django-cleanup#44`)",
    ),
    6: ("any", "soft-deleted", "not due", "a user could not undo a deletion in the time that you promised"),
    7: (
        "any",
        "soft-deleted",
        "due, no other reference",
        "a row that was undeleted a moment ago would lose its object",
    ),
    8: (
        "any",
        "a row that nothing references",
        "not due",
        "a row that is attached in a second request would go between the two",
    ),
    9: (
        "any",
        "a row that nothing references",
        "due, no other reference",
        "a process that dies would leave a row without an object",
    ),
    10: ("present", "none", "younger than one hour", "an object whose row is not yet committed would go"),
    11: ("present", "none", "not due", "one faulty run would be enough: a wrong clock, a truncated listing"),
    12: (
        "present, unchanged",
        "none",
        "due",
        "a row inserted between comparison and removal would lose its object (`docker/distribution#3045`, `rails#33438`)",
    ),
    13: (
        "present, overwritten",
        "none",
        "",
        "a new object would inherit the age of the old one under its key",
    ),
    14: (
        "present, derived",
        "a row names its parent",
        "",
        "thumbnails of live images would go, because no row names them",
    ),
    15: (
        "present, derived, unchanged",
        "none, and none of its parent",
        "due",
        "thumbnails of deleted images would stay for ever",
    ),
    16: (
        "any",
        "any",
        "no declared pattern fits the key",
        "a file of another program would be judged by rules that do not know it",
    ),
    17: (
        "any",
        "any",
        "under `.millhand/`, or an excluded or other prefix",
        "the quarantine would go, or `images2/` beside `images/` (`supabase/storage#830`)",
    ),
    18: ("absent", "ready", "a second check finds nothing", "only your users would notice a lost object"),
    19: (
        "absent",
        "ready",
        "a second check finds it, a second listing does not",
        "an incomplete listing would cost the rows of the objects that it leaves out",
    ),
    20: (
        "absent",
        "pending",
        "due, no other reference",
        "rows of uploads that never arrived would stay for ever",
    ),
    21: (
        "multipart upload",
        "a row waits for it",
        "",
        "parts of an upload that a client is still sending would go",
    ),
    22: (
        "multipart upload",
        "none, or past its grace",
        "due",
        "parts of an old upload that still grows would go (`freeframe#251`)",
    ),
    23: ("any", "any", "legal hold or retention lock", "one locked object would end every run"),
    24: (
        "present",
        "none; a row names a key that differs only in how it is written",
        "",
        "objects would go because rows write their keys in another way (`iceberg#2890`, `iceberg#4346`)",
    ),
    25: (
        "multipart upload",
        "none, or past its grace",
        "not due",
        "an upload that pauses would be aborted at its first sighting",
    ),
}


def draw_table() -> str:
    """Return the rules as the table of the page."""
    lines = ["| # | object | reference | extra | verdict | without the rule |", "|--:|---|---|---|---|---|"]
    for rule in RULES:
        object_, reference, extra, loss = DESCRIPTIONS[rule.number]
        lines.append(f"| {rule.number} | {object_} | {reference} | {extra} | {rule.outcome} | {loss} |")
    return "\n".join(lines) + "\n"


def draw_page() -> str:
    """Return the whole page with the table of today."""
    return TABLE.sub(lambda _: draw_table(), PAGE.read_text(), count=1)


if __name__ == "__main__":
    PAGE.write_text(draw_page())
