"""The models of the shop."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order of a customer."""

    customer = models.CharField(max_length=200)
    is_confirmed = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"order {self.pk} of {self.customer}"
