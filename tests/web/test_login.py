"""Claims about logins, sessions and forged forms."""

from __future__ import annotations

import asyncio
import html
import re
from datetime import timedelta
from typing import Any

import httpx
import pytest
from visitors import CHEAP_PASSWORD, PASSWORD, START, USERS, bearer, is_in, log_in, visiting

from millhand.testing import ManualClock
from millhand.web import User, UserConfig
from millhand.web.credential import hashed_password


def _csrf(answer: httpx.Response) -> str:
    found = re.search(r'name="csrf" content="([^"]+)"', answer.text)
    assert found is not None, answer.text
    return found[1]


async def test_user_logs_in_by_password_and_out() -> None:
    """A login leads to the page that was asked for, and a logout ends it."""
    async with visiting(users=USERS) as http:
        asked = await http.get("/jobs?q=state:running")
        form = await http.get(asked.headers["location"])
        answer = await log_in(http, next="/jobs?q=state:running")
        was_in = await is_in(http)
        csrf = _csrf(await http.get("/nowhere"))
        out = await http.post("/logout", data={"csrf": csrf})

        assert asked.headers["location"] == "/login?next=%2Fjobs%3Fq%3Dstate%3Arunning"
        assert 'name="next" value="/jobs?q=state:running"' in form.text
        assert (answer.status_code, answer.headers["location"]) == (303, "/jobs?q=state:running")
        assert (was_in, out.headers["location"], await is_in(http)) == (True, "/login", False)


async def test_user_logs_in_by_token() -> None:
    """The login page takes a token without a name."""
    async with visiting(users=USERS) as http:
        await http.post("/login", data={"secret": "viewer-token"})
        assert "<span>viewer · viewer</span>" in (await http.get("/nowhere")).text


@pytest.mark.parametrize(
    "form",
    [
        {"name": "ada", "secret": "wrong"},
        {"name": "ada", "secret": ""},
        # A check of an unknown name takes as long as the real one.
        pytest.param({"name": "eve", "secret": PASSWORD}, marks=pytest.mark.slow),
        pytest.param({"name": "viewer", "secret": ""}, marks=pytest.mark.slow),
        {"name": "", "secret": PASSWORD},
        {"name": "", "secret": ""},
        {},
    ],
)
async def test_wrong_login_is_refused(form: dict[str, str]) -> None:
    """A wrong name, password or token shows the form again, with the same text for all of them."""
    async with visiting(users=USERS) as http:
        answer = await http.post("/login", data=form)
        assert (answer.status_code, await is_in(http)) == (401, False)
        assert "This name and password do not match." in answer.text


async def test_five_failures_a_minute_from_one_address() -> None:
    """The sixth login within a minute is refused, even with the right password; another address is not."""
    clock = ManualClock(START)
    async with visiting(users=USERS, clock=clock) as http:
        for _ in range(5):
            await log_in(http, secret="wrong")
        blocked = await log_in(http)
        clock.advance(61)
        later = await log_in(http)

    assert (blocked.status_code, blocked.headers["retry-after"]) == (429, "60")
    assert "Try again in 60 s" in blocked.text
    assert later.status_code == 303


async def test_logins_at_once_pass_the_limit_no_more_often() -> None:
    """Twenty guesses that arrive together are five guesses."""
    async with visiting(users=USERS) as http:
        answers = await asyncio.gather(*(log_in(http, secret=f"guess {n}") for n in range(20)))

    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 15


