"""Groups errors: texts that differ only in numbers, ids, addresses and quoted texts have one fingerprint."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import msgspec

# Read of an error's text. What follows rarely says which error it is.
CHARACTERS_MAX = 2_000
TITLE_CHARACTERS_MAX = 300

# In this order, because a URL contains ids, and an id contains numbers.
_PARTS = re.compile(
    r"""
      (?P<url>    \b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'"`<>]+ )
    | (?P<text>   (?<!\w)[bruf]?(?: '(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*" | `[^`\n]*`
                  | \u201c[^\u201d\n]*\u201d | \u2018[^\u2019\n]*\u2019 )(?!\w) )
    | (?P<email>  [\w.+-]+@[\w-]+\.[\w.-]+ )
    | (?P<id>     (?<![^\W_])(?: [0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12} | 0[xX][0-9a-fA-F]+
                  | (?=[a-fA-F]*[0-9])(?=[0-9]*[a-fA-F])[0-9a-fA-F]{6,}
                  | (?=[a-zA-Z]*[0-9])(?=[0-9]*[a-zA-Z])[0-9a-zA-Z]{10,} )(?![^\W_]) )
    | (?P<number> [0-9]+(?:[.,:][0-9]+)* )
    """,
    re.VERBOSE,
)
# A list of any length is one part.
_REPEATED = re.compile(r"(<(?:url|text|email|id|number)>)(?:[\s,;|/.:-]{1,3}\1)+")
_SPACE = re.compile(r"\s+")


class ErrorGroupKey(msgspec.Struct, frozen=True):
    """The group of an error: a hash, and the text with placeholders that it is the hash of."""

    fingerprint: str
    title: str


# The web page reads the same errors with each request; a group costs 25 µs. Takes 16 MB at most.
@lru_cache(maxsize=4_096)
def group_of(error: str) -> ErrorGroupKey:
    """Return the group of an error's text, of any language."""
    text = _SPACE.sub(" ", _PARTS.sub(lambda part: f"<{part.lastgroup}>", error[:CHARACTERS_MAX])).strip()
    title = _REPEATED.sub(r"\1", text)[:TITLE_CHARACTERS_MAX].rstrip() or "(no text)"
    return ErrorGroupKey(hashlib.blake2b(title.encode("utf-8", "replace"), digest_size=8).hexdigest(), title)
