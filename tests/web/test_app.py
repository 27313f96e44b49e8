from __future__ import annotations

from typing import Any

import httpx
import pytest
from visitors import NO_DATABASE, USERS, bearer

from millhand import ConfigError
from millhand.web import UserConfig, WebConfig, dashboard
from millhand.web.routes import PAGES


@pytest.mark.parametrize("path", [page.path for page in PAGES if page.template and "{" not in page.path])
async def test_every_page_answers_as_html_and_as_json(browser: httpx.AsyncClient, path: str) -> None:
    """Each page without parameters is HTML at its path, and JSON at the same path of the API."""
    html = await browser.get(path)
    json = await browser.get(f"/api/v1{path}")

    assert (html.status_code, html.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (json.status_code, json.headers["content-type"]) == (200, "application/json")


async def test_missing_job_is_a_problem_with_the_same_words(browser: httpx.AsyncClient) -> None:
    """A job that is not there is 404, as a page and as a problem of RFC 9457."""
    html = await browser.get("/jobs/7")
    json = await browser.get("/api/v1/jobs/7")

    assert html.status_code == 404
    assert "job must exist, found none with id 7" in html.text
    assert json.headers["content-type"] == "application/problem+json"
    assert json.json()["status"] == 404


async def test_asset_is_kept_for_a_year_if_its_version_is_current(browser: httpx.AsyncClient) -> None:
    """A browser keeps a stylesheet whose version is that of its content, and asks again for any other."""
    page = (await browser.get("/")).text
    path = page.partition('<link rel="stylesheet" href="')[2].partition('"')[0]

    current = await browser.get(path)
    older = await browser.get(f"{path}0")

    assert "max-age=31536000" in current.headers["cache-control"]
    assert older.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("names", "config", "error"),
    [
        ([], {}, "databases must have at least one database"),
        (["a/b"], {}, "the name of a database must have at most 40 letters"),
        (
            ["shop"],
            {"colors": {"shp": "red"}},
            "colors must name databases of the page, got 'shp'; known: shop",
        ),
        (
            ["shop"],
            {"users": {"ada": UserConfig(databases={"shp": "viewer"})}},
            "user 'ada' must name databases",
        ),
        (
            None,
            {"users": {"ada": UserConfig(databases={"shop": "viewer"})}},
            "databases of user 'ada' must be left",
        ),
        (None, {"colors": {"shop": "pink"}}, "color of database 'shop' must be one of red, orange"),
    ],
)
def test_databases_that_cannot_be_served_are_refused(
    names: list[str] | None, config: dict[str, Any], error: str
) -> None:
    """Each error names the rule before anything is served."""
    one = NO_DATABASE if names is None else None
    several = None if names is None else dict.fromkeys(names, NO_DATABASE)
    with pytest.raises(ConfigError, match=error):
        dashboard(one, WebConfig(**config), databases=several)


def test_page_of_no_database_or_of_two_kinds_is_refused() -> None:
    """`dashboard` takes a database or databases."""
    with pytest.raises(ConfigError, match="must have a database or databases, got neither"):
        dashboard()
    with pytest.raises(ConfigError, match="must have a database or databases, got both"):
        dashboard(NO_DATABASE, databases={"shop": NO_DATABASE})


@pytest.mark.parametrize(
    ("user", "name", "said"),
    [
        ("viewer", "", '<div class="db">shop<small>shop at db.example</small></div>'),
        ("viewer", "Orders", '<div class="db">Orders<small>shop at db.example</small></div>'),
        ("other", "", '<div class="db">millhand</div>'),
        ("other", "Orders", '<div class="db">Orders</div>'),
    ],
    ids=["a viewer", "a name in the settings", "a user with limits", "both"],
)
async def test_page_says_which_database_it_shows(user: str, name: str, said: str) -> None:
    """By its name and host, never its password; a user with limits reads only what the settings call it."""
    page = dashboard("postgresql://ann:sesame@db.example:5433/shop", WebConfig(users=USERS, name=name))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(page), base_url="http://page") as http:
        text = (await http.get("/nowhere", headers=bearer(user))).text
        login = (await http.get("/login")).text

    assert said in text
    assert "sesame" not in text
    assert "shop" not in login
