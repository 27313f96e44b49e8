"""Results of checks: sorted, limited and counted."""

from __future__ import annotations

from datetime import timedelta

from millhand.shells.doctor.finding import Finding, Level, Report, Unseen, result_of

HIDDEN = Unseen(reason="Hidden.", remedy="Ask.")


def fault(level: Level, subject: str = "s") -> Finding:
    return Finding(level=level, subject=subject, found="Found.", effect="Effect.", remedy="Remedy.")


def test_result_has_the_worst_findings_first_and_at_most_ten() -> None:
    """Of many findings the least bad are left out, and counted; what is unseen makes a check not in order."""
    result = result_of("a.b", [*(fault(Level.NOTABLE) for _ in range(11)), HIDDEN, fault(Level.BROKEN)])

    assert [one.level for one in result.findings] == [Level.BROKEN, *[Level.NOTABLE] * 9]
    assert (result.num_more, result.level, result.unseen, result.is_ok) == (2, Level.BROKEN, (HIDDEN,), False)
    assert not result_of("a.b", [HIDDEN]).is_ok
    assert result_of("a.b", []).is_ok


def test_report_counts_findings_that_were_left_out() -> None:
    """The count of a level includes those that are not listed."""
    results = (
        result_of("a.b", [fault(Level.NOTABLE) for _ in range(12)]),
        result_of("a.c", [fault(Level.HARMFUL)]),
    )
    report = Report(database="d", role="r", server="18", took=timedelta(0), results=results)

    assert [report.count(level) for level in Level] == [0, 1, 12]
    assert not report.is_broken
