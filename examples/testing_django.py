"""
Test the shop in this directory with pytest-django, in the transaction that it rolls back.

    PYTHONPATH=examples/django_shop pytest --ds=config.settings examples/testing_django.py
"""

from __future__ import annotations

from datetime import timedelta

import django.test
import pytest

from millhand.contrib import django as millhand
from millhand.testing.sync import Counts, drain, require_inserted, require_not_inserted, time_travel
from shop.jobs import Confirm, count_open
from shop.models import Order

pytestmark = pytest.mark.django_db


def order(client: django.test.Client, customer: str, card: str = "good") -> None:
    client.post("/orders/", {"customer": customer, "card": card}, content_type="application/json")


def test_order_is_confirmed(client: django.test.Client) -> None:
    """The job is inserted in the order's transaction, and worked in the test's."""
    order(client, "ann@example.com")
    require_inserted(millhand.client(), Confirm, queue="mail")

    drained = drain(millhand.client(), raise_failures=True)

    assert drained.counts == Counts(completed=1)
    assert Order.objects.get().is_confirmed


def test_declined_card_leaves_no_job(client: django.test.Client) -> None:
    """A rollback removes the job with its order."""
    order(client, "ann@example.com", card="declined")

    require_not_inserted(millhand.client(), Confirm)


def test_open_orders_are_counted_every_ten_minutes() -> None:
    """A coroutine runs in the test's transaction, six times in an hour of travelled time."""
    Order.objects.create(customer="ann@example.com")

    with time_travel(millhand.client()) as time:
        worked = time.work_for(timedelta(hours=1), raise_failures=True)

    assert [one.job.kind for one in worked.worked] == [count_open.kind] * 6
