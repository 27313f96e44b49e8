"""Claims about values that rules hide."""

from __future__ import annotations

import json

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from visitors import ADMIN

from factory import insert_job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.shells.web.hiding import MARK, hidden_json, hide_rules
from millhand.web import WebConfig, dashboard
from millhand.web.routes import PAGES

SECRET = "hunter2-and-more"


@pytest.mark.parametrize(
    ("rules", "text", "expected"),
    [
        (["args.a"], '{"a": 1, "b": 2}', '{"a": "(hidden)", "b": 2}'),
        (["args.A"], '{"a": null}', '{"a": "(hidden)"}'),
        (["args.a"], '{"A": [1, {"x": "]}"}], "b": 2}', '{"A": "(hidden)", "b": 2}'),
        (["args.a.b"], '{"a": {"b": {}, "c": 1}, "b": 2}', '{"a": {"b": "(hidden)", "c": 1}, "b": 2}'),
        (
            ["args.a.b"],
            '{"a": [{"b": 1}, [{"b": 2}], 3]}',
            '{"a": [{"b": "(hidden)"}, [{"b": "(hidden)"}], 3]}',
        ),
        (["args.*.t"], '{"x": {"t": 1}, "t": 2}', '{"x": {"t": "(hidden)"}, "t": 2}'),
        (["args.*"], '{"x": {"t": 1}, "y": 2}', '{"x": "(hidden)", "y": "(hidden)"}'),
        (["args.*"], "[1, 2]", '["(hidden)", "(hidden)"]'),
        (
            ["args.**.t"],
            '{"t": 1, "a": [{"b": {"t": 2}}]}',
            '{"t": "(hidden)", "a": [{"b": {"t": "(hidden)"}}]}',
        ),
        (["args"], '{"a": 1}', '"(hidden)"'),
        (["args"], "17", '"(hidden)"'),
        (["args.a"], '{"\\u0061": 1}', '{"\\u0061": "(hidden)"}'),
        (["args.a", "args.b"], '{"a": 1, "b": 1e999}', '{"a": "(hidden)", "b": "(hidden)"}'),
        # PostgreSQL cut the text.
        (["args.a"], '{"b": 1, "a": "hun', '{"b": 1, "a": "(hidden)"'),
        (["args.a"], '{"a": {"x": [1, {"y": "hun', '{"a": "(hidden)"'),
        (["args.a"], '{"a": "hunter2\\', '{"a": "(hidden)"'),
        (["args.a"], '{"a', '{"a'),
        (["metadata.a"], '{"a": 1}', '{"a": 1}'),
        ([], '{"a": 1}', '{"a": 1}'),
    ],
)
def test_rule_hides_the_value_at_its_path(rules: list[str], text: str, expected: str) -> None:
    """A rule replaces each value at its path, also in a text that ends in the middle, and leaves the rest as it is."""
    assert hide_rules(rules).json("args", text) == expected


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part, max_size=3),
    max_leaves=10,
)


@given(value=_JSON, cut=st.integers(0, 200))
def test_secret_is_hidden_beside_any_other_value(value: object, cut: int) -> None:
    """Whatever else the args hold, and wherever the text is cut, no part of a hidden text is shown."""
    text = json.dumps({"other": value, "secret": ["hunter2", {"x": "hunter2"}], "after": value})
    hidden = hide_rules(["args.**.secret"]).json("args", text)
    cut_text = hide_rules(["args.**.secret"]).json("args", text[:cut])

    assert json.loads(hidden) == {"other": value, "secret": MARK, "after": value}
    assert "hunt" not in cut_text


def test_depth_costs_no_recursion() -> None:
    """A text nested twenty thousand deep is read in one pass."""
    text = '{"a": ' + "[" * 20_000

    assert hidden_json(text, (("**", "t"),)).text == text


@pytest.mark.parametrize(
    ("value", "is_allowed"),
    [
        ({"to": "a@example.com"}, True),
        ({"password": "a"}, False),
        ({"order": {"password": ""}}, True),
        ({"to": "a", "Password": {"x": 1}}, False),
    ],
)
def test_search_confirms_no_guess(value: object, is_allowed: bool) -> None:
    """A search that compares a hidden value is refused, because its answer would show whether a guess is right."""
    hide = hide_rules(["args.password"])
    if is_allowed:
        hide.check_search("args", value)
        return
    with pytest.raises(ValueError, match="search must not compare values of args that a rule hides"):
        hide.check_search("args", value)


async def test_hidden_value_is_in_no_answer_of_any_route(schema_driver: AsyncpgDriver) -> None:
    """A hidden value appears on no page and in no answer of the API, also where an error or a log repeats it."""
    error = {
        "at": "2026-01-01T00:00:00Z",
        "attempt": 1,
        "error": f"bad {SECRET}",
        "trace": f"File\n  {SECRET}",
    }
    metadata = {
        "token": SECRET,
        "output": {"key": SECRET},
        "river:log": [{"attempt": 1, "log": f"logged in with {SECRET}"}],
    }
    rows = [
        {"args": json.dumps({"to": "ada", "password": SECRET}), "metadata": json.dumps(metadata)},
        # A list shows the first characters of args only.
        {"args": json.dumps({"password": SECRET * 40_000}), "metadata": "{}"},
    ]
    ids = [
        (
            await insert_job(
                schema_driver.pool,
                kind="log_in",
                attempt=1,
                errors=[json.dumps(error).replace(SECRET, text)],
                **row,
            )
        ).id
        for row, text in zip(rows, (SECRET, "short"), strict=True)
    ]
    rules = ["args.password", "metadata.token", "output.key"]
    app = dashboard(schema_driver, WebConfig(authenticate=lambda _: ADMIN, hide=rules))
    leaks, answers = [], []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
        for page in PAGES:
            paths = {page.path.replace("{id:int}", str(id)) for id in ids}
            if page.name == "new_job":
                paths |= {f"{page.path}?copy_of={id}" for id in ids}
            for path in paths:
                for prefix in ("", "/api/v1"):
                    answer = await http.get(prefix + path)
                    answers.append(answer.text)
                    if "hunter2" in answer.text:
                        leaks.append(prefix + path)
        for path in ("/jobs.csv", "/jobs.ndjson"):
            answers.append((await http.get(path)).text)
            assert "ada" in answers[-1]
            leaks += [path] * ("hunter2" in answers[-1])

    assert leaks == []
    assert any(msgspec.json.encode("to").decode() in text or "ada" in text for text in answers)
