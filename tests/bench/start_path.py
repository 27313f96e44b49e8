"""
What the imports of a program cost, counted and not timed, beside the floor: asyncio, asyncpg and msgspec.

    python tests/bench/start_path.py "from millhand import Client"    # prints both, and the modules beyond the floor

In a process of its own, for what is imported once is imported.
"""

from __future__ import annotations

import sys

from instruction_counter import Counter

FLOOR = "import asyncio, asyncpg, msgspec"


def counted(program: str) -> int:
    """Run a program and return how many instructions that took."""
    counter, code = Counter(), compile(program, "program", "exec")
    sys.settrace(counter.enter)
    exec(code, {})  # noqa: S102 - it is a test's own
    sys.settrace(None)
    return counter.num_instructions


def main() -> None:
    """Run the program that is the first argument, and print what it cost."""
    floor = counted(FLOOR)
    before = set(sys.modules)
    print(floor, counted(sys.argv[1]), *sorted(set(sys.modules) - before))


if __name__ == "__main__":
    main()
