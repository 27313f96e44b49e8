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
# Of a text that is a URL and nothing else, or was meant for one, all between its user and its last @.
_PASSWORD_OF_URL = re.compile(r"^([^:]*(?:://[^:]*)?):.*@", re.DOTALL)


def masked_url(text: str) -> str:
    """Return `text`, which is a URL as a whole, with its password masked, however badly it is written."""
    return masked(_PASSWORD_OF_URL.sub(rf"\1:{MASK}@", text))


def masked(text: str) -> str:
    """Return `text` with the passwords of all URLs in it masked."""
    if "://" not in text:
        return text
    return _PASSWORD_IN_QUERY.sub(rf"\1{MASK}", _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", text))
