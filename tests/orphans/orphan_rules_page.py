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

# What each rule is about: the object, the reference, and what else must hold.
DESCRIPTIONS = {
    1: ("present", "ready", "size and etag agree"),
    2: ("present", "ready", "size or etag differs"),
    3: ("any", "pending", "younger than grace, or seen in one run only"),
    4: ("present", "pending", "older than grace, seen in two complete runs, no other reference"),
    5: ("any", "pending, soft-deleted or unattached, past its time", "another reference exists"),
    6: ("any", "soft-deleted", "younger than retention, or seen in one run only"),
    7: ("any", "soft-deleted", "older than retention, seen in two complete runs, no other reference"),
    8: ("any", "a row that nothing references", "younger than grace, or seen in one run only"),
    9: (
        "any",
        "a row that nothing references",
        "older than grace, seen in two complete runs, no other reference",
    ),
    10: ("present", "none", "younger than one hour"),
    11: ("present", "none", "younger than grace, or seen in one run only"),
    12: ("present, unchanged", "none", "older than grace, seen in two complete runs"),
    13: ("present, overwritten", "none", ""),
    14: ("present, derived", "a row names its parent", ""),
    15: (
        "present, derived, unchanged",
        "none, and none of its parent",
        "older than grace, seen in two complete runs",
    ),
    16: ("any", "any", "no declared pattern fits the key"),
    17: ("any", "any", "under `.millhand/`, or an excluded or other prefix"),
    18: ("absent", "ready", "a second check finds nothing"),
    19: ("absent", "ready", "a second check finds it, a second listing does not"),
    20: ("absent", "pending", "older than grace, seen in two complete runs, no other reference"),
    21: ("multipart upload", "a row waits for it", ""),
    22: (
        "multipart upload",
        "none, or past its grace",
        "newest part older than grace, seen in two complete runs",
    ),
    23: ("any", "any", "legal hold or retention lock"),
    24: ("present", "none; a row names a key that differs only in how it is written", ""),
    25: (
        "multipart upload",
        "none, or past its grace",
        "newest part younger than grace, or seen in one run only",
    ),
}


def draw_table() -> str:
    """Return the rules as the table of the page."""
    lines = ["| # | object | reference | extra | verdict |", "|--:|---|---|---|---|"]
    lines += [
        f"| {rule.number} | {' | '.join(DESCRIPTIONS[rule.number])} | {rule.outcome} |" for rule in RULES
    ]
    return "\n".join(lines) + "\n"


def draw_page() -> str:
    """Return the whole page with the table of today."""
    return TABLE.sub(lambda _: draw_table(), PAGE.read_text(), count=1)


if __name__ == "__main__":
    PAGE.write_text(draw_page())
