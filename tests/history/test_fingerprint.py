"""Errors that differ only in values have one fingerprint; other errors have their own."""

from __future__ import annotations

import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.history.fingerprint import CHARACTERS_MAX, TITLE_CHARACTERS_MAX, group_of

TITLES = [
    # Python
    ("ValueError: no name", "ValueError: no name"),
    ("KeyError: 'customer_17'", "KeyError: <text>"),
    ("OSError: [Errno 28] No space left on device: '/var/tmp/a.pdf'",
     "OSError: [Errno <number>] No space left on device: <text>"),
    ("UniqueViolation: Key (id)=(8a1f9c2e-0d3b-4c55-9f1e-aa10bb20cc30) exists", "UniqueViolation: Key (id)=(<id>) exists"),
    ("HTTPError: 503 for https://api.example.com/v1/orders/17?token=abc", "HTTPError: <number> for <url>"),
    ("TypeError: can't read user's file", "TypeError: can't read user's file"),
    ("ValueError: b'\\x00\\'' is no text", "ValueError: <text> is no text"),
    ("Refused: to=ann@example.com", "Refused: to=<email>"),
    ("Bad keys: ['a', 'b', 'c']", "Bad keys: [<text>]"),
    ("<__main__.A object at 0x7f3a2b1c9d10> is gone", "<__main__.A object at <id>> is gone"),
    # Go
    ("order 17: dial tcp 10.0.0.7:5432: connect: connection refused",
     "order <number>: dial tcp <number>: connect: connection refused"),
    ('strconv.Atoi: parsing "12a": invalid syntax', "strconv.Atoi: parsing <text>: invalid syntax"),
    ('Get "http://a/b": context deadline exceeded', "Get <text>: context deadline exceeded"),
    ("pq: relation `shop_2024` does not exist", "pq: relation <text> does not exist"),
    ("commit 9fceb02d0ae598e95dc970b74767f19372d61af8 not found", "commit <id> not found"),
    ("no such customer: cus_NffrFeUfNV2Hib", "no such customer: cus_<id>"),
    # Any
    ("two\n\tlines", "two lines"),
    ("", "(no text)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "title"), TITLES)
def test_title_is_the_text_without_its_values(text: str, title: str) -> None:
    """URLs, ids, addresses, quoted texts and numbers become placeholders, in errors of both languages."""
    assert group_of(text).title == title


def test_different_errors_have_different_fingerprints() -> None:
    """No two titles share a fingerprint."""
    assert len({group_of(text).fingerprint for text, _ in TITLES}) == len(TITLES)


@pytest.mark.slow
@given(
    st.integers(0, 10**30),
    st.uuids(),
    st.text(string.printable.replace("'", "").replace("\\", "").replace("\n", "").replace("\r", ""), max_size=40)
    .filter(str.isprintable),
)  # fmt: skip
def test_values_do_not_change_the_fingerprint(number: int, id: uuid.UUID, quoted: str) -> None:
    """The same sentence with any number, id and quoted text is the same error."""
    text = "ValueError: order {} of {} has the name '{}', see https://example.com/{}"
    other = text.format(7, uuid.UUID(int=1), "x", 9)

    assert group_of(text.format(number, id, quoted, number)) == group_of(other)


@given(st.text(max_size=400))
def test_title_is_its_own_title(text: str) -> None:
    """Grouping a title again changes nothing, so placeholders are never taken for values."""
    title = group_of(text).title

    assert len(title) <= TITLE_CHARACTERS_MAX
    assert group_of(title).title == title or len(title) >= TITLE_CHARACTERS_MAX - 1


@pytest.mark.parametrize(
    "text", ["'" * 9_999, "a" * 9_999, "1." * 5_000, "a@" * 5_000, "[<text>, " * 999, "\\'" * 999]
)
def test_long_texts_are_grouped_by_their_beginning(text: str) -> None:
    """A text of any length and shape is read up to its limit; what follows does not matter."""
    assert group_of(text[:CHARACTERS_MAX]) == group_of(text)
