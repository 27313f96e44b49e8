"""Mask the secrets of URLs, passwords first, in every text that Millhand shows."""

from __future__ import annotations

import re

MASK = "***"
# A secret that a cut divides has no longer the form of one. Longer than the password of a URL and than a session token.
CUT_MARGIN = 4_096

# The patterns are texts, which `re` compiles at the first use and keeps: compiling them all is a tenth of a worker's start.

# A password with a slash or an @ makes the URL invalid, and then an error shows it. The second alternative therefore masks
# up to the last @ of the word, perhaps more than the password. It is limited to 500 characters and needs a ://, so that a
# megabyte of text takes no noticeable time.
_USER = r"(://[^\s:/?#@]*):"
_PASSWORD_IN_URL = rf"{_USER}(?:[^\s/?#]*@|\S{{0,500}}@)"
# Options of libpq, of object stores and of signed links that hold a secret, by a part of their names.
_WORD = r"[\w%.-]{0,40}"  # limited, as above
_NAMED = r"password|passwd|pwd|secret|token|credential|signature|(?:access|account|api|scram_\w{6})_?key"
_OPTION = rf"{_WORD}(?:{_NAMED}){_WORD}|sig"
_SECRET_IN_QUERY = rf"(?i)([?&](?:{_OPTION})=)[^&#\s'\"]+"
# The user of a URL that is an option of another one, percent-encoded.
_ENCODED_USER = r"(?i)(%3A%2F%2F)(?:(?!%2F%2F|%40)[^&\s]){0,500}%40"
# In a text that is, or was meant as, one URL: everything between the user and the last @. A plain user without a password
# stays visible, because an access error is about that user.
_PASSWORD_OF_URL = r"(?s)^(?![^\s:]*://[\w.~-]*@[^@]*$)([^:]*(?:://[^:]*)?):.*@"  # noqa: S105 - a pattern
# Without a host the password stands where a port would. A number counts as a port only if it is a usual one, follows a
# host name, or belongs to an object store, whose URLs have no keys.
_PORT = (
    r"(?:[^\s:/?#@]*:[56]432|(?:localhost|[^\s:/?#@]*\.[^\s:/?#@]*):\d{1,5}"
    r"|(?:(?<=http://)|(?<=https://))[^\s:/?#@]*:\d{1,5})(?:[,/?#&'\"]|$)"
)
_PASSWORD_AS_PORT = rf"(://(?!{_PORT})[^\s:/?#@\[]*):[^/?#@]+"
# In libpq's other form, `host=db password=…`, quotes may be wrong, so everything after the password is masked.
_PASSWORD_IN_WORDS = r"(?is)^((?:(?!://).)*?password\s*=\s*).*"  # noqa: S105 - a pattern
# As a URL option the secret ends at the next option, even if it contains invalid characters.
_SECRET_AS_OPTION = rf"(?i)(password=|[?&](?:{_OPTION}|key)=)[^&]*"

# A value in an error, as Python's repr writes it, that starts like a URL.
_QUOTED_URL = r"""'\s*[\w.+-]+://(?:[^'\\]|\\.)*'|"\s*[\w.+-]+://(?:[^"\\]|\\.)*\""""


def masked_url(text: str) -> str:
    """Return a URL with its secrets masked, even if the URL is invalid."""
    for pattern in (_PASSWORD_IN_WORDS, _SECRET_AS_OPTION):
        text = re.sub(pattern, rf"\1{MASK}", text)
    return re.sub(_PASSWORD_AS_PORT, rf"\1:{MASK}", masked(re.sub(_PASSWORD_OF_URL, rf"\1:{MASK}@", text)))


def masked_error(text: str) -> str:
    """Return the text of an error with secrets masked, also those in invalid URLs that it quotes."""
    return masked(re.sub(_QUOTED_URL, _masked_quote, text) if "://" in text else text)


def masked(text: str) -> str:
    """Return `text` with the secrets of all URLs in it masked."""
    if "?" in text:
        text = re.sub(_ENCODED_USER, rf"\1{MASK}%40", re.sub(_SECRET_IN_QUERY, rf"\1{MASK}", text))
    return re.sub(_PASSWORD_IN_URL, rf"\1:{MASK}@", text) if "://" in text else text


def masked_head(text: str, length_max: int) -> str:
    """Return about the first `length_max` characters of a text with secrets masked, also a secret that the cut divides."""
    head = masked(text[:length_max])
    return head if len(text) <= length_max else masked(text[: length_max + CUT_MARGIN])[: len(head)]


def masked_tail(text: str, length_max: int) -> str:
    """Return about the last `length_max` characters of a text, as `masked_head`."""
    tail = masked(text[-length_max:])
    return tail if len(text) <= length_max else masked(text[-length_max - CUT_MARGIN :])[-len(tail) :]


def _masked_quote(quoted: re.Match[str]) -> str:
    return quoted[0][0] + masked_url(quoted[0][1:-1]) + quoted[0][-1]
