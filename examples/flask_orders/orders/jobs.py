"""The args of the jobs: all that the views need to insert one. The functions that work them are in worker.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class ConfirmOrder:
    kind: ClassVar[str] = "confirm_order"
    order_id: int
