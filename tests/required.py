"""What a test needs of the machine: where it is missing the test is skipped, and where it was promised it fails."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

VARIABLE = "MILLHAND_TEST_REQUIRE"


def missing(name: str, fault: str) -> NoReturn:
    """Skip for want of `name`, saying why; or fail, where MILLHAND_TEST_REQUIRE promises it (as `go rgw seaweed`)."""
    if name in os.environ.get(VARIABLE, "").replace(",", " ").split():
        pytest.fail(f"{VARIABLE} says that {name} must be there, but {fault}", pytrace=False)
    pytest.skip(fault)
