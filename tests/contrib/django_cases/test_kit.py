"""Claims about the test kit in a Django test case, whose transaction is rolled back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from django.db import connection
from django.test import TestCase

from millhand import Config, Flow, FlowState, InsertOpts, Job, SyncClient, Workers
from millhand.testing.sync import Counts, drain
from shop.models import Order

workers = Workers()


@dataclass(frozen=True)
class Ship:
    kind: ClassVar[str] = "ship"
    customer: str


@workers.add()
def ship(job: Job[Ship]) -> None:
    Order.objects.filter(customer=job.args.customer).update(is_confirmed=True)


class KitCase(TestCase):
    def test_flow_and_limit_are_worked_in_the_transaction_of_the_case(self) -> None:
        """All tasks of a flow and of a limited queue run, and their writes through the ORM are in the case's transaction."""
        client = SyncClient(connection, Config(workers=workers))
        Order.objects.create(customer="ann")
        client.limits.set("ships", at_once=1, by_args=["customer"])
        flow = Flow("ships")
        first = flow.add(Ship("ann"), InsertOpts(queue="ships"))
        flow.add(Ship("bob"), InsertOpts(queue="ships"), after=[first])
        inserted = client.insert_flow(flow)
        client.insert(Ship("eve"), InsertOpts(queue="ships"))

        drained = drain(client)

        assert drained.counts == Counts(completed=3)
        assert client.flows.get(inserted.id).state is FlowState.COMPLETED
        assert not any(one.running or one.waiting for one in client.limits.partitions("ships"))
        assert Order.objects.get(customer="ann").is_confirmed
