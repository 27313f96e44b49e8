"""
Jobs and queues in the admin, for users with Django's view, change and delete permissions.

Every change goes through `client()`, like `millhand job` and `millhand queue`: workers are notified, and a running job is
asked to stop. Models write nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from django.apps import apps
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.dateparse import parse_datetime
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.utils.timezone import template_localtime
from django.views.decorators.csrf import csrf_protect

from millhand.contrib.django import LABEL, client
from millhand.contrib.django.admin_list import BoundedPaginator, KindFilter, QueueFilter, StateFilter, search
from millhand.contrib.django.models import Job, Queue
from millhand.contrib.django.setting import database_alias
from millhand.core.errors import MillhandError
from millhand.core.job import JobState, Json

SUBJECT_LENGTH_MAX = 80

_ERROR_ROW = '<tr><td>{}</td><td style="white-space:nowrap">{}</td><td>{}</td></tr>'

# The admin's own colours where it has one; the others are legible on white and on black.
_COLOURS = {
    "available": "#2f7db0",
    "cancelled": "#888",
    "completed": "#3a9a3a",
    "discarded": "#d04545",
    "pending": "#888",
    "retryable": "#c98500",
    "running": "#7b5bd6",
    "scheduled": "#2f7db0",
}


def _label(state: str) -> str:
    html: str = format_html('<b style="color:{}">{}</b>', _COLOURS.get(state, "inherit"), state)
    return html


def _subject(args: Json) -> str:
    """Return the args in one line: `to=a@example.com subject=hello`; for a Django task, its call."""
    if not isinstance(args, Mapping):
        return _short(_encoded(args))
    if {"task", "args", "kwargs"} <= args.keys():
        called = [
            *map(_encoded, args["args"]),
            *(f"{key}={_encoded(one)}" for key, one in args["kwargs"].items()),
        ]
        return _short(f"{args['task']}({', '.join(called)})")
    return _short(" ".join(f"{key}={_encoded(value)}" for key, value in args.items()))


def _indented_json(value: Json) -> str:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    html: str = format_html('<pre style="margin:0;white-space:pre-wrap">{}</pre>', text)
    return html


def _errors_table(errors: Iterable[Mapping[str, Json]]) -> str:
    """Return the errors of a job as a table, last attempt first, with foldable tracebacks."""
    rows = [(one.get("attempt"), _when(one.get("at")), _error(one)) for one in reversed(list(errors))]
    if not rows:
        return ""
    lines = format_html_join("", _ERROR_ROW, rows)
    html: str = format_html(
        "<table><thead><tr><th>attempt</th><th>at</th><th>error</th></tr></thead><tbody>{}</tbody></table>",
        lines,
    )
    return html


def _error(error: Mapping[str, Json]) -> str:
    text = error.get("error") or ""
    if not error.get("trace"):
        return str(text)
    html: str = format_html(
        '<details><summary>{}</summary><pre style="overflow-x:auto">{}</pre></details>', text, error["trace"]
    )
    return html


def _when(at: Json) -> str:
    """Return a time in the user's time zone, without the nanoseconds of River's clients."""
    moment = parse_datetime(str(at))
    return str(at) if moment is None else f"{template_localtime(moment):%Y-%m-%d %H:%M:%S}"


def _encoded(value: Json) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _short(text: str) -> str:
    return text if len(text) <= SUBJECT_LENGTH_MAX else f"{text[: SUBJECT_LENGTH_MAX - 1]}…"


def _retry(job: Job) -> str:
    client().jobs.retry(job.pk)
    return "Made available by retry."


def _cancel(job: Job) -> str:
    row = client().jobs.cancel(job.pk)
    return "Asked to stop." if row.state is JobState.RUNNING else "Cancelled."


def _pause(queue: Queue) -> str:
    client().queues.pause(queue.pk)
    return "Paused."


def _resume(queue: Queue) -> str:
    client().queues.resume(queue.pk)
    return "Resumed."


def _column(
    title: str, cell: Callable[[Any], object], *, boolean: bool | None = None
) -> Callable[..., object]:
    """Return a column of the list or the page that shows `cell` of a row."""

    def column(_: admin.ModelAdmin, row: object) -> object:
        return cell(row)

    shown: Callable[..., object] = admin.display(description=title, boolean=boolean)(column)
    return shown


def _action(title: str, command: Callable[[Any], str], done: str) -> Callable[..., None]:
    """Return an action that applies a command to each row, logs the change and shows how many are `done`."""

    def action(model_admin: admin.ModelAdmin, request: HttpRequest, rows: Iterable[Any]) -> None:
        num_done = 0
        for row in rows:
            try:
                with transaction.atomic(using=database_alias()):
                    change = command(row)
            except MillhandError as error:  # a refusal does not stop the others
                model_admin.message_user(request, f"{row}: {error}", messages.WARNING)
                continue
            num_done += 1
            model_admin.log_change(request, row, change)
        if num_done:
            opts = model_admin.opts
            noun = opts.verbose_name if num_done == 1 else opts.verbose_name_plural
            model_admin.message_user(request, f"{num_done} {noun} {done}", messages.SUCCESS)

    shown: Callable[..., None] = admin.action(description=title, permissions=["control"])(action)
    return shown


class ReadOnlyAdmin(admin.ModelAdmin):
    """Shows rows; users with the change permission change them through actions."""

    def _is_refused(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    has_add_permission = has_change_permission = has_delete_permission = _is_refused

    def has_control_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}"))


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """All jobs, newest first."""

    actions = ("retry_jobs", "cancel_jobs")
    fieldsets: ClassVar[Sequence[tuple[str | None, dict[str, object]]]] = (
        (None, {"fields": ("kind", "state_label", "queue", "priority", "attempts", "all_tags")}),
        ("Args", {"fields": ("args_text",)}),
        ("Times", {"fields": ("created_at", "scheduled_at", "attempted_at", "finalized_at", "clients")}),
        ("Outcome", {"fields": ("output_text", "errors_table", "metadata_text")}),
    )
    list_display = ("id", "state_label", "kind", "subject", "queue", "attempts", "scheduled_at")
    list_filter = (StateFilter, QueueFilter, KindFilter)
    list_per_page = 50
    ordering = ("-id",)
    paginator = BoundedPaginator
    search_fields = ("kind",)  # enables the search box; `search` reads the text
    search_help_text = 'An id, a kind, or a JSON object that the args contain: {"to": "a@example.com"}'
    show_facets = admin.ShowFacets.NEVER if hasattr(admin, "ShowFacets") else None  # since 5.0
    show_full_result_count = False
    sortable_by = ()  # another order would read the whole table

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        return search(queryset, search_term), False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return bool(request.user.has_perm(f"{self.opts.app_label}.delete_{self.opts.model_name}"))

    def get_deleted_objects(
        self, objs: Sequence[Job], request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Return the jobs to delete; a running job prevents the deletion."""
        running = [f"{job} is running: cancel it first" for job in objs if job.state == JobState.RUNNING]
        return [str(job) for job in objs], {"jobs": len(objs)}, set(), running

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        for job in queryset:
            self.delete_model(request, job)

    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        """Delete a job; show a warning if it has started to run."""
        try:
            with transaction.atomic(using=database_alias()):
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
        job = self.get_object(request, object_id) if request.method == "POST" else None
        if job is not None and self.has_control_permission(request):
            if "_retry" in request.POST:
                self.retry_jobs(request, [job])
            elif "_cancel" in request.POST:
                self.cancel_jobs(request, [job])
            return HttpResponseRedirect(request.get_full_path())
        page_path = apps.get_app_config(LABEL).page_path
        page_url = f"{page_path}/jobs/{object_id}" if page_path else None
        context = {
            "can_control": self.has_control_permission(request),
            "page_url": page_url,
            **(extra_context or {}),
        }
        response: HttpResponse = super().change_view(request, object_id, form_url, context)
        return response

    retry_jobs = _action("Retry selected jobs now", _retry, "made available")
    cancel_jobs = _action("Cancel selected jobs", _cancel, "cancelled, or asked to stop")

    state_label = _column("state", lambda job: _label(job.state))
    subject = _column("about", lambda job: _subject(job.args))
    attempts = _column("attempts", lambda job: f"{job.attempt} of {job.max_attempts}")
    all_tags = _column("tags", lambda job: ", ".join(job.tags))
    args_text = _column("args", lambda job: _indented_json(job.args))
    clients = _column("worked by", lambda job: ", ".join(job.attempted_by or ()))
    output_text = _column(
        "output", lambda job: _indented_json(job.metadata["output"]) if "output" in job.metadata else ""
    )
    errors_table = _column("failed attempts", lambda job: _errors_table(job.errors or ()))
    metadata_text = _column(
        "metadata",
        lambda job: _indented_json({key: value for key, value in job.metadata.items() if key != "output"}),
    )


@admin.register(Queue)
class QueueAdmin(ReadOnlyAdmin):
    """The queues that clients work."""

    actions = ("pause_queues", "resume_queues")
    fields = ("name", "is_worked", "paused_at", "created_at", "updated_at", "metadata_text")
    list_display = ("name", "is_worked", "paused_at", "updated_at")
    ordering = ("name",)

    pause_queues = _action("Pause selected queues", _pause, "paused")
    resume_queues = _action("Resume selected queues", _resume, "resumed")

    is_worked = _column("worked", lambda queue: queue.paused_at is None, boolean=True)
    metadata_text = _column("metadata", lambda queue: _indented_json(queue.metadata))
