"""Claims about the list of changes, as a browser and a program see it."""

from __future__ import annotations

import httpx
from visitors import USERS, bearer

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.web import WebConfig, dashboard

ENTRIES = """
    INSERT INTO /* schema */millhand_audit (actor, role, address, action, subject, detail, num_jobs)
    SELECT CASE WHEN n = 1 THEN 'other' ELSE 'admin' END, 'admin', '', 'retry', 'job ' || n, '{}', 1
    FROM generate_series(1, 201) AS n ORDER BY n
"""


async def test_user_with_limits_sees_the_own_change_behind_200_of_others(
    schema_driver: AsyncpgDriver,
) -> None:
    """The list has the user's change and says that it is all; an admin's list goes on with older changes."""
    await schema_driver.pool.execute_script(ENTRIES)
    app = dashboard(schema_driver, WebConfig(users=USERS))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
        limited, every = [
            (await http.get("/api/v1/audit", headers=bearer(name))).json() for name in ("other", "admin")
        ]
        html = (await http.get("/audit", headers=bearer("other"))).text

    assert ([one["subject"] for one in limited["entries"]], limited["before"]) == (["job 1"], None)
    assert (len(every["entries"]), every["entries"][-1]["subject"]) == (200, "job 2")
    assert every["before"] == every["entries"][-1]["id"]
    assert ("/jobs/1" in html, "No change yet" in html) == (True, False)
