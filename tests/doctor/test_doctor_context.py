"""What checks share is loaded once."""

from __future__ import annotations

import pytest

from millhand.core.errors import DriverError
from millhand.doctor.context import Once


async def test_value_is_loaded_once_and_so_is_an_error() -> None:
    """Several checks that need the same value ask once, and all of them get the error, if there was one."""
    calls: list[str] = []

    async def load() -> int:
        calls.append("load")
        return len(calls)

    async def fail() -> int:
        calls.append("fail")
        raise DriverError("q", "no")

    value, error = Once(load), Once(fail)
    values = [await value.get(), await value.get()]
    for _ in range(2):
        with pytest.raises(DriverError, match="q must succeed, got no"):
            await error.get()

    assert (values, calls) == ([1, 1], ["load", "fail"])
