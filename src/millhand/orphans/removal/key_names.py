"""
Find the keys of objects in texts, however a text writes them. No input or output.

A text names a key if it contains it, or if what its escapes stand for contains it. Case, Unicode form, doubled slashes and
backslashes make no difference. docs/reference/orphan_search.md has the whole rule; tests/orphans/written_keys.py has an
example of each form.

    cells ─▶ one part of each key that no escape changes ─▶ the few cells that have one
          ─▶ each reading of such a cell ─▶ whole keys ─▶ no part of another name ─▶ named
"""

from __future__ import annotations

import re
from base64 import b64encode
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, product
from typing import Any, NamedTuple

from millhand.core.errors import ConfigError
from millhand.orphans.removal.text_forms import CELL, decoded, encodings, folded, nfc, readings, visible

TINY = 4  # characters; a shorter name must be a whole value
LONG = 12  # characters; a name of this length does not occur by accident, even inside a word
MIN_PART = 3  # characters of a part that no escape changes
MAX_PART = 16  # bytes; a longer part finds no fewer cells
COMMON_WORD, COMMON_NUMBER = 5, 8  # characters; shorter words and numbers are in many texts
FEW = 4  # names of one key share their parts
MIN_CODED = 8  # bytes of a name that is searched in base64 and in hexadecimal

PARTS = re.compile(rb"[a-z0-9]+")  # an escape may change any other character
PIECES = re.compile(rb"[a-z0-9.-]+")
# In these forms a text may have a hyphen or a dot.
MARKS = (
    "{}",
    "\\{}",
    "\\\\{}",
    "%{:x}",
    "%25{:x}",
    "&#{:d};",
    "&#x{:x};",
    "\\u00{:x}",
    "\\\\u00{:x}",
    "\\x{:x}",
    "={:x}",
)
NUMBER = re.compile(rb"[0-9a-f.-]+")
# A part of a text in base64 for URLs has - and _ where plain base64 has + and /.
FOLD = bytes.maketrans(bytes(range(65, 91)) + b"-_", bytes(range(97, 123)) + b"+/")
PLAIN_BASE64 = bytes.maketrans(b"-_", b"+/")
BEFORE_TINY, AFTER_TINY = "\"'`{[(,=/:;>", "\"'`}]),?#<&;\\"
EXTENSION = re.compile(r"\.\w{1,5}$")
RANDOM = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{16,}")
UUID = re.compile(r"([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})")


