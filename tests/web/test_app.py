from __future__ import annotations

import httpx
import pytest

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
