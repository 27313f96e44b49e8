"""The text of an error, as every command prints it."""

from __future__ import annotations

from millhand.observe.terminal_text import printable
from millhand.secret import masked_error


def explained(error: object) -> str:
    """Return the message of an error with secrets masked and control characters escaped."""
    return printable(masked_error(str(error)))
