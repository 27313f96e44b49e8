"""Finding keys in texts: which forms count as references, and which do not."""

from __future__ import annotations

import sys

import pytest
from written_keys import FOUND, KEY, NOT_FOUND

from millhand.core.errors import ConfigError
from millhand.orphans.removal.key_names import KeyNames, names_of
from millhand.orphans.removal.text_forms import CELL

STARTS = ("media/",)


def test_every_form_of_the_table_is_found() -> None:
    """A text in each form of the table names its key, and no other key of the table that is not part of it."""
    keys = list(dict.fromkeys(key for key, _ in FOUND.values()))
    names = KeyNames([names_of(key, starts=STARTS) for key in keys])
    rows = [f"{CELL}{CELL}{text}{CELL}" for _, text in FOUND.values()]
    found = {one.row: one for one in names.find(rows)}

    missed = [
        form
        for row, (form, (key, _)) in enumerate(FOUND.items())
        if row not in found or keys.index(key) not in found[row].numbers
    ]
    assert missed == []
    assert len(FOUND) >= 94
    assert {one.column for one in found.values()} == {1}


def test_texts_that_count_as_no_reference_are_not_found() -> None:
    """A text that names no key, for the reason that the table gives, has no hit."""
    hits = [
        reason
        for reason, (key, text) in NOT_FOUND.items()
        if KeyNames([names_of(key, starts=STARTS)]).find_in(text)
    ]
    assert hits == []


def test_each_cell_is_found_at_its_place() -> None:
    """Among many rows, each cell that names a key is returned with its row, its column, and all keys that it names."""
    keys = [f"uploads/2026/{n:04}.jpg" for n in range(100)]
    names = KeyNames([names_of(key) for key in keys])
    rows = [f"{CELL}{n}{CELL}text{CELL}{CELL}" for n in range(50)]
    rows[7] = f"{CELL}7{CELL}{keys[3]},{keys[4]}{CELL}{CELL}"
    rows[9] = f"{CELL}{keys[5]}{CELL}text{CELL}{keys[6].upper()}{CELL}"

    found = [(one.row, one.column, one.numbers) for one in names.find(rows)]

    assert found == [(7, 1, {3, 4}), (9, 0, {5}), (9, 2, {6})]


@pytest.mark.slow
def test_keys_that_differ_in_a_short_number_are_found() -> None:
    """Keys whose words all others share are told apart, and a text with only some of their parts names none."""
    names = KeyNames([names_of(f"uploads/{n}/image.jpg") for n in range(2_000)])

    assert names.find_in("/uploads\\/1999\\/image.jpg, uploads%2F7%2Fimage.jpg") == {1999, 7}
    assert names.find_in("uploads/12/photo.jpg image/12/x 1999") == frozenset()


def test_a_key_that_only_shares_a_part_is_not_found() -> None:
    """A text that has the part of a key that the first step looks for, but not the key, is no hit."""
    assert KeyNames([names_of(KEY)]).find_in("other/2026/report-17.pdf") == frozenset()


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """If ahocorasick-rs is missing, nothing can be searched, and the error says what to install."""
    monkeypatch.setitem(sys.modules, "ahocorasick_rs", None)

    with pytest.raises(ConfigError) as error:
        KeyNames([["a"]])

    assert str(error.value) == (
        "the search for undeclared references must have the library ahocorasick-rs, got none; "
        "run: pip install 'millhand[orphans]', or set orphans.mode = 'report'"
    )
