"""
The places where an application keeps references to its objects, and how it writes them there.

Each place is a table of its own with one reference in each row. The model knows the reference; the table has it as a text
in one of several forms, as ordinary programs write them. A place may be undeclared, declared in the way that fits it best
(`native`, which may miss some forms), or declared by a column with the plain key that the application adds later.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from millhand.orphans import ReferenceSource

Form = Callable[[str], str]
URI_SAFE = "/;,?:@&=+$!~*'()#"  # what encodeURI leaves as it is
SIGNATURE = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=3600&X-Amz-Signature=6c0fe1"
KEY_COLUMN = "object_key"
UPLOADS, UNREADABLE, LOG = "foreign key", "unreadable table", "log"
TABLES = """
CREATE TABLE uploads (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL UNIQUE,
    state text NOT NULL,
    created_at timestamptz NOT NULL,
    deleted_at timestamptz
);
CREATE TABLE articles (id bigint PRIMARY KEY, upload_id bigint NOT NULL REFERENCES uploads);
CREATE SCHEMA tenant;
"""
FOREIGN_KEY = """
ALTER TABLE articles
    DROP CONSTRAINT articles_upload_id_fkey,
    ADD CONSTRAINT articles_upload_id_fkey FOREIGN KEY (upload_id) REFERENCES uploads ON DELETE {action}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One table of references. `native` are the fields of a source that finds the forms in `native_forms`."""

    name: str
    table: str
    column: str
    forms: Mapping[str, Form]
    type: str = "text"
    native: Mapping[str, Any] | None = None
    native_forms: frozenset[str] = field(default=frozenset())

    @property
    def table_sql(self) -> str:
        return f"CREATE TABLE {self.table} (id bigint PRIMARY KEY, {self.column} {self.type} NOT NULL)"

    @property
    def named_by(self) -> str:
        """A regular expression that finds the column in the text of a refusal."""
        return rf"\b{re.escape(self.table)}\.{self.column}\b"

    def native_source(self) -> ReferenceSource:
        """Return the source that a developer declares who knows only the usual form."""
        assert self.native is not None
        return ReferenceSource(
            name=f"{self.table}.{self.column}", table=self.table, key=self.column, min_rows=0, **self.native
        )

    def plain_source(self) -> ReferenceSource:
        """Return the source of the column with plain keys."""
        return ReferenceSource(
            name=f"{self.table}.{KEY_COLUMN}", table=self.table, key=KEY_COLUMN, min_rows=0
        )


def uploads_source(*, is_attached: bool) -> ReferenceSource:
    """Return the source of the table of uploads. With `is_attached`, an upload lives only if an article has it."""
    return ReferenceSource(
        name="uploads",
        table="uploads",
        created_at="created_at",
        deleted_at="deleted_at",
        min_rows=0,
        pending="state = 'pending'",
        soft_deleted="deleted_at IS NOT NULL",
        unattached="NOT EXISTS (SELECT FROM articles WHERE upload_id = uploads.id)" if is_attached else None,
    )


def lower_escapes(text: str) -> str:
    """Return a text with its percent escapes in lower case."""
    return re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), text)


def escaped_slashes(text: str) -> str:
    """Escape for HTML as some template engines do, slashes too."""
    return html.escape(text).replace("/", "&#x2F;")


def script_json(value: object) -> str:
    """Return JSON that is safe within HTML, as web frameworks write it."""
    text = json.dumps(value)
    for char in "<>&'":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


PLACES = (
    Place(
        name="URL",
        table="products",
        column="image_url",
        forms={
            "declared base": lambda key: f"https://cdn.example.com/{quote(key)}",
            "other scheme": lambda key: f"http://cdn.example.com/{quote(key)}?v=3",
            "other base": lambda key: f"https://old.example.com/files/{lower_escapes(quote(key))}",
        },
        native={"url": ("//cdn.example.com/",)},
        native_forms=frozenset(("declared base", "other scheme")),
    ),
    Place(
        name="JSON",
        table="profiles",
        column="data",
        type="jsonb",
        forms={
            "declared path": lambda key: json.dumps({"avatar": {"key": key}}),
            "other path": lambda key: json.dumps({"images": ["none.png", key]}),
            "JSON in JSON": lambda key: json.dumps({"payload": json.dumps({"file": key})}),
            "HTML in JSON": lambda key: json.dumps({"body": f'<img src="/files/{html.escape(quote(key))}">'}),
        },
        native={"json": "$.avatar.key"},
        native_forms=frozenset(("declared path",)),
    ),
    Place(
        name="list",
        table="galleries",
        column="files",
        forms={
            "one key": lambda key: key,
            "a,b": lambda key: f"none.jpg,{key},nothing.png",
            "a; b": lambda key: f"{key}; none.jpg",
            "JSON list": lambda key: json.dumps(["none.jpg", key]),
        },
        native={},
        native_forms=frozenset(("one key",)),
    ),
    Place(
        name="HTML",
        table="pages",
        column="body",
        forms={
            "src": lambda key: f'<p>Hello</p><img alt="" src="/files/{html.escape(quote(key))}">',
            "unquoted path": lambda key: f"<a href='/files/{html.escape(key)}'>file</a>",
            "srcset": lambda key: f'<img srcset="/files/{quote(key)} 1x, /files/none.jpg 2x">',
            "&#x2F;": lambda key: f'<img src="{escaped_slashes(f"/files/{key}")}">',
            "JSON in an attribute": lambda key: f'<div data-props="{html.escape(json.dumps({"src": key}))}">',
            "JSON in a script": lambda key: f"<script>let page = {script_json({'src': key})}</script>",
        },
    ),
    Place(
        name="CSS",
        table="themes",
        column="css",
        forms={
            "url()": lambda key: f".hero {{ background: url(/files/{quote(key)}) no-repeat }}",
            'url("")': lambda key: f'.hero {{ background: url("/files/{quote(key, safe=URI_SAFE)}") }}',
            "lower escapes": lambda key: f".hero{{background:url(/files/{lower_escapes(quote(key))})}}",
        },
    ),
    Place(
        name="Markdown",
        table="notes",
        column="text",
        forms={
            "image": lambda key: f"# Notes\n\n![chart](/files/{quote(key, safe=URI_SAFE)})\n",
            "brackets": lambda key: f'See [the file](</files/{key}> "title").',
            "definition": lambda key: f"See [1].\n\n[1]: /files//{quote(key)} 'double slash'",
        },
    ),
    Place(
        name="signed URL",
        table="orders",
        column="invoice_url",
        forms={
            "signed": lambda key: f"https://shop.s3.amazonaws.com/{quote(key)}?{SIGNATURE}",
            "?src=": lambda key: f"https://img.example.com/resize?src={quote(key, safe='')}&w=300",
            "?src= lower": lambda key: (
                f"https://img.example.com/r?w=1&src={lower_escapes(quote(key, safe=''))}"
            ),
        },
    ),
    Place(
        name="variant",
        table="cards",
        column="thumb",
        forms={
            "_thumb": lambda key: f"{key}_thumb",
            "_thumb.webp": lambda key: f"/files/{key}_thumb.webp",
            "thumbs/": lambda key: f"/thumbs/300x300/{quote(key)}",
        },
    ),
    Place(
        name="other schema",
        table="tenant.uploads",
        column="key",
        forms={"one key": lambda key: key},
        native={},
        native_forms=frozenset(("one key",)),
    ),
    Place(name=UNREADABLE, table="payroll", column="scan", forms={"one key": lambda key: key}),
    Place(
        name=LOG,
        table="events",
        column="line",
        forms={
            "line": lambda key: f"ann attached {key} to a ticket",
            "request": lambda key: f'"GET /files/{quote(key)} HTTP/1.1" 200',
        },
    ),
)
PLACE_OF = {place.name: place for place in PLACES}
NAMES = (UPLOADS, *PLACE_OF)
SHORT, RANDOM = "a short number", "random letters"
STEMS = (
    "photo",
    "report (final)",
    "résumé & co",
    "отчёт",
    "図面",
    "it's",
    "007% sure",  # begins as no short number does: a text that names it would name "7.jpg" in doubt
    "a+b",
    "IMG",
    "[draft]",
    SHORT,
    RANDOM,
)
FOLDERS = ("", "media/", "media/2026/11/", "über uns/")
EXTENSIONS = (".jpg", ".PDF", ".tar.gz", "")


def key_of(number: int, draw: int) -> str:
    """Return the key of the n-th object. `draw` chooses its words."""
    folder, draw = FOLDERS[draw % len(FOLDERS)], draw // len(FOLDERS)
    stem, draw = STEMS[draw % len(STEMS)], draw // len(STEMS)
    if stem == SHORT:
        return f"{folder}{number}.jpg"
    if stem == RANDOM:
        return f"{folder}{sha256(str(number).encode()).hexdigest()[:32]}{EXTENSIONS[draw % len(EXTENSIONS)]}"
    return f"{folder}{stem}-{number:05x}{EXTENSIONS[draw % len(EXTENSIONS)]}"
