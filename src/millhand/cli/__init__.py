"""The command line, a thin layer over the public API."""

from __future__ import annotations

from millhand.cli.main import main

__all__ = ["main"]
