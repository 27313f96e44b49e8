"""
How a column names keys, as SQL: as they are, in an array, somewhere in JSON, as a URL, by a function of the user's.

Where values stand (a column, an array, a path in JSON) and how each is written (a key, a URL, what a function makes a key
of) are two questions, so that an array of URLs needs no word of its own.

Source: PostgreSQL, "JSON Functions and Operators" (jsonb_path_query, #>>), "String Functions" (unistr), "Pattern Matching".
"""

from __future__ import annotations

import re
from dataclasses import replace

from millhand.orphans.config import PLAIN_PATH, ReferenceSource

NUM_LOOKED_AT = 10_000  # rows, for what a path leads to
# Bytes, each of them a character, that are UTF-8 together: table 3-7 of the Unicode Standard.
UTF8 = (
    r"^([\u0001-\u007F]|[\u00C2-\u00DF][\u0080-\u00BF]|\u00E0[\u00A0-\u00BF][\u0080-\u00BF]"
    r"|[\u00E1-\u00EC\u00EE\u00EF][\u0080-\u00BF]{2}|\u00ED[\u0080-\u009F][\u0080-\u00BF]"
    r"|\u00F0[\u0090-\u00BF][\u0080-\u00BF]{2}|[\u00F1-\u00F3][\u0080-\u00BF]{3}"
    r"|\u00F4[\u0080-\u008F][\u0080-\u00BF]{2})*$"
)
VALUE = "millhand_value"  # no column of a user's is called so, or his conditions would be ambiguous


def from_sql(source: ReferenceSource) -> str:
    """Return what rows are read from: the table or SELECT, and beside it each value of a column that holds several."""
    bare = quoted_table(source.table) if source.table else f"(\n{bare_sql(source.select or '')}\n) AS source"
    column = quoted(source.key)
    if source.array:
        return f"{bare}\nCROSS JOIN LATERAL unnest({column}) AS millhand_item ({VALUE})"
    if source.json is not None and not PLAIN_PATH.fullmatch(source.json):
        path = literal(source.json)
        return (
            f"{bare}\nCROSS JOIN LATERAL jsonb_path_query({column}::jsonb, {path}) AS millhand_item ({VALUE})"
        )
    return bare


def value_sql(source: ReferenceSource) -> str:
    """Return a value as it is written, as text."""
    if source.array:
        return VALUE
    if source.json is None:
        return quoted(source.key)
    if found := PLAIN_PATH.fullmatch(source.json):
        return f"({quoted(source.key)} #>> {_names_sql(found[1])})"
    return f"({VALUE} #>> '{{}}')"


def key_sql(source: ReferenceSource) -> str:
    """Return the key that a value names, but for what is to be put in front of it; null for a URL of another server."""
    value = value_sql(source)
    if source.function is not None:
        return f"{quoted_table(source.function)}({value})"
    return url_key_sql(value, source.url) if source.url else value


def url_key_sql(url: str, bases: tuple[str, ...]) -> str:
    """
    Return the key in a URL: without its base, query string and fragment, and percent-decoded.

    What has no server in it is a key behind any slashes; a URL with a base that was not declared names nothing here.
    """
    known = literal(f"^({'|'.join(_base_pattern(base) for base in sorted(bases, key=len, reverse=True))})")
    bare = (
        f"SELECT CASE WHEN path ~ {known} THEN regexp_replace(path, {known}, '')"
        " WHEN path ~ '^([A-Za-z][A-Za-z0-9+.-]*:)?//' THEN NULL ELSE ltrim(path, '/') END AS bare"
        f" FROM (SELECT regexp_replace({url}, '[?#].*$', '') AS path) AS cut"
    )
    return f"(SELECT {decoded_sql('bare')} FROM ({bare}) AS stripped)"


