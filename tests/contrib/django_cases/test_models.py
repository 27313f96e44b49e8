"""Claims about the client and the models of a project."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.db import transaction
from django.test import TestCase, override_settings

from millhand import InsertOpts, UnknownKind
from millhand.contrib.django import client
from millhand.contrib.django.models import Job, ReadOnlyRow
from shop.jobs import Confirm


class ModelsCase(TestCase):
    def test_client_has_the_project_s_configuration(self) -> None:
        """The project has one client with its hooks and workers, and a new one after a change of settings."""
        job = client().insert(Confirm(1)).job
        with pytest.raises(UnknownKind), transaction.atomic():
            client().insert(type("Unknown", (Confirm,), {"kind": "unknown_kind"})(1))
        same = client() is client()
        with override_settings(MILLHAND={**settings.MILLHAND, "MAX_ATTEMPTS": 2}):
            other = client().insert(Confirm(1)).job

        assert (job.tags, job.queue, same) == (("stamped",), "mail", True)
        assert (job.max_attempts, other.max_attempts) == (25, 2)

    def test_models_are_read_only(self) -> None:
        """A model reads every column and refuses every write."""
        row = client().insert(Confirm(7), InsertOpts(tags=["abc"], metadata={"a": [1]})).job
        job = Job.objects.get(args__order_id=7)

        assert (job.pk, job.state, job.tags, job.metadata) == (
            row.id,
            "available",
            ["abc", "stamped"],
            {"a": [1]},
        )
        assert (job.created_at, job.scheduled_at, job.errors) == (row.created_at, row.scheduled_at, None)
        for write in (job.save, job.delete, Job.objects.all().delete, lambda: Job.objects.update(state="x")):
            with pytest.raises(ReadOnlyRow):
                write()
