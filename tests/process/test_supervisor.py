"""Claims about the pauses between restarts of a process."""

from __future__ import annotations

import pytest

from millhand.process.supervisor import Ending, pause_seconds

EARLY, LATE = Ending(1, 0.5), Ending(-9, 3_600.0)


@pytest.mark.parametrize(
    ("endings", "seconds"),
    [
        ([EARLY], 1.0),
        ([EARLY, EARLY, EARLY], 4.0),
        ([EARLY] * 20, 30.0),
        ([LATE], 1.0),
        ([EARLY, EARLY, EARLY, LATE], 1.0),
        ([EARLY, EARLY, LATE, EARLY, EARLY], 2.0),
    ],
    ids=["first", "third", "many", "late", "late after early", "early after late"],
)
def test_pause_grows_with_each_early_end(endings: list[Ending], seconds: float) -> None:
    """The pause doubles with each early exit up to 30 s, and a long run resets it."""
    assert pause_seconds(endings) == seconds
