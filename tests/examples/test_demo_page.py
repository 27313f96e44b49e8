"""Claims about `./just demo --web`, as a person on call meets it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from demo_process import Demo, running_demo


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    """A demo with its page; Ctrl-C ends it and the worker."""
    async with running_demo() as demo:
        yield demo


@pytest.mark.slow
async def test_demo_page_shows_an_outage_and_its_end(demo: Demo) -> None:
    """
    Charges fail and are discarded, reports wait for a slot, a queue has no client, and a worker leads.

    The first overview has the failures of the minutes before. When the provider is back, a discarded
    charge that is retried succeeds, and its receipt is sent.
    """
    first = await demo.until("", lambda _: True)
    failing = await demo.until("queues/default", lambda page: page["queue"]["num_retryable"] > 3)
    queues = await demo.until(
        "queues",
        lambda page: [one["limit"] for one in page["queues"] if one["name"] == "reports"] == ["slots"],
    )
    fleet = await demo.until("fleet", lambda page: all(one["leader_id"] for one in page["leaders"]))
    mail = await demo.until("queues/mail", lambda _: True)
    discarded = await demo.until("jobs?q=state:discarded", lambda page: page["jobs"])
    await demo.end_outage()
    job = f"jobs/{discarded['jobs'][0]['id']}"
    (await demo.api.post(f"/api/v1/{job}/retry")).raise_for_status()
    await demo.until(job, lambda page: page["job"]["state"] == "completed")
    await demo.until("queues/mail", lambda page: any(job["state"] == "completed" for job in page["newest"]))

    findings = " ".join(finding["text"] for finding in first["verdict"]["findings"])
    assert first["history"]["total"]["discarded"] > 0
    assert [error["kind"] for error in first["errors"]] == ["charge_card"]
    assert "history ends" not in findings
    assert {job["state"] for job in failing["newest"] if job["kind"] == "charge_card"} >= {"retryable"}
    assert {one["name"]: one["limit"] for one in queues["queues"]} == {
        "default": None,
        "mail": None,
        "partner": "no_client",
        "reports": "slots",
    }
    assert [one["kind"] for one in fleet["unworked_kinds"]] == ["send_receipt"]
    assert mail["newest"] == []
