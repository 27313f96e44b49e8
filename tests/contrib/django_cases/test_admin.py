"""Claims about the admin."""

from __future__ import annotations

from django.contrib.auth.models import Permission, User
from django.test import Client, TestCase
from django.urls import reverse

from millhand import InsertOpts, UniqueOpts
from millhand.contrib.django import client
from millhand.contrib.django.models import Job
from shop.jobs import Confirm

LIST = "/admin/millhand/job/"


class AdminCase(TestCase):
    def setUp(self) -> None:
        self.keeper = User.objects.create_superuser("keeper")
        self.viewer = User.objects.create_user("viewer", is_staff=True)
        self.viewer.user_permissions.add(Permission.objects.get(codename="view_job"))

    def give(self, action: str, *ids: int, **more: str) -> str:
        answer = self.client.post(LIST, {"action": action, "_selected_action": ids, **more}, follow=True)
        assert answer.status_code == 200
        return str(answer.content.decode())

    def state(self, id: int) -> str:
        return client().jobs.get(id).state.value

    def test_viewer_can_change_nothing(self) -> None:
        """A user with only the view permission sees jobs, and can change none."""
        job = client().insert(Confirm(1)).job
        self.client.force_login(self.viewer)
        page = reverse("admin:millhand_job_change", args=[job.id])
        shown = self.client.get(page).content.decode()
        posted = self.client.post(page, {"_cancel": "Cancel job"})
        self.give("cancel_jobs", job.id)
        deleted = self.client.post(f"{LIST}{job.id}/delete/", {"post": "yes"})

        assert ("_cancel" in shown, "confirm_order" in shown) == (False, True)
        assert (posted.status_code, deleted.status_code, self.state(job.id)) == (403, 403, "available")

    def test_buttons_need_a_csrf_token_and_a_job(self) -> None:
        """A request without a CSRF token is refused, one for a missing job does nothing, and others work."""
        job = client().insert(Confirm(1)).job
        page = reverse("admin:millhand_job_change", args=[job.id])
        careful = Client(enforce_csrf_checks=True)
        careful.force_login(self.keeper)
        self.client.force_login(self.keeper)
        forged = careful.post(page, {"_cancel": "Cancel job"}).status_code
        state = self.state(job.id)
        gone = {self.client.post(f"{LIST}{id}/change/", {"_retry": "x"}).status_code for id in ("999", "x")}
        pressed = self.client.post(page, {"_cancel": "Cancel job"}).status_code

        assert (forged, state, gone, pressed) == (
            403,
            "available",
            gone & {302, 403},
            302,
        )  # as Django has it
        assert self.state(job.id) == "cancelled"

    def test_refused_change_does_not_stop_others(self) -> None:
        """Jobs that can be retried are retried, and the page shows the outcome."""
        self.client.force_login(self.keeper)
        unique = InsertOpts(unique=UniqueOpts(by_args=True))
        first = client().insert(Confirm(1), unique).job
        client().jobs.cancel(first.id)
        client().insert(Confirm(1), unique)
        second = client().insert(Confirm(2)).job
        client().jobs.cancel(second.id)
        said = self.give("retry_jobs", first.id, second.id)

        assert "1 job made available" in said
        assert "unique key must be free" in said
        assert self.state(second.id) == "available"
        assert self.state(first.id) == "cancelled"

    def test_running_jobs_are_not_deleted(self) -> None:
        """A running job prevents a deletion; without it the others are deleted."""
        self.client.force_login(self.keeper)
        running, waiting = (client().insert(Confirm(number)).job.id for number in (1, 2))
        from django.db import connection  # noqa: PLC0415 - simulates a client

        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE river_job SET state = 'running', attempt = 1, attempted_at = now() WHERE id = %s",
                [running],
            )
        refused = self.give("delete_selected", running, waiting)
        self.give("delete_selected", waiting, post="yes")

        assert "is running: cancel it first" in refused
        assert list(Job.objects.values_list("pk", flat=True)) == [running]

    def test_search_and_filters_accept_any_text(self) -> None:
        """Any text finds its jobs or nothing, and is never an error."""
        self.client.force_login(self.keeper)
        job = client().insert(Confirm(5)).job
        link = f"{LIST}{job.id}/change/"
        found = {
            term: link in self.client.get(LIST, {"q": term}).content.decode()
            for term in (
                str(job.id),
                "confirm_order",
                '{"order_id": 5}',
                '{"order_id": 6}',
                "{broken",
                "9" * 30,
                "½",
                "%",
            )
        }
        wrong = self.client.get(LIST, {"state": "nonsense", "queue": "none", "kind": "confirm_order"})

        assert [term for term, is_found in found.items() if is_found] == [
            str(job.id),
            "confirm_order",
            '{"order_id": 5}',
        ]
        assert wrong.status_code == 200
