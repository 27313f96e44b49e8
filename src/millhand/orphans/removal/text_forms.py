"""
The forms in which a text may write a name, and what all of them have in common. No input or output.

Each function is generous: a reading that the writer did not mean can only keep an object.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterator
from itertools import product
from urllib.parse import quote, unquote

CELL = "\x01"  # before, between and after the cells of a row
MAX_NESTED = 5  # escapes within escapes

# Soft hyphens, spaces without width, marks of direction and of byte order.
NO_WIDTH = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
INVISIBLE = re.compile(f"[{NO_WIDTH}]")
# Of JSON, JavaScript, CSS, PHP and C, and of PostgreSQL's bytea.
BACKSLASHED = re.compile(
    r"\\(?:u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|((?:x[0-9a-fA-F]{2}|[0-7]{3})(?:\\x[0-9a-fA-F]{2}|\\[0-7]{3})*)"
    r"|([nrtbfv])|(.))",
    re.DOTALL,
)
BYTE = re.compile(r"x([0-9a-fA-F]{2})|([0-7]{3})")
# A line of an e-mail ends with = if the text goes on.
QUOTED_PRINTABLE = re.compile(r"((?:=[0-9A-F]{2})+)|=\r?\n")
# Escapes of characters; the others escape bytes.
CHARACTERS = ("&#{};", "&#x{:x};", "\\u{:04x}")
BYTES = ("={:02x}", "\\x{:02x}", "\\{:03o}")
SLASHES = (
    "/",
    "//",
    "\\",
    "\\\\",
    "\\/",
    "\\\\/",
    "\\\\\\/",
    "%2f",
    "%252f",
    "&#x2f;",
    "&#47;",
    "\\u002f",
    "\\\\u002f",
)


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def visible(text: str) -> str:
    """Return `text` without characters that have no width, which may stand inside a word."""
    if text.isascii() or not any(one in text for one in NO_WIDTH):
        return text
    return INVISIBLE.sub("", text)


def folded(text: str) -> str:
    """Return what all ways to write a name have in common, apart from escapes."""
    if text.isascii():
        plain = text.lower()
    else:
        plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        plain = INVISIBLE.sub("", plain)
    plain = plain.replace("\\", "/").replace("+", " ")
    plain = re.sub(r"/(?:\.?/)+", "/", plain)
    if "/../" in plain:
        plain = re.sub(r"[^/\s]+/\.\./", "", plain)
    return re.sub(r"\s+", " ", plain)


def decoded(text: str) -> str:
    """Return `text` without its percent escapes, however often it was escaped."""
    for _ in range(MAX_NESTED):
        plain = unquote(text)
        if plain == text:
            break
        text = plain
    return text


def readings(text: str) -> Iterator[str]:
    """Yield `text` folded: as it is, and with more and more of its escapes resolved. Shape: no two are equal."""
    seen: set[str] = set()
    for start in _starts(text):
        plain = start
        for _ in range(MAX_NESTED):
            # An old application may escape Latin-1 instead of UTF-8.
            for one in (plain, unquote(plain, "latin-1")) if "%" in plain else (plain,):
                if (reading := folded(one)) not in seen:
                    seen.add(reading)
                    yield reading
            before, plain = plain, unescaped(plain)
            if plain == before:
                break


def unescaped(text: str) -> str:
    """Return `text` without one level of the escapes of JSON, HTML, URLs and strings of bytes."""
    if "\\" in text:
        text = BACKSLASHED.sub(_of_backslash, text)
        # JSON writes a character outside the first plane as two escapes.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if "&" in text:
        text = html.unescape(text)
    if "%" in text:
        text = unquote(re.sub(r"%u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text))
    return text


def encodings(name: str) -> set[bytes]:
    """Return the usual forms of a short name, or of one without a Latin letter or digit, as lower-case bytes."""
    found: set[str] = set()
    for whole in (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        for one in (whole, whole.lower(), whole.upper(), whole.title()):
            found |= _escaped(one)
    return {text.encode().lower() for text in found}


def _escaped(one: str) -> set[str]:
    found = {one.replace("/", slash) for slash in SLASHES}
    for text in (json.dumps(one)[1:-1], quote(one), html.escape(one)):
        found.update((text, text.replace("/", "\\/"), text.replace("/", "%2f")))
    found.add(quote(one, safe=""))
    for plain, escape in product(("/ ._-", "._-"), CHARACTERS + BYTES):
        units = one if escape in CHARACTERS else one.encode().decode("latin-1")
        found.add("".join(char if _is_plain(char, plain) else escape.format(ord(char)) for char in units))
    return found


def _is_plain(char: str, plain: str) -> bool:
    return char.isascii() and (char.isalnum() or char in plain)


def _starts(text: str) -> Iterator[str]:
    yield text
    if "\\" in text:  # of a path of Windows, \n is no new line
        yield text.replace("\\", "/")
    if "=" in text and QUOTED_PRINTABLE.search(text):
        yield QUOTED_PRINTABLE.sub(
            lambda found: bytes.fromhex((found[1] or "").replace("=", "")).decode("utf-8", "replace"), text
        )


def _of_backslash(found: re.Match[str]) -> str:
    code, long_code, octets, space, other = found.groups()
    if octets is not None:
        values = (int(hexa, 16) if hexa else int(octal, 8) & 255 for hexa, octal in BYTE.findall(octets))
        return bytes(values).decode("utf-8", "replace")
    if code or long_code:
        point = int(code or long_code, 16)
        return chr(point) if point <= 0x10FFFF else " "  # noqa: PLR2004 - the last code point
    return " " if space else str(other)
