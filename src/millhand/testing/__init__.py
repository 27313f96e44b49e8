"""
Test kit: assert which jobs were inserted, work jobs, and move time.

The functions are asynchronous and take a `Client`. `millhand.testing.sync` has the same ones for a `SyncClient`.
"""

from millhand.testing.clock import ManualClock
from millhand.testing.drain import Counts, Drained, drain, work_one
from millhand.testing.inserted import require_inserted, require_many_inserted, require_not_inserted
from millhand.testing.probe import Probe
from millhand.testing.travel import TimeTravel, time_travel
from millhand.testing.work import Worked, work, work_again

__all__ = [
    "Counts",
    "Drained",
    "ManualClock",
    "Probe",
    "TimeTravel",
    "Worked",
    "drain",
    "require_inserted",
    "require_many_inserted",
    "require_not_inserted",
    "time_travel",
    "work",
    "work_again",
    "work_one",
]
