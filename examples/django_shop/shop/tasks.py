"""Django's own tasks, worked beside the jobs of `jobs.py`."""

from __future__ import annotations

try:
    from django.tasks import task
except ImportError:  # before Django 6.0
    from django_tasks import task

from shop.models import Order


@task(priority=10)
def report(customer: str) -> dict[str, int]:
    """Count the orders of a customer."""
    orders = Order.objects.filter(customer=customer)
    return {"orders": orders.count(), "confirmed": orders.filter(is_confirmed=True).count()}
