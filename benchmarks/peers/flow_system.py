"""A job system that works fan-outs: many parts, then one callback."""

from __future__ import annotations

import harness


class FlowSystem(harness.System):
    """A system whose workers run in places, so that a killed process is followed by one of the same place."""

    async def insert_fan_out(self, fan_out: int, num_parts: int) -> None:
        """Insert so many parts, and the callback that waits for them."""
        raise NotImplementedError

    def command_at(self, place: int) -> list[str]:
        """Return the command that starts the worker of a place."""
        return self.command()
