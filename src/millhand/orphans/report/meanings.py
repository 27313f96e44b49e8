"""What the rule that fits a key means, in words for a person."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime

from millhand.core.orphans import OrphansConfig
from millhand.orphans.ledger import Action, ActionState
from millhand.orphans.report.report import duration_text

NOT_YET = "but not yet for {grace} and in two complete runs"
MEANINGS = {
    1: "live, a row references it",
    2: "kept, but its size or etag is not that of its row",
    3: f"kept, its row is pending, {NOT_YET}",
    4: "its row has been pending for {grace}; both are due for removal",
    5: "kept, the time of a row has ended but another row references it",
    6: "kept, its row is soft-deleted, but not yet for {retention} and in two complete runs",
    7: "its row has been soft-deleted for {retention}; both are due for removal",
    8: f"nothing references its row, {NOT_YET}",
    9: "nothing has referenced its row for {grace}; both are due for removal",
    10: "kept, no row references it but it is younger than {min_object_age}",
    11: f"an orphan, {NOT_YET}",
    12: "an orphan for {grace}, due for removal",
    13: f"an orphan, {NOT_YET} since it was overwritten",
    14: "kept, it is derived from a key that a row references",
    15: "an orphan for {grace}, as is its parent; due for removal",
    16: "kept, no declared pattern fits the key",
    17: "kept, the key is out of scope",
    18: "missing, a row references it but there is no object",
    19: "the store has it but does not list it; a run fails",
    20: "its row has been pending for {grace} without an object; the row is due for removal",
    21: "kept, a row waits for this multipart upload",
    22: "a multipart upload that no row has waited for in {grace}; a run in mode quarantine or delete aborts it",
    23: "kept, the object is locked",
    24: "kept, a row references a key that differs only in how it is written",
    25: f"a multipart upload without a row, {NOT_YET}",
}
# The setting that is the age of a finding by a rule; once it has passed, a run decides again.
AGES = {3: "grace", 6: "retention", 8: "grace", 11: "grace", 13: "grace", 25: "grace"}
PERIODS = {
    "grace": "the grace period",
    "retention": "the retention period",
    "min_object_age": "its least age",
}
NOTHING = "no object and no row has this key"


def meaning(rule: int, config: OrphansConfig | None) -> str:
    """
    Return what a rule means for a key that has an object or a row.

    Without the settings it names the periods, and not how long they are. A rule may be of another release.
    """
    if rule not in MEANINGS:
        return f"a rule of another release (rule {rule})"
    ages = PERIODS if config is None else {name: duration_text(getattr(config, name)) for name in PERIODS}
    return f"{MEANINGS[rule].format(**ages)} (rule {rule})"


def due_at(rule: int, first_seen_at: datetime, config: OrphansConfig | None) -> datetime | None:
    """Return when a finding can be due at the earliest; a later time of its row counts instead. None if it never is."""
    return None if config is None or rule not in AGES else first_seen_at + getattr(config, AGES[rule])


def meaning_of_absence(key: str, actions: Sequence[Action]) -> str:
    """Return why a key has neither an object nor a row. Shape: `actions` are newest first."""
    last = next(
        (action for action in actions if action.state in (ActionState.QUARANTINED, ActionState.PURGED)), None
    )
    if last is None:
        return NOTHING
    if last.state == ActionState.PURGED:
        return f"{NOTHING}; run {last.run_id} removed its object, which cannot be restored"
    return f"quarantined by run {last.run_id}; restore with: millhand orphans restore --key {shell_text(key)}"


def shell_text(text: str) -> str:
    """Return a text as a word for a shell. Of a control character, it has the escape of bash, zsh and ksh."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = "".join(
        one if one.isprintable() and one not in "\\'" else "".join(f"\\{byte:03o}" for byte in one.encode())
        for one in text
    )
    return f"$'{escaped}'"
