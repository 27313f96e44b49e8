"""The limited queue of the benchmarks of limits."""

from __future__ import annotations

from typing import ClassVar

import msgspec

QUEUE = "limited"


class Push(msgspec.Struct, frozen=True):
    """The args of a job; `key` makes its partition."""

    kind: ClassVar[str] = "push"

    n: int
    key: int
