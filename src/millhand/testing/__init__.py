"""For tests, ours and yours: what stands in for the parts of the world that a test wants to move itself."""

from millhand.testing.clock import ManualClock
from millhand.testing.probe import Probe

__all__ = ["ManualClock", "Probe"]
