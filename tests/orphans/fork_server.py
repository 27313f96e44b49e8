"""A server that forks processes which have already imported what they need."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from typing import Any


def forkserver_context(*modules: str) -> Any:
    """Start the server, unless it runs, with these modules imported, and return the context of its processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    # It needs our path, or it imports nothing and reports no error.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context