@pytest.mark.parametrize(
    ("target", "goes_to"),
    [
        ("/jobs/7?a=b", "/jobs/7?a=b"),
        ("", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("\\\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/\t/evil.example", "/"),
        ("/\r\nSet-Cookie: a=b", "/"),
        (" //evil.example", "/"),
        ("/ñ", "/%C3%B1"),
    ],
)
async def test_login_leads_to_this_page_only(target: str, goes_to: str) -> None:
    """Whatever `next` holds, the browser stays on this page."""
    async with visiting(users=USERS) as http:
        assert (await log_in(http, next=target)).headers["location"] == goes_to


@pytest.mark.parametrize(
    ("base_url", "cookie"),
    [
        ("http://page", r"millhand_80=[^;]+; HttpOnly; Max-Age=43200; Path=/; SameSite=lax"),
        ("https://page", r"__Host-millhand=[^;]+; HttpOnly; Max-Age=43200; Path=/; SameSite=lax; Secure"),
    ],
)
async def test_cookie_is_as_strict_as_the_connection_allows(base_url: str, cookie: str) -> None:
    """
    No script reads the cookie, no other site sends it, and behind TLS it never travels without.

    A logout has the same flags: a browser ignores it otherwise, and keeps the cookie.
    """
    async with visiting(users=USERS, base_url=base_url) as http:
        answer = await log_in(http)
        ended = await http.post("/logout", data={"csrf": _csrf(await http.get("/nowhere"))})

    assert re.fullmatch(cookie, answer.headers["set-cookie"])
    name, _, strict = answer.headers["set-cookie"].partition("=")
    flags = sorted(flag for flag in strict.split("; ")[1:] if not flag.startswith("Max-Age"))
    removed = ended.headers["set-cookie"].split("; ")
    assert removed[0] == f'{name}=""'
    assert sorted(flag for flag in removed[1:] if not flag.startswith(("Max-Age", "expires"))) == flags


async def test_session_ends_after_twelve_hours() -> None:
    """A session is valid for twelve hours, whatever the browser does with its cookie."""
    clock = ManualClock(START)
    async with visiting(users=USERS, clock=clock) as http:
        await log_in(http)
        clock.advance(timedelta(hours=12) - timedelta(seconds=1))
        before = await is_in(http)
        clock.advance(2)

        assert (before, await is_in(http)) == (True, False)


@pytest.mark.parametrize(
    ("changed", "is_valid"),
    [
        ({"secret": "shared"}, True),
        ({"secret": "another"}, False),
        ({"secret": "shared", "users": {}}, False),
        (
            {"secret": "shared", "users": {"ada": UserConfig(password=hashed_password("x", log2_rounds=1))}},
            False,
        ),
    ],
)
async def test_processes_share_sessions_by_a_secret(changed: dict[str, object], is_valid: bool) -> None:
    """A session of another process counts with the same secret, as long as its user has the same password."""
    async with visiting(users=USERS, secret="shared") as first:
        await log_in(first)
        cookie = first.cookies["millhand_80"]
    async with visiting(**{"users": USERS, **changed}) as second:
        second.cookies.set("millhand_80", cookie)
        assert await is_in(second) is is_valid


@pytest.mark.parametrize("cookie", ["", "x", "a.b.c", "W10.x", "e30"])
async def test_forged_cookie_is_no_session(cookie: str) -> None:
    """A cookie that this page did not sign is none."""
    async with visiting(users=USERS) as http:
        http.cookies.set("millhand_80", cookie)
        assert not await is_in(http)


SAME = {"Sec-Fetch-Site": "same-origin", "Origin": "http://page"}


@pytest.mark.parametrize(
    ("headers", "form", "status"),
    [
        (SAME, {"csrf": "own"}, 303),
        ({}, {"csrf": "own"}, 303),
        ({"Millhand-CSRF": "own"}, {}, 303),
        ({"Origin": "http://page"}, {"csrf": "own"}, 303),
        (SAME, {}, 403),
        (SAME, {"csrf": ""}, 403),
        (SAME, {"csrf": "ñ"}, 403),
        (SAME, {"csrf": "old"}, 403),
        (SAME, {"csrf": "other"}, 403),
        ({"Millhand-CSRF": "other"}, {}, 403),
        ({"Origin": "http://evil.example"}, {"csrf": "own"}, 403),
        ({"Origin": "null"}, {"csrf": "own"}, 403),
        ({"Origin": "http://page:81"}, {"csrf": "own"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, {"csrf": "own"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://page"}, {"csrf": "own"}, 403),
        ({"Content-Type": "text/plain"}, {"csrf": "own"}, 403),
    ],
)
async def test_form_needs_the_token_of_its_session_and_our_origin(
    headers: dict[str, str], form: dict[str, str], status: int
) -> None:
    """A form without its session's token, with another session's, or from another site changes nothing."""
    users = USERS | {"bob": UserConfig(password=CHEAP_PASSWORD)}
    async with visiting(users=users) as http:
        await log_in(http, name="bob")
        tokens = {"other": _csrf(await http.get("/nowhere"))}
        await log_in(http)
        tokens["old"] = _csrf(await http.get("/nowhere"))
        await log_in(http)
        tokens["own"] = _csrf(await http.get("/nowhere"))

        def filled(fields: dict[str, str]) -> dict[str, str]:
            return {name: tokens.get(value, value) for name, value in fields.items()}

        assert (await http.post("/logout", data=filled(form), headers=filled(headers))).status_code == status


async def test_host_s_user_needs_the_form_s_token_too() -> None:
    """A user whom the application around the page knows by a cookie of its own is protected in the same way."""
    async with visiting(authenticate=lambda _: User(name="ada")) as http:
        without = await http.post("/logout")
        csrf = _csrf(await http.get("/nowhere"))
        with_token = await http.post("/logout", data={"csrf": csrf})

    assert (without.status_code, with_token.status_code) == (403, 303)


@pytest.mark.parametrize(
    ("request_of", "text"),
    [
        ({"json": {}}, "Send the header 'Authorization: Bearer TOKEN'"),
        ({"content": b"{}"}, "Send the header 'Authorization: Bearer TOKEN'"),
        ({"data": {"csrf": "old"}}, "The form is of another session or too old."),
        ({"headers": {"Millhand-CSRF": "old"}}, "The form is of another session or too old."),
    ],
)
async def test_program_with_a_cookie_is_told_to_send_a_bearer_token(
    request_of: dict[str, Any], text: str
) -> None:
    """A request that is not from a form of the page gets the remedy of a program, and a form gets its own."""
    async with visiting(users=USERS) as http:
        await log_in(http)
        answer = await http.post("/logout", **request_of)

    assert (answer.status_code, text in html.unescape(answer.text)) == (403, True)


async def test_program_with_a_bearer_token_needs_no_form_token() -> None:
    """A browser never sends a bearer token by itself, so a forged form has none."""
    async with visiting(users=USERS) as http:
        assert (await http.post("/logout", headers=bearer("viewer"))).status_code == 303


async def test_login_from_another_site_is_refused() -> None:
    """Another site cannot log its visitors in as a user of its choice."""
    async with visiting(users=USERS) as http:
        answer = await http.post(
            "/login", data={"name": "ada", "secret": PASSWORD}, headers={"Origin": "http://evil.example"}
        )
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


@pytest.mark.parametrize(("headers", "max_bytes"), [({}, 16 * 1024), (bearer("viewer"), 4 * 1024 * 1024)])
async def test_change_of_unlimited_size_is_refused(headers: dict[str, str], max_bytes: int) -> None:
    """A body above 4 MB, or 16 kB before the login, is refused before a route reads it."""
    async with visiting(users=USERS) as http:
        statuses = [
            (await http.post("/login", content=b"x" * size, headers=headers)).status_code
            for size in (max_bytes, max_bytes + 1)
        ]

    assert statuses == [401, 413]


async def test_form_with_too_many_fields_is_refused() -> None:
    """A form of a hundred thousand fields costs no time."""
    async with visiting(users=USERS) as http:
        await log_in(http)
        form = "a=1&" * 100_000
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await http.post("/logout", content=form, headers=headers)).status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8440", 404),
        ("localhost:9000", 404),
        ("[::1]:8440", 404),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("[", 421),
    ],
)
async def test_local_page_answers_to_local_names_only(host: str, status: int) -> None:
    """Another site whose name points to this machine does not reach the page."""
    async with visiting(users=USERS, is_local=True) as http:
        answer = await http.get("/nowhere", headers={"Host": host, **bearer("viewer")})
        assert answer.status_code == status


async def test_printed_url_logs_in_on_a_local_page_only() -> None:
    """The token in the URL of `millhand web` logs in; with configured users, no token belongs into a URL."""
    async with visiting(users=USERS, is_local=True, base_url="http://127.0.0.1") as http:
        local = await http.get("/login?token=viewer-token")
        wrong = await http.get("/login?token=wrong")
    async with visiting(users=USERS) as http:
        configured = await http.get("/login?token=viewer-token")

    assert (local.status_code, local.headers["location"]) == (303, "/")
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
    assert (configured.status_code, "set-cookie" in configured.headers) == (200, False)
