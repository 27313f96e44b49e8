"""What each line of the ledger means to a person."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from millhand.core.orphans import OrphansConfig
from millhand.orphans.ledger import Run, Totals
from millhand.orphans.report.ledger_lines import rule_lines, run_line
from millhand.orphans.report.ledger_report import COUNTED_MAX, RuleCount
from millhand.orphans.report.meanings import MEANINGS, due_at, meaning, shell_text
from millhand.orphans.rules import BY_NUMBER, Kind, Verdict

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
CONFIG = OrphansConfig()


def test_rules_that_remove_come_first_and_an_unknown_rule_is_named() -> None:
    """Counts of several runs are added up to the limit; a rule of another release has no kind, and is never due."""
    counts = [RuleCount(1, 11, 3), RuleCount(2, 11, 4), RuleCount(2, 12, COUNTED_MAX), RuleCount(1, 12, 1)]

    found = rule_lines([*counts, RuleCount(2, 999, 1), RuleCount(2, 3, 2), RuleCount(2, 22, 5)], CONFIG)

    assert [(one.rule, one.is_due, one.number, one.kind) for one in found] == [
        (12, True, COUNTED_MAX, "orphan"),
        (22, True, 5, "upload"),
        (11, False, 7, "orphan"),
        (999, False, 1, ""),
        (3, False, 2, "waiting"),
    ]
    assert found[3].meaning == "a rule of another release (rule 999)"


def test_what_a_run_decides_later_has_a_time() -> None:
    """Each rule whose finding only waits for its age says when that ends, and no other rule does."""
    waits = {
        rule.number
        for rule in BY_NUMBER.values()
        if rule.kind is Kind.WAITING or (rule.kind is not None and rule.verdict is Verdict.CANDIDATE)
    }

    assert {rule for rule in MEANINGS if due_at(rule, NOW, CONFIG)} == waits
    assert (due_at(11, NOW, CONFIG), due_at(6, NOW, CONFIG)) == (
        NOW + timedelta(days=7),
        NOW + timedelta(days=30),
    )
    assert due_at(11, NOW, None) is None


@pytest.mark.parametrize("rule", MEANINGS)
def test_meaning_without_the_settings_has_no_length(rule: int) -> None:
    """A text without the settings names each period, and claims no number of days."""
    text = meaning(rule, None)

    assert "{" not in text
    assert not any(unit in text for unit in (" d ", " d,", " h "))


@pytest.mark.parametrize(
    ("seconds", "finished_at", "is_silent"), [(59, None, False), (61, None, True), (61, NOW, False)]
)
def test_run_without_a_heartbeat_is_silent(
    seconds: int, finished_at: datetime | None, is_silent: bool
) -> None:
    """A run that has not ended and beats no more has lost its process."""
    run = Run(
        id=1, bucket="b", mode="delete", fingerprint="f", state="scanning", epoch=1, started_at=NOW,
        heartbeat_at=NOW - timedelta(seconds=seconds), scanned_at=None, finished_at=finished_at, cursor_key="",
        is_ordered=True, totals=Totals(), abort_reasons=(), error=None,
    )  # fmt: skip

    assert run_line(run, NOW).is_silent is is_silent


@pytest.mark.parametrize(
    "text",
    [
        "a.png",
        "my photo's.png",
        "$(rm -rf /)`id`",
        "-x",
        "a\nb\x01\x7f'\\1",
        "ключ ☃\u202egpj.exe",
        "a\u00a0b",
        "~",
    ],
)
def test_shell_reads_a_text_back_as_it_was(text: str) -> None:
    """A command that is copied has exactly the text, and shows each character that has no look."""
    word = shell_text(text)
    command = ["bash", "-c", f"printf '%s' {word}"]

    assert word.isprintable()
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode() == text
