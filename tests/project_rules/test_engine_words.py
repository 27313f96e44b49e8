"""The engine knows no capability by its name: each plugs in through `engine/capability.py`."""

from __future__ import annotations

import re

import pytest
from source_files import sources

# A capability that is plugged in, and the words that only its own package may have.
WORDS = {
    "archive": r"archiv",
    "dead letters": r"dead[_ ]?(?:job|letter)",
    "flows": r"(?<!over)(?<!work)flow",
    # A limit is also a number of rows.
    "limits": r"limited|QueueLimit|core\.limit\b|millhand[._]limit",
}
# What explains the contract names an example.
CONTRACT = "src/millhand/engine/capability.py"


def mentions(pattern: str, text: str) -> list[str]:
    """Return the words of a text that a pattern finds."""
    return re.findall(pattern, text, re.IGNORECASE)


@pytest.mark.parametrize("capability", sorted(WORDS))
def test_engine_does_not_name_a_capability(capability: str) -> None:
    """No module of the engine has a word of a capability that is plugged in."""
    found = {name: mentions(WORDS[capability], text) for name, text in sources("src/millhand/engine")}

    assert {name: words for name, words in found.items() if words and name != CONTRACT} == {}


def test_words_of_a_capability_are_found() -> None:
    """A module that imports the archive, or reads its setting, would be found."""
    text = "from millhand.archive.store import x\nconfig.dead_job_retention, DeadJobs; flow_id; QueueLimit"

    assert [len(mentions(WORDS[name], text)) for name in sorted(WORDS)] == [1, 2, 1, 1]
