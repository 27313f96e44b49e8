from __future__ import annotations

import pytest

from factory import insert_job
from millhand.core.job import JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job_search import Had
from millhand.web.search_suggestions import known_kinds, suggest, suggestions, typed_at

KINDS = ["send_email", "email_digest", "a b"]
HAD = [
    Had("args", ("order",), 9), Had("args", ("order", "id"), 9), Had("args", ("a key",), 2),
    Had("queue", ("mail",), 5), Had("tag", ("e,u",), 1), Had("client", ("worker-1",), 3),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        (
            "",
            [
                "state:",
                "kind:",
                "queue:",
                "tag:",
                "id:",
                "priority:",
                "attempt:",
                "args.",
                "metadata.",
                "error:",
            ],
        ),
        ("at", ["attempt:", "attempted:", "state:", "metadata.", "created:"]),
        ("email", ["kind:send_email", "kind:email_digest"]),
        ("-ki", ["-kind:"]),
        ("state:re", ["state:retryable"]),
        ("state:running,s", ["state:running,scheduled", "state:running,discarded"]),
        ("kind:e", ["kind:email_digest", "kind:send_email"]),
        ('kind:"a', ['kind:"a b"', "kind:send_email", "kind:email_digest"]),
        ("tag:eu kind:x,a", ['kind:x,"a b"', "kind:x,send_email", "kind:x,email_digest"]),
        ("queue:", ["queue:mail"]),
        ("tag:e", ['tag:"e,u"']),
        ("client:w", ["client:worker-1"]),
        ("args.or", ["args.order:", "args.order.id:"]),
        ("args.a", ['args."a key":']),
        ("error:x", []),
        ("zzz", []),
    ],
)
def test_suggestions_complete_the_token_at_the_cursor(line: str, texts: list[str]) -> None:
    """Names that contain what was typed are suggested, those that begin with it first, written as the line needs them."""
    assert [one.text for one in suggestions(typed_at(line, len(line)), KINDS, HAD)] == texts


def test_suggestion_replaces_the_token_at_the_cursor_only() -> None:
    """Wherever the cursor is, a suggestion stands for the whole token there, and the rest of the line stays."""
    line = "tag:eu kind:sen queue:x"

    [one] = suggestions(typed_at(line, len("tag:eu kind:sen")), KINDS, [])

    assert line[: one.start] + one.text + line[one.end :] == "tag:eu kind:send_email queue:x"


async def test_suggestions_are_of_what_is_in_the_table(tx: Executor) -> None:
    """Kinds come from all jobs; keys of args, queues, tags and clients from the newest."""
    await insert_job(
        tx, JobState.RUNNING, kind="b", args='{"to": {"name": {"x": 1}}}', tags=["eu"], queue="mail"
    )
    await insert_job(tx, JobState.AVAILABLE, kind="a", args="[1]")
    await insert_job(tx, JobState.AVAILABLE, kind="a", args='{"to": 1}')

    lines = ("args.", "queue:", "tag:", "client:", "kind:")
    found = {line: [one.text for one in await suggest(tx, line, len(line))] for line in lines}

    assert await known_kinds(tx) == ["a", "b"]
    assert found == {
        "args.": ["args.to:", "args.to.name:"], "queue:": ["queue:default", "queue:mail"], "tag:": ["tag:eu"],
        "client:": ["client:client_gone"], "kind:": ["kind:a", "kind:b"],
    }  # fmt: skip
