"""River itself: the Go program `river_go` inserts and works; this file controls it."""

from __future__ import annotations

import os

import system_program
from program import ByProgram
from system_millhand import OnRiver


class River(ByProgram, OnRiver):
    """The Go client with default settings or with those of `river bench`; our connection only reads."""

    name = "river"

    def program(self, word: str) -> list[str]:
        return [os.environ["BENCH_PROGRAM"], word]


if __name__ == "__main__":
    system_program.main(River())
