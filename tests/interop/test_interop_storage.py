"""Commands to stored jobs and queues return the same in both languages."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language, Row
from storage_commands import CommandRunner, command_runner, transaction

NUM_EXAMPLES = 60
STATES = ("available", "cancelled", "completed", "discarded", "pending", "retryable", "running", "scheduled")
NOBODY = 999
# Jobs of every state thrice: due, to come, and with whatever a life may leave.
WORLD = """
INSERT INTO /* schema */river_job (
    id, kind, args, metadata, max_attempts, attempt, attempted_at, attempted_by, errors, priority, queue, state, tags,
    scheduled_at, created_at, finalized_at, unique_key, unique_states)
SELECT
    n * 8 + ord,
    (ARRAY['act', 'sort', 'é<&>'])[1 + (n + ord) % 3],
    jsonb_build_object('n', n, 'state', state::text),
    (ARRAY['{}', '{"a": 1}', '{"a": 1, "b": [1, "é"]}'])[1 + (n * ord) % 3]::jsonb,
    CASE WHEN n = 1 THEN 3 ELSE 25 END,
    CASE WHEN n = 0 THEN 0 ELSE 3 END,
    CASE WHEN n > 0 THEN '2024-05-01T10:00:00.123456Z'::timestamptz + (ord % 3) * interval '1.234567 s' END,
    CASE WHEN n > 0 THEN ARRAY['one', 'two'] END,
    CASE WHEN n = 2 THEN ARRAY[
        '{"at": "2024-05-01T10:00:00.123456789+02:00", "attempt": 1, "error": "boom", "trace": "here"}',
        '{"at": "2024-05-01T10:00:01Z", "attempt": 2, "error": "é", "trace": ""}']::jsonb[] END,
    1 + (n + ord) % 4,
    'queue' || ord % 2,
    state,
    (ARRAY['{}', '{one}', '{one,two}', '{two,three}'])[1 + ord % 4]::varchar(255)[],
    (ARRAY['2020-01-01Z', '2024-05-01T10:00:00.5Z', '2100-01-01Z'])[1 + (n + ord / 3) % 3]::timestamptz,
    '2020-01-01Z',
    CASE WHEN state IN ('cancelled', 'completed', 'discarded')
        THEN '2024-05-02T10:00:00.5Z'::timestamptz + (ord % 2) * interval '1 h' END,
    CASE WHEN n = 2 THEN sha256(state::text::bytea) END,
    CASE WHEN n = 2 THEN B'11110101' END
FROM generate_series(0, 2) AS n,
    unnest(enum_range(NULL::/* schema */river_job_state)) WITH ORDINALITY AS states (state, ord)
"""
QUEUES = """
INSERT INTO /* schema */river_queue (name, metadata, paused_at, created_at, updated_at) VALUES
    ('plain', '{}', NULL, '2024-01-01Z', '2024-01-01Z'),
    ('paused', '{"a": 1}', '2024-01-01Z', '2024-01-01Z', '2024-01-01Z'),
    ('odd "name"', '{"é<&>": ["x", null]}', NULL, '2024-01-01Z', '2024-01-01Z')
