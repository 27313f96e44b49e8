"""A terminal on which a user answers yes, for the tests of what happens while a question waits."""

from __future__ import annotations

import io
from collections.abc import Callable


class AnsweringTerminal(io.StringIO):
    """
    A terminal whose user answers yes to the first question, after `meanwhile` has happened.

    Click's oldest version writes a blank to standard output.
    """

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self._meanwhile = meanwhile

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1, /) -> str:
        self._meanwhile()
        return "y\n"
