"""The Flask application: its server inserts jobs, and a separate worker uses its models."""

from __future__ import annotations

import signal

import pytest
from application import answer_when, asking, commands, run, started

pytestmark = pytest.mark.slow


async def test_flask_orders_are_committed_with_their_jobs(empty_url: str) -> None:
    """One session commits an order and its job, or neither; the worker confirms the order in its own session."""
    setup, serve, work = commands("flask_orders")
    await run("flask_orders", setup, DATABASE_URL=empty_url)
    async with (
        started("flask_orders", serve, "--port", "0", DATABASE_URL=empty_url) as server,
        started("flask_orders", work, DATABASE_URL=empty_url) as working,
        asking(server) as http,
    ):
        declined = await http.post("/orders", json={"customer": "bob", "card": "declined"})
        taken = await http.post("/orders", json={"customer": "ada"})
        assert taken.status_code == 201, server.text
        order, job = taken.json()["order"], taken.json()["job"]
        done = await answer_when(http, f"/jobs/{job}", state="completed")
        shown = (await http.get(f"/orders/{order}")).json()
        missing = [(await http.get(path)).status_code for path in (f"/orders/{order - 1}", "/jobs/999")]
        codes = await server.stop(), await working.stop()

    assert (declined.status_code, taken.status_code, missing) == (402, 201, [404, 404])
    assert done["output"] == f"order {order} of ada is confirmed"
    assert shown == {"customer": "ada", "is_confirmed": True}
    assert codes == (-signal.SIGTERM, 0), server.text + working.text
