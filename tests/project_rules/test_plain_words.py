"""Retired words do not come back: each had a private meaning that a new reader must guess."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from source_files import sources, texts

# Retired word or phrase: what to write instead.
RETIRED = {
    "mill": "engine",
    "the house": "package, module, project",
    "room": "package, module",
    "rooms": "packages, modules",
    "cellar": "database layer",
    "front desk": "client",
    "front door": "public API, lazy exports",
    "office": "leader role",
    "offices": "leader roles",
    "way made": "stepped down",
    "make way": "step down",
    "makes way": "steps down",
    "lead last": "prefer other clients as leader",
    "sweeper": "maintenance service",
    "sweepers": "maintenance services",
    "bell": "wake event",
    "bells": "wake events",
    "ring": "wake",
    "rings": "wakes",
    "rung": "woken; step",
    "hear": "receive",
    "hears": "receives",
    "heard": "received",
    "ear": "listener",
    "ears": "listeners",
    "heed": "react to",
    "heeds": "reacts to",
    "tell": "log, report, return",
    "tells": "logs, reports, returns",
    "told": "logged, reported, returned",
    "says so": "reports it",
    "give up": "declare dead, abandon, stop",
    "gives up": "declares dead, abandons, stops",
    "given up": "declared dead, abandoned",
    "silent": "without a heartbeat",
    "another hand": "another client",
    "stranger": "another client, another library",
    "strangers": "other clients, other libraries",
    "errand": "piggybacked work",
    "errands": "piggybacked work",
    "ladder": "shutdown sequence",
    "kept aside": "quarantined",
    "keep aside": "quarantine",
    "taken away": "removed, deleted",
    "take away": "remove, delete",
    "takes away": "removes, deletes",
    "took away": "removed, deleted",
    "put back": "restored",
    "puts back": "restores",
    "odd": "unexpected",
    "kin": "derived object",
    "alarm": "alert",
    "alarms": "alerts",
    "aftercare": "recovery",
    "spelling": "near match",
    "spellings": "near matches",
    "whoever": "the client, the caller, the reader",
    "somebody": "a user, another client",
    "somebody's": "a user's, another client's",
    "nobody": "no client, no row",
    "nobody's": "no client's",
    "anybody": "any client, any user",
    "mend": "fix",
    "mends": "fixes",
    "mended": "fixed",
    "begins again": "restarts",
    "begin again": "restart",
    "begun again": "restarted",
    "let go": "release, delete",
    "own up": "report",
}
# Retired words in a phrase with a meaning of its own.
ALLOWED = (
    "odd number",
    "`nobody`",  # the operating system's user
    'getpwnam("nobody")',
    "log field `office`",  # names before the first release, which the changelog lists
    "log fields `alarms`",
)
RETIRED_RE = re.compile(
    r"(?<![\w.])(?:" + "|".join(sorted(map(re.escape, RETIRED), key=len, reverse=True)) + r")(?![\w])",
    re.IGNORECASE,
)
WORD_RE = re.compile(r"\w+")
FIRST_WORDS = {WORD_RE.findall(phrase)[0] for phrase in RETIRED}
ALLOWED_RE = re.compile("|".join(map(re.escape, ALLOWED)))


def retired_words(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and the word of each retired word in a text."""
    for number, line in enumerate(ALLOWED_RE.sub("", text).splitlines(), 1):
        if FIRST_WORDS.isdisjoint(WORD_RE.findall(line.lower())):  # the usual line, ten times as fast
            continue
        for match in RETIRED_RE.finditer(line):
            yield number, match.group().lower()


def pages() -> Iterator[tuple[str, str]]:
    """Yield all that a person reads: the source with its help texts and SQL, and every page of documentation."""
    yield from sources("src")
    for name, text in texts():
        if name.endswith((".sql", ".md")) and "sql/migration/main" not in name:
            yield name, text


def test_retired_words_are_not_used() -> None:
    """No retired word is in the source, the SQL, the pages or README."""
    found = [
        f"{name}:{number}: {word!r}, use: {RETIRED[word]}"
        for name, text in pages()
        for number, word in retired_words(text)
    ]

    assert found == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The bell rings.", ["bell", "rings"]),
        ("Whoever is\nGiven up", ["whoever", "given up"]),
        ("Millhand, string, during, an odd number, told_outcomes", []),
    ],
)
def test_retired_words_are_found(text: str, words: list[str]) -> None:
    """The search finds whole words in any case, and allowed phrases are no finding."""
    assert [word for _, word in retired_words(text)] == words
