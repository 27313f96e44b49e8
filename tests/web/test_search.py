from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.web.search import parse_search
from millhand.web.search_conditions import job_search_of
from millhand.web.search_token import FIELDS, INVALID, TEXT

KINDS = ("send_email", "resize")
NOW = datetime(2026, 11, 27, 14, 30, tzinfo=UTC)

VALID = {
    # a line: the same in its one form
    "": "",
    "  state:retryable   kind:a  ": "state:retryable kind:a",
    "STATE:Retryable": "state:retryable",
    "kind:a kind:b,a queue:x kind:c": "kind:a,b,c queue:x",
    "tag:eu tag:vip": "tag:eu tag:vip",
    "tag:eu tag:eu": "tag:eu",
    "attempt:>3 attempt:<6": "attempt:>3 attempt:<6",
    "id:3 7": "id:3,7",
    "007": "id:7",
    '"007"': '"007"',
    "send_email": "kind:send_email",
    "-send_email": "-kind:send_email",
    '"send_email"': '"send_email"',
    "timeout  error": "timeout error",
    "-kind:heartbeat": "-kind:heartbeat",
    "-": "-",
    "--": "--",
    '""': "",
    'kind:"a b","c,d"': 'kind:"a b","c,d"',
    'args.x:""': 'args.x:""',
    'kind:"plain"': "kind:plain",
    'error:"no end': 'error:"no end"',
    r'error:"a \" and \\ b"': r'error:"a \" and \\ b"',
    "args.order.id:42": "args.order.id:42",
    'args.order.id:"42"': 'args.order.id:"42"',
    'args."a key"."b.c":x': 'args."a key"."b.c":x',
    'args:{"to":"a@b.c", "n": [1, {}]}': 'args:{"to":"a@b.c", "n": [1, {}]}',
    "created:12:00..13:00": "created:12:00..13:00",
    "failed:>=1h30m": "failed:>1h30m",
    "attempt:2..": "attempt:2..",
    "5:30": "5:30",
    "priority:1,2 attempt:>=5 attempted:+1h": "priority:1,2 attempt:>=5 attempted:+1h",
}


@pytest.mark.parametrize("line", VALID)
def test_line_has_one_form(line: str) -> None:
    """A valid line has no problems, is written in its one form, and that form is the same search."""
    search = parse_search(line, kinds=KINDS)

    assert (str(search), search.problems) == (VALID[line], ())
    assert parse_search(str(search), kinds=KINDS) == search


INVALID_LINES = {
    "knd:x": "token must be one of .*, got 'knd'; did you mean kind:\\?",
    "http://host": "token must be one of .*, got 'http'; write quotes around a text with a colon",
    "state:retriable": "state must be one of .*, got 'retriable'; did you mean state:retryable\\?",
    "state:failed": "state must be one of .*, got 'failed'; did you mean state:retryable,discarded\\?",
    "kind:": "kind must have a value, got ''; write kind:send_email,resize",
    "kind.x:y": "kind must have no path, got 'x'; write kind:send_email,resize",
    "id:x": "id must be a number or a range, got 'x'; write id:5, >5, <=5 or 2..4",
    "id:9223372036854775808": "id must be a number or a range, got '9223372036854775808'; .*",
    "attempt:..": "attempt must be a number or a range, got '..'; .*",
    "args:to": """args must be a JSON object, got 'to'; write args.key:value or args:{"key": "value"}""",
    'args:{"a":"b': """args must be a JSON object, got '{"a":"b'; .*""",
    'args:{"a":"\\u0000"}': "args must be a JSON object, got .*",
    'args:{"a":1e999}': "args must be a JSON object, got .*",
    "created:25:99": "created must be a duration, a time, a date or a period of these, got '25:99'; write 1h, .*",
    "created:>1h..2h": "created must be a duration, .*",
    "created:..": "created must be a duration, .*",
    "created:99999999999d": "created must be a duration, .*",
}


@pytest.mark.parametrize("line", INVALID_LINES)
def test_invalid_token_is_a_problem_and_stays(line: str) -> None:
    """An invalid token stays in the line and selects nothing; its problem names subject, rule, value and remedy."""
    search = parse_search(f"{line} queue:mail", kinds=KINDS)

    [problem] = search.problems
    assert not search.is_valid
    assert re.fullmatch(INVALID_LINES[line].replace("{", r"\{").replace("}", r"\}"), str(problem))
    assert search.tokens[0].field == INVALID
    assert job_search_of(search, now=NOW, zone=UTC).queues == ("mail",)
    assert parse_search(str(search), kinds=KINDS) == search


