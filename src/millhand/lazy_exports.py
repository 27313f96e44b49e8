"""
The front door of a package whose names are fetched when they are asked for, so that whoever needs one waits for no other.

Rule 1: a package says its names twice: to type checkers as imports, and here as `names`, by module.
Rule 2: no module of the package is called as one of its names, or the one that was imported last would be that name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping


def door(
    package: str, names: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package: what is fetched once is there from then on."""
    places = {name: module for module, group in names.items() for name in group}
    inside = vars(sys.modules[package])

    def fetched(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = inside[name] = getattr(importlib.import_module(places[name]), name)
        return value

    return fetched, lambda: sorted({*inside, *places})
