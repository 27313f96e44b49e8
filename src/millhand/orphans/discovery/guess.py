"""Guess which keys a value names: as a key, a URL, or JSON with either in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from urllib.parse import unquote

from millhand.core.job import Json
from millhand.storage.protocol import MAX_KEY_BYTES

MAX_PREFIXES = 30
MAX_DEPTH = 3  # directories in a base or a prefix
MAX_TEXTS = 200  # of one document
SERVER = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*/|/")
BARE_NAME = re.compile(r"[A-Za-z_]\w*")
WORD = re.compile(r"[A-Za-z]{1,24}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """One reading of a value: the key, and the base or `prepend` before it."""

    base: str | None = None
    key: str
    prepend: str = ""


@dataclass(frozen=True, slots=True)
class KeyShapes:
    """The form of the keys of a bucket, from a sample."""

    keys: frozenset[str]
    prefixes: tuple[str, ...]
    shapes: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, keys: Iterable[str]) -> KeyShapes:
        known = frozenset(keys)
        counted = Counter(prefix for key in known for prefix in _prefixes(key))
        prefixes = tuple(prefix for prefix, _ in counted.most_common(MAX_PREFIXES))
        return cls(known, prefixes, frozenset(map(_shape, known)))

    def fits(self, key: str) -> bool:
        """Return whether such a key may exist: the sample has one with the same beginning and extension."""
        return key in self.keys or (bool(key) and _shape(key) in self.shapes)

    def guesses(self, value: str) -> Iterator[Guess]:
        """Yield each reading of a value that fits the sample."""
        if not value or len(value) > 2 * MAX_KEY_BYTES or "\n" in value or "\0" in value:
            return
        if found := SERVER.match(value):
            yield from self._url_guesses(value, found[0])
            return
        for prepend in ("", *self.prefixes):
            if self.fits(prepend + value):
                yield Guess(key=prepend + value, prepend=prepend)

    def _url_guesses(self, url: str, base: str) -> Iterator[Guess]:
        path = re.sub(r"[?#].*$", "", url[len(base) :], flags=re.DOTALL)
        for _ in range(MAX_DEPTH):
            key = unquote(path)
            if self.fits(key):
                yield Guess(base=base, key=key)
            head, slash, path = path.partition("/")
            base += head + slash
            if not slash:
                return


def document_texts(document: Json, path: str = "$") -> Iterator[tuple[str, str]]:
    """Return the texts in a document, each with its JSON path."""
    return islice(_walk(document, path), MAX_TEXTS)


def _walk(document: Json, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(document, str):
        yield path, document
    elif isinstance(document, list):
        for part in document:
            yield from _walk(part, f"{path}[*]")
    elif isinstance(document, dict):
        for name, part in document.items():
            yield from _walk(part, f"{path}.{_quoted_name(name)}")


def _quoted_name(name: str) -> str:
    if BARE_NAME.fullmatch(name):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _prefixes(key: str) -> Iterator[str]:
    parts = key.split("/")[:-1]
    for depth in range(1, min(len(parts), MAX_DEPTH) + 1):
        # A directory that is a date or an id is no prefix to declare.
        if not WORD.fullmatch(re.sub(r"[-_. ]", "", parts[depth - 1])):
            return
        yield "/".join(parts[:depth]) + "/"


def _shape(key: str) -> tuple[str, str]:
    """Return what keys of a kind have in common: their beginning and their extension."""
    head, slash, _ = key.partition("/")
    name = key.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    begins = (
        head if slash and WORD.fullmatch(head) else re.sub(r"[^\W_]+", "w", head if slash else stem or name)
    )
    return f"{begins}{slash}", extension.lower() if dot and len(extension) <= len("parquet") else ""
