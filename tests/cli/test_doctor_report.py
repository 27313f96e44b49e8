"""What `millhand doctor` prints on terminals of each width, in a pipe, and as JSON."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from millhand.cli.doctor_report import blocks, lines, print_report, report_fields, summary
from millhand.shells.doctor.finding import CheckResult, Finding, Level, Report, Unseen, result_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "doctor.md"
COMMAND = (
    "CREATE INDEX CONCURRENTLY river_job_state_and_finalized_at_index ON river_job (state, finalized_at);"
)
MISSING = Finding(
    level=Level.BROKEN,
    subject="index river_job_state_and_finalized_at_index",
    found="Index river_job_state_and_finalized_at_index of river_job is missing.",
    effect="Statements that need it read all of river_job.",
    remedy="Create it, as the owner:",
    commands=(COMMAND,),
)
QUEUE = Finding(
    level=Level.NOTABLE,
    subject="queue a\x1b[2J",
    found="Queue a\x1b[2J is paused, and 3 jobs are due.",
    effect="They wait.",
    remedy="Resume it:",
    commands=("millhand queue resume a",),
)
HIDDEN = Unseen(reason="Role r cannot see it.", remedy="Ask as the owner.")


def report(*results: CheckResult) -> Report:
    return Report(database="shop", role="r", server="18.1", took=timedelta(milliseconds=312), results=results)


SEVERAL = report(
    result_of("queues.paused", [QUEUE]),
    result_of("schema.indexes", [MISSING]),
    result_of("fleet.leader", [HIDDEN]),
    result_of("jobs.slow", [HIDDEN]),
    result_of("jobs.overdue", []),
)
AT_60 = """\
broken   schema.indexes
         Index river_job_state_and_finalized_at_index of
         river_job is missing. Statements that need it read
         all of river_job.
         Remedy: Create it, as the owner:
           {command}

notable  queues.paused
         Queue a [2J is paused, and 3 jobs are due. They
         wait.
         Remedy: Resume it:
           millhand queue resume a

unseen   fleet.leader, jobs.slow
         Role r cannot see it.
         Remedy: Ask as the owner.
"""
AT_30 = """\
broken schema.indexes
  Index
  river_job_state_and_finalized_at_index
  of river_job is missing.
  Statements that need it read
  all of river_job.
  Remedy: Create it, as the
  owner:
    {command}

notable queues.paused
  Queue a [2J is paused, and 3
  jobs are due. They wait.
  Remedy: Resume it:
    millhand queue resume a

unseen fleet.leader, jobs.slow
  Role r cannot see it.
  Remedy: Ask as the owner.
"""


@pytest.mark.parametrize(("width", "text"), [(60, AT_60), (30, AT_30)])
def test_findings_are_wrapped_and_commands_are_not(width: int, text: str) -> None:
    """The worst finding is first, what is unseen is listed once, and a command stays one line to copy."""
    shown = "\n".join("".join(f"{line.rstrip()}\n" for line, _ in block) for block in blocks(SEVERAL, width))

    assert shown == text.format(command=COMMAND)


def test_wide_terminal_has_lines_that_can_be_read() -> None:
    """On a terminal of 200 columns, no sentence is longer than 100."""
    texts = [line for block in blocks(SEVERAL, 200) for line, style in block if style != "command"]

    assert max(map(len, texts)) <= 100


def test_findings_that_were_left_out_are_counted() -> None:
    """After ten findings of a check, a line counts the others."""
    many = report(result_of("queues.paused", [QUEUE] * 13))

    assert list(blocks(many, 80))[-1] == [("and 3 more findings of queues.paused", "")]


def test_pipe_has_a_line_of_seven_fields_for_each_finding(capsys: pytest.CaptureFixture[str]) -> None:
    """Levels, checks and subjects come first; each command is a field. Control characters become spaces."""
    print_report(SEVERAL)

    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[:3] for row in rows] == [
        ["broken", "schema.indexes", "index river_job_state_and_finalized_at_index"],
        ["notable", "queues.paused", "queue a [2J"],
        ["unseen", "fleet.leader", ""],
        ["unseen", "jobs.slow", ""],
    ]
    assert {len(row) for row in rows} == {len(next(iter(lines(SEVERAL))))} == {7}
    two = msgspec.structs.replace(QUEUE, commands=("SELECT 1;", "millhand queue resume a"))
    [of_two] = lines(report(result_of("queues.paused", [two])))
    assert of_two[6:] == two.commands
    assert err == (
        "5 checks of database shop as role r, PostgreSQL 18.1, in 312 ms: "
        "1 broken, 1 notable, 2 checks could not see everything\n"
    )


def test_summary_of_a_healthy_fleet_says_so() -> None:
    """Without a finding, nothing is counted."""
    assert summary(report(result_of("jobs.overdue", []))) == (
        "1 check of database shop as role r, PostgreSQL 18.1, in 312 ms: nothing found"
    )


def test_json_has_every_field_of_the_reference() -> None:
    """The object has the counts, and each check its findings and what it could not see."""
    fields = json.loads(msgspec.json.encode(report_fields(SEVERAL)))
    checks = {one["check"]: one for one in fields.pop("checks")}

    assert fields == {
        "database": "shop",
        "role": "r",
        "server_version": "18.1",
        "seconds": 0.312,
        "is_broken": True,
        "broken": 1,
        "harmful": 0,
        "notable": 1,
    }
    assert checks["schema.indexes"] == {
        "check": "schema.indexes",
        "level": "broken",
        "findings": [
            {
                "level": "broken",
                "subject": MISSING.subject,
                "found": MISSING.found,
                "effect": MISSING.effect,
                "remedy": MISSING.remedy,
                "commands": [COMMAND],
            }
        ],
        "more_findings": 0,
        "unseen": [],
    }
    assert checks["jobs.slow"]["unseen"] == [
        {"reason": HIDDEN.reason, "remedy": HIDDEN.remedy, "commands": []}
    ]
    assert checks["jobs.overdue"]["level"] is None
    names = {
        *fields,
        *checks["jobs.slow"],
        *checks["schema.indexes"]["findings"][0],
        *checks["jobs.slow"]["unseen"][0],
    }
    page = PAGE.read_text(encoding="utf-8")
    assert {name for name in names if f"`{name}`" not in page} == set()
