"""
Jobs and queues in the admin: to be looked at by whoever may view them, and changed by whoever may change or delete them.

Every change is a command of `client()`, as `millhand job` and `millhand queue` give it: whoever works hears of it, and a
job that runs is asked to end. Nothing is written by a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_protect

from millhand.contrib.django import client
from millhand.contrib.django.admin_list import BoundedPaginator, KindFilter, QueueFilter, StateFilter, search
from millhand.contrib.django.admin_text import errors_table, indented_json, label, subject
from millhand.contrib.django.models import Job, Queue
from millhand.errors import MillhandError
from millhand.job import JobState

PAGE = 50


class ReadOnlyAdmin(admin.ModelAdmin):
    """Shows rows; what may be done to them are actions, for those with the permission to change."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Jobs are inserted by code."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """No row is changed by a form."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Only where the control can."""
        return False

    def has_control_permission(self, request: HttpRequest) -> bool:
        """Whether the user may give commands."""
        return bool(request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}"))

    def _give(
        self, request: HttpRequest, rows: Iterable[object], command: Callable[[object], str], done: str
    ) -> None:
        """Give a command for each row, and tell what came of it; what is refused leaves the others be."""
        num_done = 0
        for row in rows:
            try:
                what = command(row)
            except MillhandError as error:
                self.message_user(request, f"{row}: {error}", messages.WARNING)
                continue
            num_done += 1
            self.log_change(request, row, what)
        if num_done:
            words = f"{num_done} {self.opts.verbose_name if num_done == 1 else self.opts.verbose_name_plural}"
            self.message_user(request, f"{words} {done}", messages.SUCCESS)


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """All jobs, the newest first."""

    actions = ("retry_jobs", "cancel_jobs")
    fieldsets: ClassVar[Sequence[tuple[str | None, dict[str, object]]]] = (
        (None, {"fields": ("kind", "state_label", "queue", "priority", "attempts", "all_tags")}),
        ("What it is told", {"fields": ("args_text",)}),
        (
            "When",
            {"fields": ("created_at", "scheduled_at", "attempted_at", "finalized_at", "clients")},
        ),
        ("What came of it", {"fields": ("output_text", "errors_table", "metadata_text")}),
    )
    list_display = ("id", "state_label", "kind", "subject", "queue", "attempts", "scheduled_at")
    list_filter = (StateFilter, QueueFilter, KindFilter)
    list_per_page = PAGE
    ordering = ("-id",)
    paginator = BoundedPaginator
    search_fields = ("kind",)  # what is typed is read by `search`; without a field there would be no box
    search_help_text = "An id, a kind, or a JSON object that the args contain: {“to”: “a@example.com”}"
    show_facets = admin.ShowFacets.NEVER if hasattr(admin, "ShowFacets") else None  # since 5.0
    show_full_result_count = False
    sortable_by = ()  # every other order would read the whole table

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        """Return what passes, and that no row comes twice."""
        return search(queryset, search_term), False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Whoever may delete jobs, by the permission that Django has for it."""
        return bool(request.user.has_perm(f"{self.opts.app_label}.delete_{self.opts.model_name}"))

    def get_deleted_objects(
        self, objs: Sequence[Job], request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Say what is to go; a job that runs is in the way until it is cancelled."""
        running = [
            f"{job}, which is running: cancel it first" for job in objs if job.state == JobState.RUNNING
        ]
        return [str(job) for job in objs], {"jobs": len(objs)}, set(), running

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Delete the jobs that were chosen and confirmed."""
        for job in queryset:
            self.delete_model(request, job)

    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        """Delete a job; one that began to run meanwhile stays, and that is told."""
        try:
            client().jobs.delete(obj.pk)
        except MillhandError as error:
            self.message_user(request, f"{obj}: {error}", messages.WARNING)

    @method_decorator(csrf_protect)
    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, object] | None = None,
    ) -> HttpResponse:
        """Show a job, or do what one of the buttons below it says."""
        job = self.get_object(request, object_id) if request.method == "POST" else None
        if job is not None and self.has_control_permission(request):
            if "_retry" in request.POST:
                self.retry_jobs(request, [job])
            elif "_cancel" in request.POST:
                self.cancel_jobs(request, [job])
            return HttpResponseRedirect(request.get_full_path())
        context = {"can_control": self.has_control_permission(request), **(extra_context or {})}
        response: HttpResponse = super().change_view(request, object_id, form_url, context)
        return response

    @admin.action(description="Retry selected jobs now", permissions=["control"])
    def retry_jobs(self, request: HttpRequest, queryset: Iterable[Job]) -> None:
        """Make the jobs available at once."""

        def retry(job: object) -> str:
            client().jobs.retry(job.pk)  # type: ignore[attr-defined]  # a model
            return "Made available by retry."

        self._give(request, queryset, retry, "made available")

    @admin.action(description="Cancel selected jobs", permissions=["control"])
    def cancel_jobs(self, request: HttpRequest, queryset: Iterable[Job]) -> None:
        """Cancel the jobs; those that run are asked to end."""

        def cancel(job: object) -> str:
            row = client().jobs.cancel(job.pk)  # type: ignore[attr-defined]  # a model
            return "Asked to end." if row.state is JobState.RUNNING else "Cancelled."

        self._give(request, queryset, cancel, "cancelled, or asked to end")

    @admin.display(description="state")
    def state_label(self, job: Job) -> str:
        """The state, in its colour."""
        return label(job.state)

    @admin.display(description="about")
    def subject(self, job: Job) -> str:
        """What the job is about, in a line."""
        return subject(job.args)

    @admin.display(description="attempts")
    def attempts(self, job: Job) -> str:
        """How many there were of how many there may be."""
        return f"{job.attempt} of {job.max_attempts}"

    @admin.display(description="tags")
    def all_tags(self, job: Job) -> str:
        """The tags."""
        return ", ".join(job.tags)

    @admin.display(description="args")
    def args_text(self, job: Job) -> str:
        """What the job is told."""
        return indented_json(job.args)

    @admin.display(description="worked by")
    def clients(self, job: Job) -> str:
        """The clients of its attempts."""
        return ", ".join(job.attempted_by or ())

    @admin.display(description="output")
    def output_text(self, job: Job) -> str:
        """What its worker recorded."""
        return indented_json(job.metadata["output"]) if "output" in job.metadata else ""

    @admin.display(description="failed attempts")
    def errors_table(self, job: Job) -> str:
        """What went wrong, attempt by attempt."""
        return errors_table(job.errors or ())

    @admin.display(description="metadata")
    def metadata_text(self, job: Job) -> str:
        """All else that is kept with it."""
        return indented_json({key: value for key, value in job.metadata.items() if key != "output"})


@admin.register(Queue)
class QueueAdmin(ReadOnlyAdmin):
    """The queues that somebody works."""

    actions = ("pause_queues", "resume_queues")
    fields = ("name", "is_worked", "paused_at", "created_at", "updated_at", "metadata_text")
    list_display = ("name", "is_worked", "paused_at", "updated_at")
    ordering = ("name",)

    @admin.action(description="Pause selected queues", permissions=["control"])
    def pause_queues(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Have all clients stop to fetch from the queues; what runs goes on."""

        def pause(queue: object) -> str:
            client().queues.pause(queue.pk)  # type: ignore[attr-defined]  # a model
            return "Paused."

        self._give(request, queryset, pause, "paused")

    @admin.action(description="Resume selected queues", permissions=["control"])
    def resume_queues(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Have all clients fetch from the queues again."""

        def resume(queue: object) -> str:
            client().queues.resume(queue.pk)  # type: ignore[attr-defined]  # a model
            return "Resumed."

        self._give(request, queryset, resume, "resumed")

    @admin.display(description="worked", boolean=True)
    def is_worked(self, queue: Queue) -> bool:
        """Whether jobs are fetched from it."""
        return queue.paused_at is None

    @admin.display(description="metadata")
    def metadata_text(self, queue: Queue) -> str:
        """What is kept with it."""
        return indented_json(queue.metadata)
