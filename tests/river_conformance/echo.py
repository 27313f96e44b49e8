"""The args of the suite's job."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct


class Echo(Struct, frozen=True):
    """The args of the suite's job; every key is present."""

    kind: ClassVar[str] = "conformance_echo"

    behavior: str
    duration_ms: int
    message: str