"""
IDS = st.sampled_from([*range(1, 25), NOBODY])
JOB_COMMANDS = st.one_of(
    st.tuples(
        st.sampled_from(["job_cancel", "job_delete", "job_get", "job_retry"]),
        st.fixed_dictionaries({"job": IDS}),
    ),
    st.tuples(
        st.just("job_update"),
        st.fixed_dictionaries(
            {"job": IDS, "output": st.sampled_from([1, "é<&>\u2028", {"a": [None, 1.5]}, [], False])}
        ),
    ),
)
NAMES = st.sampled_from(["plain", "paused", 'odd "name"', "nowhere"])
QUEUE_COMMANDS = st.one_of(
    st.tuples(st.just("queue_get"), st.fixed_dictionaries({"queue": NAMES})),
    st.tuples(
        st.sampled_from(["queue_pause", "queue_resume"]),
        st.fixed_dictionaries({"queue": st.one_of(NAMES, st.just("*"))}),
    ),
    st.tuples(
        st.just("queue_update"),
        st.fixed_dictionaries({"queue": NAMES, "metadata": st.sampled_from([{"b": {"c": "<é>"}}, {"x": 1}])}),
    ),
    st.tuples(st.just("queue_list"), st.fixed_dictionaries({"limit": st.sampled_from([1, 2, 100])})),
)
WHERE = (
    ("args ->> 'state' = @wanted", {"wanted": "running"}),
    ("priority > 2 -- as a comment", {}),
    ("args @> @doc::jsonb AND queue = @name", {"doc": '{"n": 1}', "name": "queue1"}),
    ("tags && ARRAY['two']::varchar [] AND attempted_at IS NOT NULL", {}),
)


def _some(values: Any) -> st.SearchStrategy[Any]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=4, unique=True)


def _filters(names: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Row]:
    """Draw few filters at a time, so that some jobs match, and sometimes a condition in SQL."""
    few = st.fixed_dictionaries({}, optional=names).map(lambda drawn: dict(sorted(drawn.items())[:2]))
    where = st.one_of(st.none(), st.sampled_from(WHERE))
    return st.tuples(few, where).map(
        lambda pair: (
            pair[0] if pair[1] is None else {**pair[0], "where": pair[1][0], "where_args": pair[1][1]}
        )
    )


DELETE_FILTERS: dict[str, st.SearchStrategy[Any]] = {
    "ids": _some([*range(1, 25), NOBODY]),
    "kinds": _some(["act", "sort", "é<&>", "none"]),
    "priorities": _some([1, 2, 3, 4]),
    "queues": _some(["queue0", "queue1", "none"]),
    "states": _some(STATES),
}
LIST_FILTERS = DELETE_FILTERS | {
    "metadata": st.sampled_from(['{"a": 1}', '{"b": ["é"]}', "{}"]),
    "tags_all": _some(["one", "two", "none"]),
    "tags_any": _some(["one", "three", "none"]),
}
LISTS = st.fixed_dictionaries(
    {
        "descending": st.booleans(),
        "filters": _filters(LIST_FILTERS),
        "limit": st.sampled_from([1, 3, 100]),
        "order_by": st.sampled_from(["id", "time", "scheduled_at", "finalized_at"]),
    }
)
DELETES = st.fixed_dictionaries(
    {
        "filters": _filters(DELETE_FILTERS),
        "limit": st.sampled_from([1, 3, 100]),
        "unsafe_all": st.sampled_from([False, False, False, True]),
    }
)


def drawn(strategy: st.SearchStrategy[Any]) -> list[Any]:
    """Return the examples that hypothesis tries."""
    found: list[Any] = []

    @settings(
        max_examples=NUM_EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


async def test_job_commands_have_the_same_answers(harness: Harness) -> None:
    """
    25: differential_job_crud.

    Commands to jobs in any state and order, each in one transaction, return the same in both languages.
    """
    await _make_world(harness)
    reported = {language: [] for language in LANGUAGES}
    delete_each = [("job_delete", {"job": id}) for id in (*range(1, 1 + 3 * len(STATES)), NOBODY)]
    stories = [*drawn(st.lists(JOB_COMMANDS, min_size=1, max_size=8)), delete_each]

    for story in stories:
        for language in LANGUAGES:
            async with transaction(harness, language) as at:
                reported[language].append([await at.ask(method, **said) for method, said in story])

    wrong = [
        trio for trio in zip(stories, reported["go"], reported["python"], strict=True) if trio[1] != trio[2]
    ]
    assert wrong[:1] == []
    assert {answer.get("refused") for answers in reported["go"] for answer in answers} == {
        None, "job_running", "not_found",
    }  # fmt: skip


async def test_queue_commands_have_the_same_answers(harness: Harness) -> None:
    """
    27: differential_queue_crud.

    Queue commands and the queue lists between them return the same in both languages.
    """
    await harness.fetch(QUEUES)
    reported = {language: [] for language in LANGUAGES}
    stories = drawn(st.lists(QUEUE_COMMANDS, min_size=1, max_size=8))

    for story in stories:
        for language in LANGUAGES:
            async with transaction(harness, language) as at:
                answers = [await at.ask(method, **said) for method, said in story]
                reported[language].append([*answers, await at.ask("queue_list", limit=10)])

    wrong = [
        trio for trio in zip(stories, reported["go"], reported["python"], strict=True) if trio[1] != trio[2]
    ]
    assert wrong[:1] == []


async def test_job_lists_have_the_same_pages(harness: Harness) -> None:
    """
    42: differential_job_list_filters_and_cursors, job_list_cursor_interchange.

    Both languages return the same pages, each from the other's cursor.
    """
    await _make_world(harness)
    num_found = 0

    for said in drawn(LISTS):
        pages = [await _pages(harness, languages, said) for languages in BOTH_WAYS]
        assert pages[0] == pages[1], said
        num_found += sum(len(page) for page in pages[0] if isinstance(page, list))

    assert num_found > NUM_EXAMPLES


async def test_bulk_deletes_delete_the_same_jobs(harness: Harness) -> None:
    """25: bulk_delete_safety; a delete without filters needs explicit consent, and never deletes a running job."""
    await _make_world(harness)
    refused = 0

    for said in [
        *drawn(DELETES),
        {"filters": {}, "limit": 100},
        {"filters": {}, "limit": 100, "unsafe_all": True},
    ]:
        reported: dict[Language, Any] = {}
        for language in LANGUAGES:
            async with transaction(harness, language) as at:
                answer = await at.ask("job_delete_many", **said)
                left = await at.ask("job_list", limit=100, order_by="id", filters={})
                reported[language] = (answer, left["ids"])
        assert reported["python"] == reported["go"], said
        assert {7, 15, 23} <= set(reported["python"][1])
        refused += "refused" in reported["python"][0]

    assert refused > 0


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("is_fast", [False, True])
async def test_batch_is_visible_when_its_transaction_commits(
    harness: Harness, language: Language, is_fast: bool
) -> None:
    """
    4, 46: transactional_batch_insertion, transaction_commit_visibility, transaction_rollback_visibility.

    A batch is visible after the commit and never after a rollback, with COPY too.
    """
    other = command_runner(harness, "python" if language == "go" else "go")
    jobs = [{"kind": "act", "text": "{}", "opts": {"queue": f"queue{n}"}} for n in range(3)]

    async with transaction(harness, language) as at:
        inserted = await at.insert(jobs, fast=is_fast)
        inside = await _num_jobs(at)
        outside = await _num_jobs(other)
    rolled_back = await _num_jobs(other)
    async with transaction(harness, language) as at:
        await at.insert(jobs, fast=is_fast)
        await at.commit()
    committed = await _num_jobs(other)

    assert (inserted, inside, outside, rolled_back, committed) == (3, 3, 0, 0, 3)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_copy_and_insert_write_the_same_rows(harness: Harness, language: Language) -> None:
    """
    4, 13: typed_batch_insertion.

    COPY and INSERT write the same rows in order, in both languages, for all kinds, args and options.
    """
    jobs = [
        {"kind": "act", "text": '{"do":[]}', "opts": {}},
        {
            "kind": "é\\N",
            "text": '{"text":"\\u00e9 \\\\ \\" \\n \\t <&>","big":12345678901234567890}',
            "opts": {},
        },
        {
            "kind": "later",
            "text": "{}",
            "opts": {"scheduled_at": "2040-01-02T03:04:05.678901+05:45", "priority": 4},
        },
        {"kind": "parked", "text": "{}", "opts": {"pending": True, "metadata": {"a": {"b": ["\\", None]}}}},
        {"kind": "tagged", "text": "{}", "opts": {"tags": ["null", "NULL", "a-b"], "max_attempts": 1}},
        {"kind": "unique", "text": '{"b":1,"a":2}', "opts": {"unique": {"by_args": True, "by_queue": True}}},
        {"kind": "keyed", "text": "{}", "opts": {"unique": {"by_args": True, "by_state": list(STATES)}}},
    ]
    at = command_runner(harness, language)

    photos = []
    for is_fast in (False, True):
        assert await at.insert(jobs, fast=is_fast) == len(jobs)
        assert await at.insert(jobs[-1:], fast=True) == {"refused": "23505"}
        photos.append([_photo(row) for row in await harness.rows()])
        await harness.fetch("TRUNCATE /* schema */river_job")
    assert await command_runner(harness, "go").insert(jobs) == len(jobs)

    river = [_photo(row) for row in await harness.rows()]
    assert photos == [river, river]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_job_commands_take_effect_when_their_transaction_commits(
    harness: Harness, language: Language
) -> None:
    """
    25: transactional_crud_commit_rollback.

    Other connections see the change after the commit, and never after a rollback.
    """
    await _make_world(harness)
    other = command_runner(harness, "python" if language == "go" else "go")
    commands = {"job_cancel": 1, "job_retry": 3, "job_delete": 4, "job_update": 5}
    before = await harness.rows()

    async with transaction(harness, language) as at:
        for method, id in commands.items():
            await at.ask(method, job=id, output=1)
        await at.ask("job_delete_many", filters={"ids": [6]}, limit=10)
        inside = [(await at.ask("job_get", job=id)).get("state") for id in range(1, 7)]
        assert await harness.rows() == before
    rolled_back = await harness.rows()
    async with transaction(harness, language) as at:
        for method, id in commands.items():
            await at.ask(method, job=id, output=1)
        await at.ask("job_delete_many", filters={"ids": [6]}, limit=10)
        await at.commit()
    outside = [(await other.ask("job_get", job=id)).get("state") for id in range(1, 7)]

    assert rolled_back == before
    assert inside == outside == ["cancelled", "cancelled", "available", None, "pending", None]
    assert (await other.ask("job_get", job=5))["metadata"]["output"] == 1


@pytest.mark.parametrize(("commander", "worker"), BOTH_WAYS)
async def test_queue_commands_take_effect_when_their_transaction_commits(
    harness: Harness, commander: Language, worker: Language
) -> None:
    """
    27: transactional_queue_operations.

    The other language's client pauses after the commit, and receives nothing before it.
    """
    async with harness.working(worker, "worker"):
        async with transaction(harness, commander) as at:
            await at.ask("queue_pause", queue="default")
            await at.ask("queue_update", queue="default", metadata={"a": 1})
            inside = await at.ask("queue_get", queue="default")
        after = await command_runner(harness, worker).ask("queue_get", queue="default")
        await harness.events.wait("job_completed", job=await harness.control(worker).insert())
        unheard = harness.events.all("queue_paused")
        async with transaction(harness, commander) as at:
            await at.ask("queue_pause", queue="default")
            await at.commit()
        await harness.events.wait("queue_paused", client="worker", queue="default")
        async with transaction(harness, commander) as at:
            await at.ask("queue_resume", queue="default")
            await at.commit()
        await harness.events.wait("queue_resumed", client="worker", queue="default")

    assert (inside["is_paused"], inside["metadata"]) == (True, {"a": 1})
    assert (after["is_paused"], after["metadata"], unheard) == (False, {}, [])


async def test_both_languages_accept_the_same_queue_names(harness: Harness) -> None:
    """
    8, 27: queue_names_and_unknown_queue_control.

    Both languages accept the same queue names, and neither finds an unknown queue.
    """
    names = ["nowhere", "", "é", "a\n", "a b", '"', "'; --", "x" * 500]

    for name in names:
        for method in ("queue_get", "queue_pause", "queue_resume", "queue_update"):
            answers = [
                await command_runner(harness, one).ask(method, queue=name, metadata={"a": 1})
                for one in LANGUAGES
            ]
            assert answers == [{"refused": "not_found"}] * 2, (name, method)
    for language in LANGUAGES:
        assert await command_runner(harness, language).ask("queue_pause", queue="*") is None
        assert await command_runner(harness, language).ask("queue_list", limit=10) == []


async def test_both_languages_read_the_same_rows(harness: Harness) -> None:
    """
    4: job_row_round_trip_all_fields.

    Both languages read the same from every column of jobs in every state, whichever language inserted them.
    """
    await _make_world(harness)
    jobs = [
        {
            "kind": "act",
            "text": '{"text":"é <&>","n":[1,2.5,null]}',
            "opts": {
                "max_attempts": 7,
                "metadata": {"é": ["\\u2028", 1]},
                "priority": 3,
                "queue": "high",
                "scheduled_at": "2040-01-02T03:04:05.678901Z",
                "tags": ["one-two"],
                "unique": {"by_args": True, "by_state": [*STATES]},
            },
        }
    ]
    jobs_of_python = [{**jobs[0], "opts": {**jobs[0]["opts"], "unique": {"by_queue": True}}}]
    assert (
        await command_runner(harness, "go").insert(jobs)
        == await command_runner(harness, "python").insert(jobs_of_python)
        == 1
    )

    for row in await harness.rows():
        assert set(row) == set(await command_runner(harness, "go").ask("job_get", job=row["id"]))
        go, python = [await command_runner(harness, one).ask("job_get", job=row["id"]) for one in LANGUAGES]
        assert python == go


async def test_job_ids_beyond_doubles_keep_their_digits(harness: Harness) -> None:
    """
    4, 25, 42: unsafe_int64_job_ids_rpc_list_cursors.

    Inserts, lists, cursors, reads and cancels keep every digit of a large job ID.
    """
    first = 2**53 + 1
    await harness.fetch(f"ALTER SEQUENCE /* schema */river_job_id_seq RESTART WITH {first}")

    async with (
        harness.working("go", "go_a", queues={"go": 5}),
        harness.working("python", "python_a", queues={"python": 5}),
    ):
        ids = []
        for worker, commander in BOTH_WAYS:
            id = await harness.control(commander).insert(["hold"], queue=worker)
            await harness.events.wait("held", job=id)
            await harness.control(commander).cancel(id)
            await harness.events.wait("job_cancelled", job=id)
            ids.append(id)
        ids += [await harness.control(language).insert(queue="nobody") for language in LANGUAGES]

    said = {"descending": False, "filters": {}, "limit": 1, "order_by": "id"}
    assert ids == [first + n for n in range(4)]
    for languages in BOTH_WAYS:
        assert await _pages(harness, languages, said) == [[id] for id in ids]
    for language in LANGUAGES:
        assert (await command_runner(harness, language).ask("job_get", job=ids[3]))["id"] == ids[3]
        assert (
            await command_runner(harness, language).ask("job_delete_many", filters={"ids": [ids[1]]}, limit=5)
        ) == {"ids": [ids[1]] if language == "go" else []}


async def test_both_languages_send_the_same_notifications(harness: Harness) -> None:
    """
    6, 25, 27: notification_payload_bytes.

    Inserts, cancels, pauses, metadata changes and resign requests send the same bytes in both languages.
    """
    notifications: dict[Language, list[str]] = {}
    for language in LANGUAGES:
        await harness.fetch("TRUNCATE /* schema */river_job, /* schema */river_queue RESTART IDENTITY")
        await harness.fetch(QUEUES)
        notifications[language] = await _notifications(harness, language)

    assert notifications["python"] == notifications["go"]
    assert len(notifications["go"]) == 10


@pytest.mark.parametrize("round", range(5))
async def test_concurrent_inserts_of_one_key_make_one_job(harness: Harness, round: int) -> None:
    """
    11: cross_language_unique_conflict.

    Of sixteen inserts at once, eight in each language, one creates the job and all return its ID.
    """
    job = {"kind": "act", "args": {"round": round}, "opts": {"unique": {"by_args": True}}}

    many = await asyncio.gather(*(harness.control(LANGUAGES[n % 2]).insert_many([job]) for n in range(16)))

    results = [one for [one] in many]
    [row] = await harness.rows()
    assert {one["id"] for one in results} == {row["id"]}
    assert sum(not one["skipped"] for one in results) == 1


@pytest.mark.parametrize("language", LANGUAGES)
async def test_copy_fails_when_the_other_language_commits_its_key(
    harness: Harness, language: Language
) -> None:
    """
    13: cross_language_unique_conflict.

    A COPY waits for an open transaction that has its key, and fails when that commits.
    """
    job = {"kind": "act", "text": "{}", "opts": {"unique": {"by_args": True}}}

    async with transaction(harness, "python" if language == "go" else "go") as at:
        await at.insert([job])
        copying = asyncio.ensure_future(command_runner(harness, language).insert([job], fast=True))
        await harness.until(lambda: _is_waiting(harness), "a COPY that waits")
        await at.commit()

    assert await copying == {"refused": "23505"}
    assert len(await harness.rows()) == 1


async def _make_world(harness: Harness) -> None:
    await harness.fetch(WORLD)
    await harness.fetch("ALTER SEQUENCE /* schema */river_job_id_seq RESTART WITH 25")


async def _pages(harness: Harness, languages: tuple[Language, Language], said: Row) -> list[Any]:
    """Return the IDs of all pages, in alternating languages, or the refusal."""
    pages: list[Any] = []
    after = ""
    for page in range(100):
        at = command_runner(harness, languages[page % 2])
        answer = await at.ask("job_list", **said, after=after)
        if "refused" in answer:
            return [answer["refused"]]
        if not answer["ids"]:
            break
        pages.append(answer["ids"])
        if len(answer["ids"]) < said["limit"]:
            break
        after = answer["cursor"]
    return pages


async def _num_jobs(at: CommandRunner) -> int:
    return len((await at.ask("job_list", limit=100, order_by="id", filters={}))["ids"])


async def _notifications(harness: Harness, language: Language) -> list[str]:
    """Return the notifications of all topics for the commands of one language."""
    notifications: list[str] = []

    def receive(*words: Any) -> None:
        notifications.append(f"{words[2].removeprefix(harness.schema)} {words[3]}")
        harness._changed.set()

    topics = [f"{harness.schema}.river_{name}" for name in ("control", "insert", "leadership")]
    for topic in topics:
        await harness.connection.add_listener(topic, receive)
    at = command_runner(harness, language)
    await at.insert([{"kind": "act", "text": "{}", "opts": {"queue": "a|b"}}] * 3)
    await at.ask("job_cancel", job=1)
    for method, name in (("pause", "plain"), ("resume", "plain"), ("pause", 'odd "name"'), ("pause", "*")):
        await at.ask(f"queue_{method}", queue=name)
    metadata = {"<&>": ["\u2028", {"x": 1}]}
    await at.ask("queue_update", queue="plain", metadata=metadata)
    await at.ask("job_delete_many", filters={"ids": [2]}, limit=1)
    await at.insert([{"kind": "act", "text": "{}", "opts": {"queue": "fast"}}], fast=True)
    await at.ask("queue_resume", queue="*")
    await harness.control(language).request_resign()
    await harness.until_notified(notifications, 10)
    for topic in topics:
        await harness.connection.remove_listener(topic, receive)
    return notifications


async def _is_waiting(harness: Harness) -> bool:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'copy %' || $1 || '%' AND wait_event_type = 'Lock'"
    harness._changed.set()
    return bool((await harness.fetch(sql, harness.schema))[0][0])


def _photo(row: Row) -> Row:
    reported = {
        name: value for name, value in row.items() if name not in ("created_at", "id", "scheduled_at")
    }
    reported["scheduled_at"] = row["scheduled_at"] if row["state"] == "scheduled" else None
    return json.loads(json.dumps(reported))
