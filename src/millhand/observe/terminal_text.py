"""Make text safe to show on a terminal: no character in it moves the cursor, sets a colour or reverses the text."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Return the text as one line. A space replaces each control character, line breaks and tabs included."""
    return text.translate(_ONE_LINE)


def printable(text: str) -> str:
    """Return the text with its line breaks. A JSON escape replaces each other control character."""
    return text.translate(_ESCAPED)


# Characters that change the direction of writing, and two that end a line.
_DIRECTION_MARKS = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_ONE_LINE = dict.fromkeys((*range(32), *range(127, 160), *_DIRECTION_MARKS), " ")
_ESCAPED = {
    code: f"\\u{code:04x}" for code in (*range(9), *range(11, 32), *range(127, 160), *_DIRECTION_MARKS)
}
