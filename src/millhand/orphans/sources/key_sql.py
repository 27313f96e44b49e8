"""
Build the SQL that reads keys from a column: plain keys, arrays, JSON, URLs, or values for a function of the user.

The place of a value (column, array, JSON path) and its form (key, URL, input of a function) are independent. An array of
URLs combines both settings.

Source: PostgreSQL, "JSON Functions and Operators" (jsonb_path_query, #>>), "String Functions" (unistr), "Pattern Matching".
"""

from __future__ import annotations

import re
from dataclasses import replace

from millhand.core.orphans import PLAIN_PATH, ReferenceSource

SAMPLE_ROWS = 10_000  # for the check of a JSON path
# Matches bytes, one character each, that form valid UTF-8: table 3-7 of the Unicode Standard.
UTF8 = (
    r"^([\u0001-\u007F]|[\u00C2-\u00DF][\u0080-\u00BF]|\u00E0[\u00A0-\u00BF][\u0080-\u00BF]"
    r"|[\u00E1-\u00EC\u00EE\u00EF][\u0080-\u00BF]{2}|\u00ED[\u0080-\u009F][\u0080-\u00BF]"
    r"|\u00F0[\u0090-\u00BF][\u0080-\u00BF]{2}|[\u00F1-\u00F3][\u0080-\u00BF]{3}"
    r"|\u00F4[\u0080-\u008F][\u0080-\u00BF]{2})*$"
)
BACKSLASH = "\\"
VALUE = "millhand_value"  # a name that no column of a user has, so that no condition is ambiguous


def from_sql(source: ReferenceSource) -> str:
    """Return the FROM item: the table or SELECT, joined with the values of an array or a JSON path."""
    table = (
        quoted_table(source.table)
        if source.table
        else f"(\n{without_semicolon(source.select or '')}\n) AS source"
    )
    column = quoted(source.key)
    if source.array:
        return f"{table}\nCROSS JOIN LATERAL unnest({column}) AS millhand_item ({VALUE})"
    if source.json is not None and not PLAIN_PATH.fullmatch(source.json):
        path = literal(source.json)
        return f"{table}\nCROSS JOIN LATERAL jsonb_path_query({column}::jsonb, {path}) AS millhand_item ({VALUE})"
    return table


def value_sql(source: ReferenceSource, *, is_nondeterministic: bool = False) -> str:
    """Return the expression of a stored value, as text. No pattern matches a text of a nondeterministic collation."""
    if is_nondeterministic:
        return f'({value_sql(source)} COLLATE "C")'
    if source.array:
        return VALUE
    if source.json is None:
        return quoted(source.key)
    if found := PLAIN_PATH.fullmatch(source.json):
        return f"({quoted(source.key)} #>> {_names_sql(found[1])})"
    return f"({VALUE} #>> '{{}}')"


def key_sql(source: ReferenceSource, value: str | None = None) -> str:
    """Return the expression of the key in a value, without `prepend`. It is null for a URL of another server."""
    value = value or value_sql(source)
    if source.function is not None:
        return f"{quoted_table(source.function)}({value})"
    return url_key_sql(value, source.url) if source.url else value


def url_key_sql(url: str, bases: tuple[str, ...]) -> str:
    """
    Return the expression of the key in a URL: without base, query string and fragment, and percent-decoded.

    A path without a server is a key after its leading slashes. A URL with an undeclared base names no object.
    """
    known = literal(f"^({'|'.join(_base_pattern(base) for base in sorted(bases, key=len, reverse=True))})")
    bare = (
        f"SELECT CASE WHEN path ~ {known} THEN regexp_replace(path, {known}, '')"
        " WHEN path ~ '^([A-Za-z][A-Za-z0-9+.-]*:)?//' THEN NULL ELSE ltrim(path, '/') END AS bare"
        f" FROM (SELECT regexp_replace({url}, '[?#].*$', '') AS path) AS cut"
    )
    return f"(SELECT {decoded_sql('bare')} FROM ({bare}) AS stripped)"


