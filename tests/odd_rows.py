"""
Rows that nobody of ours would write: what somebody else's program, another language or a hand may leave in a table.

Each is what an UPDATE sets of a job whose args are `{"what": "odd"}`. Whatever comes of such a row, the others that are
fetched, swept, listed or read with it must not suffer.
"""

from __future__ import annotations

# The worker that is to work them can.
WORKABLE = {
    "errors that are none": """
        errors = ARRAY['{"at": "yesterday", "attempt": "one", "error": 7, "trace": {}}', '"text"', '[1]', 'null', '{}']
        ::jsonb []""",
    "an error that is null": "errors = ARRAY[NULL]::jsonb []",
    "an error with a number of 5000 digits": """errors = ARRAY[('{"n": ' || repeat('9', 5000) || '}')::jsonb]""",
    "metadata with a number of 5000 digits": """metadata = ('{"n": ' || repeat('9', 5000) || '}')::jsonb""",
    "metadata nested 1200 deep": """metadata = ('{"n": ' || repeat('[', 1200) || repeat(']', 1200) || '}')::jsonb""",
    "metadata that is no object": "metadata = '[1]'",
    "marks that are none": """metadata = '{"snoozes": "NaN", "river:rescue_count": {}, "output": "NaN"}'""",
    "snoozes beyond all numbers": """metadata = '{"snoozes": 1e300}'""",
    "a number beyond doubles": """metadata = '{"snoozes": 1e400, "river:rescue_count": -1e400}'""",
    "U+0000 where one fits": r"""
        unique_key = '\x00', metadata = '{"text": "\\u0000"}', errors = ARRAY['"\\u0000"']::jsonb []""",
    "half a character, spelt": r"""metadata = '{"\\ud800": "\\udfff"}', errors = ARRAY['{"error": "\\ud800"}']::jsonb []""",
    "attempts below nothing": "attempt = -7",
    "attempted by nobody and anybody": r"attempted_by = ARRAY[NULL, '', E'\n\x1b[2J', repeat('x', 100000)]",
    "attempted by two dimensions": "attempted_by = ARRAY[['a', 'b'], ['c', 'd']]",
    "tags of any characters": r"""tags = ARRAY[E'\n\t', '', 'a,b', '{"', repeat('é', 255), NULL]::varchar(255) []""",
    "errors of megabytes": """errors = array_fill(jsonb_build_object('error', repeat('x', 1000000)), ARRAY[3])""",
    "errors in two dimensions": """errors = ARRAY[['{}', '{}'], ['{}', '{}']]::jsonb []""",
    "a unique key of a thousand bytes": """
        unique_key = decode(repeat(md5(id::text), 60), 'hex'), unique_states = B'11111111'""",
    "scheduled before all time": "scheduled_at = '-infinity'",
    "scheduled before year one": "scheduled_at = '0044-03-15 BC'",
    "created after all time": "created_at = 'infinity'",
    "attempted before all time": "attempted_at = '-infinity'",
    "attempted before year one": "attempted_at = '0044-03-15 BC'",
    "finalized before all time": "finalized_at = CASE WHEN finalized_at IS NOT NULL THEN '-infinity'::timestamptz END",
    "a hundred thousand tags": "tags = array_fill('tag'::varchar, ARRAY[100000])",
}
# As well, but a service does something else with them than with their neighbours.
WORKABLE_ALONE = {
    "attempts up to the end of their type": "attempt = 32767, max_attempts = 32767",
    "attempted after all time": "attempted_at = 'infinity'",
    "attempted after year 9999": "attempted_at = '12000-01-01'",
}
# The worker that is to work them cannot even read its args.
UNDECODABLE = {
    "args that are no object": "args = '[1]'",
    "args that are null": "args = 'null'",
    "args of another shape": """args = '{"what": {"is": ["odd"]}}'""",
    "args without what is needed": "args = '{}'",
    "args with a number beyond doubles": """args = '{"what": 1e400}'""",
    "args with a number of 5000 digits": """args = ('{"what": ' || repeat('9', 5000) || '}')::jsonb""",
    "args nested 1200 deep": """args = ('{"what": ' || repeat('[', 1200) || repeat(']', 1200) || '}')::jsonb""",
}
# Nobody works them, for no client can name their queue or know their kind.
UNREACHABLE = {
    "a queue with a newline": r"queue = E'default\n'",
    "a queue of 127 characters": "queue = repeat('é', 127)",
    "a kind of 127 characters": r"kind = repeat('é', 125) || E'\t\n'",
}
ODD = WORKABLE | UNDECODABLE | UNREACHABLE
# Takes seconds wherever it is read.
HUGE = "metadata = jsonb_build_object('output', repeat('x', 40 * 1024 * 1024))"
