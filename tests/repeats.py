"""Parameters of a test of which one is enough at any time, and all are tried by the slow tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def first_of(*values: Any) -> Sequence[Any]:
    """Return parameters for `pytest.mark.parametrize`: the first one as it is, the others as slow tests."""
    first, *others = values
    return [
        first,
        *(
            pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=pytest.mark.slow)
            for one in others
        ),
    ]
