"""The forms of a name in texts: what they have in common, and how escapes are resolved."""

from __future__ import annotations

import pytest

from millhand.orphans.removal.text_forms import decoded, encodings, folded, readings, unescaped


@pytest.mark.parametrize(
    ("text", "common"),
    [
        ("Größe//A.JPG", "grösse/a.jpg"),
        ("a\\b+c", "a/b c"),
        ("./a/./b/../c", "./a/c"),
        ("ﬁle\u00ad\u200b.png", "file.png"),
        ("a\n\u00a0b", "a b"),
    ],
)
def test_what_all_ways_to_write_a_name_have_in_common(text: str, common: str) -> None:
    """Case, Unicode form, slashes, blanks and invisible characters make no difference, and folding twice changes nothing."""
    assert folded(text) == common
    assert folded(common) == common


def test_one_level_of_escapes_is_resolved() -> None:
    """Escapes of JSON, HTML, URLs and bytes are resolved once, also across several escapes of one character."""
    assert unescaped(r"\u00e9\ud83d\ude00\n\/\"") == 'é😀 /"'
    assert unescaped(r"\303\251 \xc3\xa9 \u{2f}") == "é é /"
    assert unescaped("&#x2F;&amp;sol;%2525%u002F") == "/&sol;%25/"
    assert decoded("a%25252Fb") == "a/b"


def test_a_text_has_several_readings() -> None:
    """A path of Windows, a URL and quoted-printable are each read as such, and no reading comes twice."""
    found = list(readings("a\\new=3D%2fb"))
    assert {"a/new=3d%2fb", "a ew=3d/b", "a/new=%2fb"} <= set(found)
    assert len(set(found)) == len(found)


def test_a_name_without_latin_letters_is_written_in_several_encodings() -> None:
    """A name of another script is expected in UTF-8 of both cases, in JSON, in URLs and in HTML."""
    found = encodings("д/ж")
    assert {
        "д/ж".encode(),
        "Д/Ж".encode(),
        b"\\u0434\\/\\u0436",
        b"%d0%b4%2f%d0%b6",
        b"&#1076;/&#1078;",
    } <= found
