"""
Lazy exports of a package: each name is imported when it is first used.

Rule 1: a package lists its names twice, as imports for type checkers and as `names` for run time. A test compares them.
Rule 2: no module of the package has the name of an export, because importing that module would replace the export.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping


def lazy_exports(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of `package`. `names` has the names of each module, separated by blanks."""
    modules = {name: module for module, group in names.items() for name in group.split()}
    namespace = vars(sys.modules[package])

    def getattribute(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = namespace[name] = getattr(importlib.import_module(modules[name]), name)
        return value

    return getattribute, lambda: sorted({*namespace, *modules})