def decoded_sql(text: str) -> str:
    """Return the expression of a percent-decoded text. A text whose bytes are not UTF-8 stays unchanged."""
    # LATIN1 turns each byte into one character, because unistr converts escapes to characters only.
    bytes_ = f"replace(convert_from(convert_to({text}, 'UTF8'), 'LATIN1'), {literal(BACKSLASH)}, {literal(2 * BACKSLASH)})"
    code = literal(rf"{BACKSLASH}\00\1")
    escaped = f"unistr(regexp_replace({bytes_}, '%(?!00)([0-9A-Fa-f]{{2}})', {code}, 'g'))"
    is_utf8 = f"read ~ {literal(UTF8)}"
    decoded = f"CASE WHEN {is_utf8} THEN convert_from(convert_to(read, 'LATIN1'), 'UTF8') ELSE {text} END"
    whole = f"(SELECT {decoded} FROM (SELECT {escaped} AS read OFFSET 0) AS bytes)"
    return f"CASE WHEN strpos({text}, '%') > 0 THEN {whole} ELSE {text} END"


def non_text_json_sql(source: ReferenceSource) -> str | None:
    """
    Return a query for a value that is no text at the path, or below an array that the path skips; None without JSON.

    Such a value names no object, so the objects that it mentions would look like orphans.
    """
    if source.json is None:
        return None
    path, column = literal(source.json), f"{quoted(source.key)}::jsonb"
    table = from_sql(replace(source, json=None))
    if found := PLAIN_PATH.fullmatch(source.json):
        at = f"doc #> {_names_sql(found[1])}"
        kind = f"coalesce(jsonb_typeof({at}), 'texts in an array')"
        where = (
            f"jsonb_typeof({at}) IN ('array', 'object') OR ({at} IS NULL AND jsonb_path_exists(doc, {path}))"
        )
        items = ""
    else:
        kind, where = "jsonb_typeof(item)", "jsonb_typeof(item) IN ('array', 'object')"
        items = f"CROSS JOIN LATERAL jsonb_path_query(doc, {path}) AS items (item)\n"
    rows = f"(SELECT {column} AS doc FROM {table} LIMIT {SAMPLE_ROWS}) AS sample"
    return f"SELECT {kind} AS kind\nFROM {rows}\n{items}WHERE {where}\nLIMIT 1"


def index_sql(source: ReferenceSource) -> str:
    """Return how to make a slow source fast: the index to create, or another remedy."""
    if source.table is None:
        return (
            'create an index on each key that the select reads, in byte order: (key COLLATE "C"); '
            'in a UNION ALL, write every key as key::text COLLATE "C"'
        )
    if source.array or (source.json is not None and not PLAIN_PATH.fullmatch(source.json)):
        return "no index orders the values inside a column: keep the keys in a table of their own"
    table = quoted_table(source.table)
    if source.url:
        name = "millhand_key_of_" + re.sub(r"\W", "_", source.name).lower()
        return (
            f"CREATE FUNCTION {name}(url text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS "
            f"$$ SELECT {url_key_sql('url', source.url)} $$; CREATE INDEX CONCURRENTLY ON {table} "
            f'({name}({value_sql(source)}) COLLATE "C"); and declare function = "{name}" instead of url'
        )
    key = key_sql(source)
    return f'create an index: CREATE INDEX CONCURRENTLY ON {table} ({key} COLLATE "C")'


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quoted_table(table: str) -> str:
    return ".".join(quoted(part) for part in table.split("."))


def without_semicolon(sql: str) -> str:
    return sql.strip().rstrip(";").rstrip()


def literal(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"E'{doubled.replace(chr(92), chr(92) * 2)}'" if "\\" in text else f"'{doubled}'"


def regex_literal(text: str) -> str:
    return re.sub(r"([^\w/ ])", r"\\\1", text)


def _names_sql(path: str) -> str:
    names = [name.strip('"') for name in re.findall(r'\w+|"[^"]+"', path)]
    return f"ARRAY[{', '.join(literal(name) for name in names)}]"


def _base_pattern(base: str) -> str:
    """Return a regular expression for a base. One that begins with // matches any scheme or none."""
    escaped = regex_literal(base)
    return f"([A-Za-z][A-Za-z0-9+.-]*:)?{escaped}" if base.startswith("//") else escaped
