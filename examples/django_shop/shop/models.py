"""What the shop keeps."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """Something that somebody has bought."""

    customer = models.CharField(max_length=200)
    is_confirmed = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"order {self.pk} of {self.customer}"