class Named(NamedTuple):
    """A cell that names keys: the positions of its row and column, its text, and the numbers of the keys."""

    row: int
    column: int
    text: str
    numbers: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A folded name of one key. A stem, a name without its extension, must not go on as a longer word."""

    text: str
    number: int
    is_stem: bool


def names_of(key: str, *, starts: Iterable[str] = ()) -> list[str]:
    """Return the names that a text may have for `key`. `starts` are beginnings that the application may leave out."""
    names = [key, *(key.removeprefix(start) for start in starts)]
    last = key.rpartition("/")[2]
    if EXTENSION.search(last) and RANDOM.search(last.lower()):
        names.append(last)
    uuids = [found.groups() for name in names if (found := UUID.fullmatch(name.lower()))]
    names += [form for groups in uuids for form in ("".join(groups), "-".join(groups))]
    return [name for name in dict.fromkeys(names) if name]


def is_searchable(key: str) -> bool:
    """Return whether a text can name the key at all: it has a visible character, and not the one between cells."""
    return CELL not in key and bool(folded(key).strip())


def is_uuid(key: str) -> bool:
    return UUID.fullmatch(key.lower()) is not None


def stands_alone(text: str, start: int, end: int, *, is_stem: bool = False) -> bool:
    """Return whether a name at this place of a folded text is no part of another name."""
    before, after = text[start - 1 : start] if start else "", text[end : end + 1]
    if end - start < TINY:
        return (not before or before in BEFORE_TINY + CELL) and (not after or after in AFTER_TINY + CELL)
    if (text[start].isdecimal() and before.isdecimal()) or (text[end - 1].isdecimal() and after.isdecimal()):
        return False
    if end - start >= LONG:
        return not (is_stem and _is_letter(after))
    if _is_letter(before) or before in ("_", ".", "-"):
        return False
    name, follows = text[start:end], text[end + 1 : end + 2]
    if _is_letter(after):
        return False
    if EXTENSION.search(name):
        return True
    is_word = name.isalpha() or name.isdecimal()
    return not ((after == "_" and is_word) or (after in (".", "-") and follows.isalnum()))


class KeyNames:
    """The names of all keys that are searched at once, ready to be found."""

    def __init__(self, names: Sequence[Sequence[str]]) -> None:
        """`names` has the names of each key, by the key's number. Raises: ConfigError, if the library is missing."""
        library = _library()
        sources = [
            (source, number)
            for number, all_ in enumerate(names)
            for name in all_
            for source in _sources(name)
        ]
        self._patterns = list(dict.fromkeys(_pattern(*source) for source in sources))
        self._coded = list(
            dict.fromkeys((code, number) for source, number in sources for code in _codes(source))
        )
        parts = _parts([source for source, _ in sources])
        self._others = list(parts.values())
        self._automaton = library.BytesAhoCorasick(
            [code[:MAX_PART].lower() for code, _ in self._coded] + list(parts)
        )
        self._whole = library.AhoCorasick([one.text for one in self._patterns])

    def find(self, rows: Sequence[str]) -> list[Named]:
        """Return the cells that name keys. A row is the text of its cells, with CELL before, between and after them."""
        texts = [visible(row).encode() for row in rows]
        data, mark = b"".join(texts), CELL.encode()
        starts = list(accumulate(map(len, texts), initial=0))
        found: list[Named] = []
        for start, coded in self._cells(data).items():
            row = bisect_right(starts, start) - 1
            text = data[start : data.find(mark, start)].decode()
            if numbers := coded | self._named_in(text):
                column = data.count(mark, starts[row], start) - 1
                found.append(Named(row, column, text, frozenset(numbers)))
        return found

    def find_in(self, text: str) -> frozenset[int]:
        """Return the numbers of the keys that one cell names."""
        return frozenset(chain.from_iterable(one.numbers for one in self.find([f"{CELL}{text}{CELL}"])))

    def _named_in(self, text: str) -> set[int]:
        numbers: set[int] = set()
        for reading in readings(text):
            for index, start, end in self._whole.find_matches_as_indexes(reading, overlapping=True):
                one = self._patterns[index]
                if one.number not in numbers and stands_alone(reading, start, end, is_stem=one.is_stem):
                    numbers.add(one.number)
        return numbers

    def _cells(self, data: bytes) -> dict[int, set[int]]:
        """Return the starts of the cells that may name keys, in order, with the keys that each has in base64 or in hex."""
        cells: dict[int, set[int]] = {}
        mark, plain = CELL.encode(), data.translate(FOLD)
        for index, start, end in self._automaton.find_matches_as_indexes(plain, overlapping=True):
            # The part of a tiny name may begin with the mark in front of its cell, and end with the one behind it.
            cell = data.rfind(mark, 0, max(start + 1, end - 1)) + 1
            if index < len(self._coded):
                code, number = self._coded[index]
                piece = data[start : start + len(code)]
                if code in (piece.translate(PLAIN_BASE64), piece.lower()):
                    cells.setdefault(cell, set()).add(number)
            elif cell not in cells:
                text = plain[cell : plain.find(mark, cell)]
                if all(part in text for part in self._others[index - len(self._coded)]):
                    cells[cell] = set()
        return dict(sorted(cells.items()))


def _library() -> Any:  # noqa: ANN401 - a module that may be missing
    try:
        import ahocorasick_rs  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "the search for undeclared references must have the library ahocorasick-rs, got none; "
            "run: pip install 'millhand[orphans]', or set orphans.mode = 'report'"
        ) from error
    return ahocorasick_rs


