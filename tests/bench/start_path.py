"""
Count the bytecode instructions of a program's imports, and of the baseline: asyncio, asyncpg and msgspec.

    python tests/bench/start_path.py "from millhand import Client"    # prints both, and the modules beyond the baseline

It runs in a process of its own, because a process imports a module once.
"""

from __future__ import annotations

import sys

from instruction_counter import Counter

BASELINE = "import asyncio, asyncpg, msgspec"


def counted(program: str) -> int:
    """Return how many instructions a program takes."""
    counter, code = Counter(), compile(program, "program", "exec")
    sys.settrace(counter.enter)
    exec(code, {})  # noqa: S102 - a program of the tests
    sys.settrace(None)
    return counter.num_instructions


def main() -> None:
    """Run the first argument as a program and print its cost."""
    baseline = counted(BASELINE)
    before = set(sys.modules)
    print(baseline, counted(sys.argv[1]), *sorted(set(sys.modules) - before))


if __name__ == "__main__":
    main()
