from __future__ import annotations

import json
from datetime import UTC

import pytest

from factory import NOW, insert_job
from millhand.core.job import JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job_condition import Among
from millhand.engine.store.job_search import JobSearch
from millhand.shells.settings.web_user import User
from millhand.shells.web.hiding import hide_rules
from millhand.web.job_search import count_jobs, search_jobs, shown_line
from millhand.web.search import parse_search
from millhand.web.search_conditions import job_search_of, without_hidden
from millhand.web.search_suggestions import known_kinds, suggest

LIMITED = User(name="ann", queues=("mail",), kinds=("send", "other"))


async def test_user_finds_only_jobs_that_the_user_sees(tx: Executor) -> None:
    """Lists, counts, known kinds and suggestions of a limited user have nothing of other queues and kinds."""
    seen = await insert_job(tx, JobState.RUNNING, kind="send", queue="mail", tags=["eu"], args='{"to": 1}')
    await insert_job(
        tx, JobState.RUNNING, kind="send", queue="secret", tags=["tag-secret"], args='{"key-secret": 1}'
    )
    await insert_job(tx, JobState.RUNNING, kind="secret", queue="mail", attempted_by=["client-secret"])

    for line in ("", "state:running", "kind:send,secret", "queue:mail,secret", "-tag:x", "id:>0"):
        search = job_search_of(parse_search(line), now=NOW, zone=UTC, user=LIMITED)
        assert [job.id for job in (await search_jobs(tx, search)).jobs] == [seen.id], line
        assert sum(one.num_jobs for one in await count_jobs(tx, search)) <= 1, line
    assert await known_kinds(tx, LIMITED) == ["send"]
    for line in ("kind:", "queue:", "tag:", "client:", "args.", "sec"):
        texts = [one.text for one in await suggest(tx, line, len(line), user=LIMITED)]
        assert "secret" not in "".join(texts), line


@pytest.mark.parametrize(
    ("line", "is_hidden"),
    [
        ("args.password:x", True),
        ("-args.password:x", True),
        ("args.user.token:1", True),
        ('args:{"password": "x"}', True),
        ("metadata.output.iban:x", True),
        ("error:x", True),
        ("args.to:x", False),
        ("metadata.trace:x", False),
        ("kind:password", False),
    ],
)
def test_search_does_not_compare_hidden_values(line: str, is_hidden: bool) -> None:
    """A token that compares a hidden value, or an error, which may repeat one, is a problem and selects nothing."""
    hide = hide_rules(["args.password", "args.*.token", "output.iban"])

    search = without_hidden(parse_search(line), hide)

    assert (len(search.problems), len(job_search_of(search, now=NOW, zone=UTC, hide=hide).conditions)) == (
        (1, 0) if is_hidden else (0, 1)
    )
    assert str(search) == line


async def test_hidden_values_are_in_no_line(tx: Executor) -> None:
    """With rules, a text is searched in kinds and tags only, and lines show neither hidden values nor errors with them."""
    hide = hide_rules(["args.password"])
    args = json.dumps({"a": "x" * 500, "password": "hunter22"})
    error = json.dumps({"at": "2024-05-01T09:34:56Z", "attempt": 1, "error": "wrong hunter22", "trace": ""})
    await insert_job(tx, JobState.RETRYABLE, args=args, errors=[error], tags=["hunter"])

    def search(line: str) -> JobSearch:
        return job_search_of(without_hidden(parse_search(line), hide), now=NOW, zone=UTC, hide=hide)

    [line] = [shown_line(one, hide) for one in (await search_jobs(tx, search("hunter"))).jobs]

    assert (await search_jobs(tx, search("hunter22"))).jobs == ()
    assert (line.error, len(line.args or "")) == ("wrong (hidden)", 400)
    assert shown_line(line, hide_rules(["metadata.x"])).error is None
    assert search("hunter").conditions == (Among("name", ("hunter",)),)
