"""What runs after what, and how tasks end."""

from __future__ import annotations

import pytest

from client_harness import Act, ClientHarness
from flow_harness import work
from millhand.flows.flow import Flow, FlowState


@pytest.mark.slow
async def test_tasks_run_after_those_that_they_wait_for(harness: ClientHarness) -> None:
    """A chain, a group and its callback start in order, and the flow completes."""
    flow = Flow("parts")
    first = flow.add(Act("first"))
    parts = flow.add_many((Act(f"part {number}") for number in range(50)), after=first)
    flow.add(Act("sum"), after=[first, parts])

    worked, row = await work(harness, flow)

    assert worked[0] == "first"
    assert sorted(worked[1:51]) == sorted(f"part {number}" for number in range(50))
    assert worked[51:] == ["sum"]
    assert (row.state, row.num_tasks, row.num_failed, row.num_skipped) == (FlowState.COMPLETED, 52, 0, 0)


@pytest.mark.slow
async def test_a_failure_cancels_skips_and_runs_what_waits(harness: ClientHarness) -> None:
    """After a failed task: `failed` and `ended` run, `completed` is cancelled and so is what waits for it."""
    flow = Flow("failing")
    fails = flow.add(Act("fail"))
    good = flow.add(Act("good"))
    cancelled = flow.add(Act("cancelled"), after=[fails, good])
    flow.add(Act("below"), after=cancelled)
    flow.add(Act("alert"), after=fails, when="failed")
    flow.add(Act("clean up"), after=[cancelled, good], when="ended")
    skipped = flow.add(Act("skipped"), after=good, when="failed")
    flow.add(Act("below skipped"), after=skipped)

    worked, row = await work(harness, flow)

    assert sorted(worked) == ["alert", "clean up", "fail", "good"]
    assert (row.state, row.num_failed, row.num_skipped) == (FlowState.FAILED, 3, 2)
    jobs = {job.args["what"]: job for job in await harness.rows()}
    assert [error.error for error in jobs["cancelled"].errors] == [
        f"JobCancelledError: job {jobs['fail'].id}, which it waited for, failed"
    ]
    assert jobs["skipped"].metadata["millhand:skipped"] is True
    assert jobs["alert"].metadata["deps"] == ["act"]