def decoded_sql(text: str) -> str:
    """Return a text with each %XX as the byte that it says, if the bytes together are UTF-8; else as it is."""
    # Each byte is a character for a moment, so that unistr, which knows only characters, can make one of each escape.
    bytes_ = f"replace(convert_from(convert_to({text}, 'UTF8'), 'LATIN1'), '\\', '\\\\')"
    escaped = f"unistr(regexp_replace({bytes_}, '%(?!00)([0-9A-Fa-f]{{2}})', '\\\\00\\1', 'g'))"
    decoded = (
        f"CASE WHEN read ~ '{UTF8}' THEN convert_from(convert_to(read, 'LATIN1'), 'UTF8') ELSE {text} END"
    )
    whole = f"(SELECT {decoded} FROM (SELECT {escaped} AS read OFFSET 0) AS bytes)"
    return f"CASE WHEN {text} LIKE '%\\%%' THEN {whole} ELSE {text} END"


def odd_json_sql(source: ReferenceSource) -> str | None:
    """
    Ask of some rows for what a path leads to that is no text, or would lead to if it went through arrays; None without JSON.

    Such a value would name no object, and the objects in it would be nobody's.
    """
    if source.json is None:
        return None
    path, column = literal(source.json), f"{quoted(source.key)}::jsonb"
    table = from_sql(replace(source, json=None))
    if found := PLAIN_PATH.fullmatch(source.json):
        at = f"doc #> {_names_sql(found[1])}"
        odd = f"coalesce(jsonb_typeof({at}), 'texts in an array')"
        where = (
            f"jsonb_typeof({at}) IN ('array', 'object') OR ({at} IS NULL AND jsonb_path_exists(doc, {path}))"
        )
        items = ""
    else:
        odd, where = "jsonb_typeof(item)", "jsonb_typeof(item) IN ('array', 'object')"
        items = f"CROSS JOIN LATERAL jsonb_path_query(doc, {path}) AS items (item)\n"
    some = f"(SELECT {column} AS doc FROM {table} LIMIT {NUM_LOOKED_AT}) AS looked_at"
    return f"SELECT {odd} AS kind\nFROM {some}\n{items}WHERE {where}\nLIMIT 1"


def index_sql(source: ReferenceSource) -> str:
    """Return what would make a source fast that is slow: the statement, or what else is to be done."""
    if source.table is None:
        return (
            'make an index on each key that the select reads, in the order of bytes: (key COLLATE "C"); '
            'in a UNION ALL, write every key as key::text COLLATE "C"'
        )
    if source.array or (source.json is not None and not PLAIN_PATH.fullmatch(source.json)):
        return "no index has the order of what stands inside a column: keep the keys in a table of their own"
    table = quoted_table(source.table)
    if source.url:
        name = "millhand_key_of_" + re.sub(r"\W", "_", source.name).lower()
        return (
            f"CREATE FUNCTION {name}(url text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS "
            f"$$ SELECT {url_key_sql('url', source.url)} $$; CREATE INDEX CONCURRENTLY ON {table} "
            f'({name}({value_sql(source)}) COLLATE "C"); and declare function = "{name}" in place of url'
        )
    key = key_sql(source)
    return f'make an index: CREATE INDEX CONCURRENTLY ON {table} ({key} COLLATE "C")'


def quoted(name: str) -> str:
    """Return a name as an SQL identifier, exactly as it is written."""
    return '"' + name.replace('"', '""') + '"'


def quoted_table(table: str) -> str:
    """Return `table` or `schema.table` as SQL."""
    return ".".join(quoted(part) for part in table.split("."))


def bare_sql(sql: str) -> str:
    """Return SQL without what ends a statement."""
    return sql.strip().rstrip(";").rstrip()


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    doubled = text.replace("'", "''")
    return f"E'{doubled.replace(chr(92), chr(92) * 2)}'" if "\\" in text else f"'{doubled}'"


def _names_sql(path: str) -> str:
    names = [name.strip('"') for name in re.findall(r'\w+|"[^"]+"', path)]
    return f"ARRAY[{', '.join(literal(name) for name in names)}]"


def _base_pattern(base: str) -> str:
    """Return a regular expression of PostgreSQL for a base; one that begins with // has any scheme or none."""
    escaped = re.sub(r"([^\w/ ])", r"\\\1", base)
    return f"([A-Za-z][A-Za-z0-9+.-]*:)?{escaped}" if base.startswith("//") else escaped
