"""Secrets do not reach people's eyes: passwords in URLs are masked wherever text is shown."""

from __future__ import annotations

import re

MASK = "***"

# A password with a slash or an @ in it is not a valid URL, and just then it is shown in an error: hence the second try,
# which takes everything up to the last @ of the word and may mask more than the password. It looks no further than 500
# characters, and nothing is read before the ://, so that a megabyte of somebody's data takes no time to speak of.
_USER = r"(://[^\s:/?#@]*):"
_PASSWORD_IN_URL = re.compile(rf"{_USER}(?:[^\s/?#]*@|\S{{0,500}}@)")
_PASSWORD_IN_QUERY = re.compile(r"([?&](?:ssl)?password=)[^&#\s'\"]+", re.IGNORECASE)
# Of a text that is a URL and nothing else, or was meant for one, all between its user and its last @; a user alone, of
# plain signs, is left: who was not let in wants to know as whom he came.
_PASSWORD_OF_URL = re.compile(r"^(?![^\s:]*://[\w.~-]*@[^@]*$)([^:]*(?:://[^:]*)?):.*@", re.DOTALL)
# Where the host was forgotten, the password stands in the place of a port: a number is taken for a port only where it is
# a usual one, follows what is no user's name, or is that of an object store, whose keys stand in no URL.
_PORT = (
    r"(?:[^\s:/?#@]*:[56]432|(?:localhost|[^\s:/?#@]*\.[^\s:/?#@]*):\d{1,5}"
    r"|(?:(?<=http://)|(?<=https://))[^\s:/?#@]*:\d{1,5})(?:[,/?#&'\"]|$)"
)
_PASSWORD_AS_PORT = re.compile(rf"(://(?!{_PORT})[^\s:/?#@\[]*):[^/?#@]+")
# In libpq's other form, `host=db password=…`, it ends where its quotes do, which may be wrong: all that follows is cut.
_PASSWORD_IN_WORDS = re.compile(r"^((?:(?!://).)*?password\s*=\s*).*", re.DOTALL | re.IGNORECASE)
# As an option of a URL it ends at the next one, whatever signs are in it that may not be there.
_PASSWORD_AS_OPTION = re.compile(r"(password=)[^&]*", re.IGNORECASE)

# A value that an error shows, as Python's repr writes it, if it begins as a URL does.
_QUOTED_URL = re.compile(r"""'\s*[\w.+-]+://(?:[^'\\]|\\.)*'|"\s*[\w.+-]+://(?:[^"\\]|\\.)*\"""")


def masked_url(text: str) -> str:
    """Return `text`, which is a URL as a whole, with its password masked, however badly it is written."""
    for pattern in (_PASSWORD_IN_WORDS, _PASSWORD_AS_OPTION):
        text = pattern.sub(rf"\1{MASK}", text)
    return _PASSWORD_AS_PORT.sub(rf"\1:{MASK}", masked(_PASSWORD_OF_URL.sub(rf"\1:{MASK}@", text)))


def masked_error(text: str) -> str:
    """Return what an error says with the passwords in it masked, in values that it quotes however badly they are written."""
    return masked(_QUOTED_URL.sub(_masked_quote, text) if "://" in text else text)


def masked(text: str) -> str:
    """Return `text` with the passwords of all URLs in it masked."""
    if "://" not in text:
        return text
    return _PASSWORD_IN_QUERY.sub(rf"\1{MASK}", _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", text))


def _masked_quote(quoted: re.Match[str]) -> str:
    return quoted[0][0] + masked_url(quoted[0][1:-1]) + quoted[0][-1]
