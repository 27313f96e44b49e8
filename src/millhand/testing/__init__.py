"""For tests, ours and yours: which jobs were inserted, one job worked, and time that a test moves itself."""

from millhand.testing.clock import ManualClock
from millhand.testing.inserted import require_inserted, require_many_inserted, require_not_inserted
from millhand.testing.probe import Probe
from millhand.testing.work import Worked, work, work_again

__all__ = [
    "ManualClock",
    "Probe",
    "Worked",
    "require_inserted",
    "require_many_inserted",
    "require_not_inserted",
    "work",
    "work_again",
]