def _is_letter(char: str) -> bool:
    # A letter of another script ends a name: a text in Chinese or Russian may write a key without a blank.
    return char.isascii() and char.isalnum()


def _sources(name: str) -> list[str]:
    """Return a name as it is and without its own percent escapes, each without slashes and blanks at its ends."""
    plain = (nfc(name), nfc(decoded(name)))
    sources = dict.fromkeys((*plain, *(visible(one) or one for one in plain)))
    return [source.strip("/ ") or source for source in sources]


def _stem(source: str) -> str:
    """Return a long name without its extension; any other name as it is."""
    found = EXTENSION.search(source)
    return (
        source[: found.start()]
        if found and found.start() >= LONG and "/" in source[: found.start()]
        else source
    )


def _pattern(source: str, number: int) -> _Pattern:
    stem = _stem(source)
    return _Pattern(folded(stem) or source, number, is_stem=stem != source)


def _parts(sources: Sequence[str]) -> dict[bytes, frozenset[bytes]]:
    """
    Return one part of each name that all its forms have, each with the parts that all names with it have.

    Of a name that has no such part, return all forms.
    """
    all_parts = [_found_in(source, PARTS) for source in sources]
    num_keys = Counter(
        part for source, parts in zip(sources, all_parts, strict=True) for part in parts | _pieces_of(source)
    )
    chosen: dict[bytes, frozenset[bytes]] = {}
    for source, parts in zip(sources, all_parts, strict=True):
        if len(folded(source)) < TINY:
            for before, after in product(BEFORE_TINY + CELL, AFTER_TINY + CELL):
                chosen[f"{before}{source}{after}".encode().translate(FOLD)] = frozenset()
        elif parts or _pieces_of(source):
            # A short number is in more texts than a word that all keys have.
            rarest = min(
                parts | _pieces_of(source),
                key=lambda part: (_is_common(part), max(num_keys[part], FEW), not part.isalnum(), -len(part)),
            )
            for form in _marked(rarest):
                chosen[form] = chosen.get(form, parts) & parts
        else:
            chosen.update({form.translate(FOLD): frozenset() for form in encodings(source)})
    return chosen


def _is_common(part: bytes) -> bool:
    return len(part) < COMMON_WORD or (len(part) < COMMON_NUMBER and NUMBER.fullmatch(part) is not None)


def _pieces_of(source: str) -> frozenset[bytes]:
    """Return longer and rarer parts of a name, in which an escape may change hyphens and dots."""
    return frozenset(part for part in _found_in(source, PIECES) if not part.isalnum())


def _found_in(source: str, pattern: re.Pattern[bytes]) -> frozenset[bytes]:
    stem = _stem(source)
    whole = folded(stem).encode()
    parts = (part.strip(b".-") for part in pattern.findall(stem.encode().lower()))
    return frozenset(part for part in parts if len(part) >= MIN_PART and part in whole)


def _marked(part: bytes) -> set[bytes]:
    """Return the end of a part with its hyphens, its dots or both in each form."""
    forms = {part}
    for mark, (hyphen, dot) in product(MARKS, ((1, 0), (0, 1), (1, 1))):
        form = part.replace(b"-", _marks(mark, "-")) if hyphen else part
        forms.add(form.replace(b".", _marks(mark, ".")) if dot else form)
    return {form.translate(FOLD)[-MAX_PART:] for form in forms}


def _marks(form: str, mark: str) -> bytes:
    return form.format(mark if form.endswith("{}") else ord(mark)).encode()


def _codes(source: str) -> list[bytes]:
    """Return a name in hexadecimal, and in base64 at each of the three places where it may begin in a longer text."""
    data = source.encode()
    if len(data) < MIN_CODED:
        return []
    codes = [data.hex().encode()]
    for offset, skipped in enumerate((0, 2, 3)):
        # The characters at both ends also depend on the bytes beside the name.
        whole = (offset + len(data)) * 8 // 6
        codes.append(b64encode(bytes(offset) + data)[skipped:whole])
    return codes
