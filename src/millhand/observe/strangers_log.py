"""
structlog, for whoever uses it: its lines come to `logging`, where they are shown beside ours.

Millhand itself does not use it. It takes longer to import than everything that a worker needs, and so it is only set up
when a program imports it, whenever that is.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importlib.abc imports what is not wanted in a hurry, too
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec

NAME = "structlog"


def route_structlog() -> None:
    """Have structlog speak to `logging`, unless its user has it speak to somebody else: now, or when it is imported."""
    if NAME in sys.modules:
        _route()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def fields_of(record: logging.LogRecord) -> dict[str, Any] | None:
    """Return what was said through structlog, the phrase as `event`; None for a record of anybody else's."""
    # These two are what its `wrap_for_formatter` leaves, which is what ends a user's own chain of processors, too.
    is_wrapped = hasattr(record, "_logger") and hasattr(record, "_name")
    return record.msg if is_wrapped and isinstance(record.msg, dict) else None


def _route() -> None:
    import structlog  # noqa: PLC0415 - it is imported already

    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


class _Finder:
    """Waits for structlog to be imported, and finds nothing else."""

    def __init__(self) -> None:
        self._is_asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != NAME or self._is_asking:
            return None
        self._is_asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]  # it is one by what it has
        return spec


class _Loader:
    """Loads as another one does, and routes what was loaded."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._finder = finder
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        # From here on it is the other loader's: a reader of its sources and resources asks for that one.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _route()