def test_kind_without_jobs_is_kept_with_a_hint() -> None:
    """A kind that has no jobs is searched for, and the kind that was perhaps meant is a hint."""
    search = parse_search("kind:sendemail", kinds=KINDS)

    assert search.is_valid
    assert search.values("kind") == ("sendemail",)
    assert [str(problem) for problem in search.problems] == [
        "kind should have jobs, got 'sendemail'; did you mean kind:send_email?"
    ]


TOO_LONG = {
    " ".join(map(str, range(20_000))): "search must have at most 8,000 characters, got 108,889; "
    "search for fewer values, or for a range",
    # Backslashes double in the one form, which links and bulk changes have.
    "error:," + "\\" * 7_000: "search must have at most 8,000 characters, got .*; search for .*",
    " ".join(f"tag:{number}" for number in range(101)): "search must have at most 100 tokens, got 101; "
    "write alternatives into one token, as id:1,2",
}


@pytest.mark.parametrize("line", TOO_LONG, ids=["characters", "characters of its one form", "tokens"])
def test_line_that_is_too_long_is_refused(line: str) -> None:
    """More than 8,000 characters or 100 tokens are an error with subject, rule, value and remedy, before they cost time."""
    with pytest.raises(ValueError, match=f"^{TOO_LONG[line]}$"):
        parse_search(line)


def test_list_of_a_thousand_ids_fits() -> None:
    """Ids of six digits are one token, whether commas or spaces are between them."""
    ids = [str(number) for number in range(100_000, 101_000)]

    assert parse_search(" ".join(ids)) == parse_search(f"id:{','.join(ids)}")
    assert parse_search(" ".join(ids)).values("id") == tuple(ids)


def test_near_matches_are_searched_for_the_first_unknown_kinds() -> None:
    """Of many kinds that have no jobs, the first three have hints: to search one compares it with each known kind."""
    line = f"kind:resize,{','.join(f'resize{number}' for number in range(500))}"

    assert [problem.value for problem in parse_search(line, kinds=KINDS).problems] == [
        "resize0",
        "resize1",
        "resize2",
    ]


PIECES = st.sampled_from(
    ['"', "\\", "{", "}", ":", ",", ".", "-", " ", "\n", "..", ">", "kind", "state", "args", "id", "tag", "a b",
     "failed", "1", "1h", "12:50", "send_email", '{"a":', '"b"}', "kind:", "args.x:", 'error:"', "\x00", "\ud800", "é"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=60))
def test_every_text_is_a_search_and_is_written_as_the_same_one(line: str) -> None:
    """Any text is read without an exception, means something, and its one form is read as the same search."""
    search = parse_search(line, kinds=KINDS)

    job_search_of(search, now=NOW, zone=UTC)
    assert parse_search(str(search), kinds=KINDS) == search


def test_help_describes_each_token() -> None:
    """The guide has one row for each field, with an example that is valid, and no row for another."""
    page = (Path(__file__).parents[2] / "docs" / "how_to" / "search_jobs.md").read_text()
    rows = {
        row[1]: (row[2], row[3])
        for row in re.finditer(r"^\| `(\w+):` \| (.+?) \| `(.+?)` \|$", page, re.MULTILINE)
    }

    assert rows == {name: (field.about, field.example) for name, field in FIELDS.items()}
    for name, field in FIELDS.items():
        search = parse_search(field.example)
        assert (search.problems, [token.field for token in search.tokens]) == ((), [name])


def test_examples_of_the_guide_are_valid() -> None:
    """Each example line of the guide is a search without problems."""
    page = (Path(__file__).parents[2] / "docs" / "how_to" / "search_jobs.md").read_text()
    lines = [
        line for block in re.findall(r"```text\n(.+?)```", page, re.DOTALL) for line in block.splitlines()
    ]

    assert len(lines) > 3
    assert {line: parse_search(line).problems for line in lines} == dict.fromkeys(lines, ())
    assert TEXT in {token.field for line in lines for token in parse_search(line).tokens}
