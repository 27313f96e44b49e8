"""What the contract suite knows of each store that it runs on, and the keys that it tries."""

from __future__ import annotations

from dataclasses import dataclass, field

from millhand.storage import ObjectStore

# Keys that somebody has really used, and that some server or client has really got wrong.
ODD_KEYS = (
    "plain",
    "a/b",
    "a.b",
    "a-b",
    "a b",
    "a+b",
    "a%2Fb",
    "a%20b",
    "100%",
    "%~escaped",
    "a//b",
    "/leading",
    "trailing/",
    "double//",
    "//",
    "a/./c",
    "a/../c",
    "..",
    ".",
    ".hidden",
    "~tilde",
    "tab\there",
    "line\nbreak",
    "return\rhere",
    "\x01control",
    "del\x7f",
    "quote\"'`",
    "<xml>&amp;]]>",
    "back\\slash",
    "col:on",
    "que?ry#hash",
    "star*[0-9]{x}",
    "semi;comma,",
    "dollar$(x)",
    "ünïcödé",
    "u\u0308",
    "日本語/ファイル",
    "emoji/🦀",
    "\ue000private",
    "\u202eright-to-left",
    "x" * 250,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a server: what it claims after a probe, and the keys that it holds under another name."""

    has_conditional_delete: bool = True
    has_exact_start_after: bool = True
    is_ordered: bool = True
    altered_keys: frozenset[str] = frozenset()
    second_granularity: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A store that is empty, and what is known of the server behind it."""

    store: ObjectStore
    facts: Facts = field(default_factory=Facts)


# SeaweedFS keeps objects in a tree of directories: it lists by component, and an empty component is none.
SEAWEED = Facts(
    has_exact_start_after=False,
    is_ordered=False,
    altered_keys=frozenset(("a//b", "/leading", "//", "double//", "trailing/", "back\\slash")),
    second_granularity=True,
)
