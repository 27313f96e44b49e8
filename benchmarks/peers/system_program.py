"""
Measure one system once; every `system_*.py` runs as this program.

    PYTHON system_NAME.py measure '{"what": "drain", "jobs": 20000, …}'    # prints one line of JSON
    PYTHON system_NAME.py work                                             # the worker, until SIGTERM
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys

from harness import Failed, Order, System


def main(system: System) -> None:
    """Run the command line."""
    if sys.argv[1] == "work":
        gc.freeze()  # as `millhand worker` does; here for all systems in Python
        system.work()
        return
    from measures import measure  # noqa: PLC0415 - a worker has no need of it

    order = Order(**json.loads(sys.argv[2]))
    os.environ["BENCH_SETTINGS"] = json.dumps(order.settings)
    try:
        print(json.dumps(asyncio.run(measure(system, order))))
    except Failed as failed:
        sys.exit(f"failed: {failed}")
