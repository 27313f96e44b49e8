"""Mask the passwords of URLs in every text that Millhand shows."""

from __future__ import annotations

import re

MASK = "***"

# A password with a slash or an @ makes the URL invalid, and then an error shows it. The second alternative therefore masks
# up to the last @ of the word, perhaps more than the password. It is limited to 500 characters and needs a ://, so that a
# megabyte of text takes no noticeable time.
_USER = r"(://[^\s:/?#@]*):"
_PASSWORD_IN_URL = re.compile(rf"{_USER}(?:[^\s/?#]*@|\S{{0,500}}@)")
_PASSWORD_IN_QUERY = re.compile(r"([?&](?:ssl)?password=)[^&#\s'\"]+", re.IGNORECASE)
# In a text that is, or was meant as, one URL: everything between the user and the last @. A plain user without a password
# stays visible, because an access error is about that user.
_PASSWORD_OF_URL = re.compile(r"^(?![^\s:]*://[\w.~-]*@[^@]*$)([^:]*(?:://[^:]*)?):.*@", re.DOTALL)
# Without a host the password stands where a port would. A number counts as a port only if it is a usual one, follows a
# host name, or belongs to an object store, whose URLs have no keys.
_PORT = (
    r"(?:[^\s:/?#@]*:[56]432|(?:localhost|[^\s:/?#@]*\.[^\s:/?#@]*):\d{1,5}"
    r"|(?:(?<=http://)|(?<=https://))[^\s:/?#@]*:\d{1,5})(?:[,/?#&'\"]|$)"
)
_PASSWORD_AS_PORT = re.compile(rf"(://(?!{_PORT})[^\s:/?#@\[]*):[^/?#@]+")
# In libpq's other form, `host=db password=…`, quotes may be wrong, so everything after the password is masked.
_PASSWORD_IN_WORDS = re.compile(r"^((?:(?!://).)*?password\s*=\s*).*", re.DOTALL | re.IGNORECASE)
# As a URL option the password ends at the next option, even if it contains invalid characters.
_PASSWORD_AS_OPTION = re.compile(r"(password=)[^&]*", re.IGNORECASE)

# A value in an error, as Python's repr writes it, that starts like a URL.
_QUOTED_URL = re.compile(r"""'\s*[\w.+-]+://(?:[^'\\]|\\.)*'|"\s*[\w.+-]+://(?:[^"\\]|\\.)*\"""")


def masked_url(text: str) -> str:
    """Return a URL with its password masked, even if the URL is invalid."""
    for pattern in (_PASSWORD_IN_WORDS, _PASSWORD_AS_OPTION):
        text = pattern.sub(rf"\1{MASK}", text)
    return _PASSWORD_AS_PORT.sub(rf"\1:{MASK}", masked(_PASSWORD_OF_URL.sub(rf"\1:{MASK}@", text)))


def masked_error(text: str) -> str:
    """Return the text of an error with passwords masked, also those in invalid URLs that it quotes."""
    return masked(_QUOTED_URL.sub(_masked_quote, text) if "://" in text else text)


def masked(text: str) -> str:
    """Return `text` with the passwords of all URLs in it masked."""
    if "://" not in text:
        return text
    return _PASSWORD_IN_QUERY.sub(rf"\1{MASK}", _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", text))


def _masked_quote(quoted: re.Match[str]) -> str:
    return quoted[0][0] + masked_url(quoted[0][1:-1]) + quoted[0][-1]
