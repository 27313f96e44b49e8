"""Count Python's instructions, which are the same on any machine, busy or idle."""

from __future__ import annotations

from types import FrameType
from typing import Any


class Counter:
    """Counts the instructions of all frames that are entered while its tracer is set."""

    def __init__(self) -> None:
        self.num_instructions = 0

    def enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Trace a frame's instructions one by one."""
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._count

    def _count(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.num_instructions += 1
        return self._count
