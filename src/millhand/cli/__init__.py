"""The command line: a thin surface over what any program can do with this package."""

from __future__ import annotations

from millhand.cli.main import main

__all__ = ["main"]
