"""Dispatches in the admin: view all, and retry or discard dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.template.defaultfilters import filesizeformat
from django.utils import formats, timezone
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from broker_core.dispatches import State
from broker_django.identity import ownership
from broker_django.ledger import dead_letters, ledger
from broker_django.ledger.rows import rows as all_rows
from broker_django.models import DispatchRecord
from broker_django.models.moments import in_local_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from django.db.models import QuerySet
    from django.http import HttpRequest

    ModelAdmin = admin.ModelAdmin[DispatchRecord]
else:
    ModelAdmin = admin.ModelAdmin

ERRORS_SHOWN = 20

ACTIONS = {"retry": _("run again"), "discard": _("discarded")}


def _of_tenant(request: HttpRequest, rows: QuerySet[DispatchRecord]) -> QuerySet[DispatchRecord]:
    """Returns the dispatches of this admin's tenant; all of them in an admin without a tenant, or the shared one."""
    tenant = ownership.tenant_of(request)
    shared = {"", getattr(settings, "PUBLIC_SCHEMA_NAME", "public")} if apps.is_installed("django_tenants") else {""}
    return rows if tenant in shared else rows.filter(tenant=tenant)


class DeadLetterFilter(admin.SimpleListFilter):
    """Filters dead letters: all, or those with one error."""

    title = _("error of dead letters")
    parameter_name = "dead"

    def lookups(self, request: HttpRequest, _model_admin: Any) -> list[tuple[str, str]]:
        groups: dict[str, int] = {}
        for group in dead_letters.by_error(_of_tenant(request, all_rows().filter(dead_letters.are_dead_letters()))):
            groups[group.error] = groups.get(group.error, 0) + group.count
        largest = sorted(groups.items(), key=lambda item: -item[1])[:ERRORS_SHOWN]
        return [
            ("all", str(_("any error"))),
            *((f"={error}", f"{error or _('expired')} ({count})") for error, count in largest),
        ]

    def queryset(self, _request: HttpRequest, rows: QuerySet[DispatchRecord]) -> QuerySet[DispatchRecord]:
        value = self.value()
        if not value:
            return rows
        dead = rows.filter(dead_letters.are_dead_letters())
        return dead.filter(error=value[1:]) if value.startswith("=") else dead


@admin.register(DispatchRecord)
class DispatchAdmin(ModelAdmin):
    """Read-only, except for dead letters. The request's headers and body stay sealed."""

    list_display = ("summary", "queue", "coloured_state", "attempts", "answered", "waited", "ran", "accepted_at")
    list_filter = (DeadLetterFilter, "queue", "state", "method", "accepted_at")
    search_fields = ("=id", "path", "route", "=user", "error", "=trace_id")
    search_help_text = _("Id, path, route, user, error or trace")
    show_full_result_count = False
    list_per_page = 50
    actions = ("run_again", "discard")
    fieldsets = (
        (None, {"fields": ("summary", "state", "state_history", "action_history")}),
        (_("Request"), {"fields": ("id", "method", "path", "route", "user", "trace", "sealed_size")}),
        (_("Queue"), {"fields": ("queue", "reason", "attempts", "worker", "published_at", "expires_at", "due_at")}),
        (_("Response"), {"fields": ("answered", "response_type", "response_size", "error")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[DispatchRecord]:
        return _of_tenant(request, super().get_queryset(request)).defer("sealed", "kept_response")

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("broker_django.retry_dispatchrecord")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("broker_django.discard_dispatchrecord")

    @admin.action(description=_("Run the selected dead letters again"), permissions=["retry"])
    def run_again(self, request: HttpRequest, rows: QuerySet[DispatchRecord]) -> None:
        done, left = self._act(request, rows, ledger.revive, gettext("Run again."))
        self._report(request, ngettext("%d dispatch runs again.", "%d dispatches run again.", done), done, left)

    @admin.action(description=_("Discard the selected dead letters"), permissions=["discard"])
    def discard(self, request: HttpRequest, rows: QuerySet[DispatchRecord]) -> None:
        done, left = self._act(request, rows, ledger.discard, gettext("Discarded."))
        text = ngettext("%d dead letter is discarded.", "%d dead letters are discarded.", done)
        self._report(request, text, done, left)

    def _report(self, request: HttpRequest, text: str, done: int, left: int) -> None:
        if done:
            self.message_user(request, text % done, messages.SUCCESS)
        if left:
            text = ngettext(
                "%d selected dispatch is left alone: dead letters are failed or expired, and not discarded.",
                "%d selected dispatches are left alone: dead letters are failed or expired, and not discarded.",
                left,
            )
            self.message_user(request, text % left, messages.WARNING)

    def _act(
        self,
        request: HttpRequest,
        rows: QuerySet[DispatchRecord],
        act: Callable[[UUID, str], bool],
        message: str,
    ) -> tuple[int, int]:
        """Returns how many dead letters were changed, and how many of the selected rows were left alone."""
        selected = rows.count()
        chosen = list(rows.filter(dead_letters.are_dead_letters()).values_list("pk", flat=True))
        actor, kind = f"{request.user.get_username()} in the admin", ContentType.objects.get_for_model(DispatchRecord)
        count = 0
        for start in range(0, len(chosen), dead_letters.CHUNK):
            chunk = chosen[start : start + dead_letters.CHUNK]
            count += sum(act(dispatch_id, actor) for dispatch_id in chunk)
            LogEntry.objects.bulk_create(
                LogEntry(
                    user_id=str(request.user.pk),
                    content_type=kind,
                    object_id=str(record.pk),
                    object_repr=str(record)[:200],
                    action_flag=CHANGE,
                    change_message=message,
                )
                for record in all_rows().filter(pk__in=chunk).defer("sealed", "kept_response")
            )
        return count, selected - count

    @admin.display(description=_("request"), ordering="path")
    def summary(self, record: DispatchRecord) -> str:
        return f"{record.method} {record.path}"

    @admin.display(description=_("state"), ordering="state")
    def coloured_state(self, record: DispatchRecord) -> str:
        colour = {"succeeded": "#2e7d32", "failed": "#c62828", "running": "#1565c0"}.get(record.state, "inherit")
        return format_html('<strong style="color: {}">{}</strong>', colour, record.get_state_display())

    @admin.display(description=_("answer"), ordering="response_status")
    def answered(self, record: DispatchRecord) -> str:
        return str(record.response_status or "")

    @admin.display(description=_("waited"))
    def waited(self, record: DispatchRecord) -> str:
        until = record.started_at or record.finished_at or timezone.now()
        return _duration((until - record.accepted_at).total_seconds())

    @admin.display(description=_("ran"))
    def ran(self, record: DispatchRecord) -> str:
        if record.started_at is None or record.finished_at is None:
            return ""
        return _duration((record.finished_at - record.started_at).total_seconds())

    @admin.display(description=_("sealed request"))
    def sealed_size(self, record: DispatchRecord) -> str:
        return str(_("in a file")) if record.sealed_file else filesizeformat(len(record.sealed))

    @admin.display(description=_("history"))
    def state_history(self, record: DispatchRecord) -> str:
        labels = dict(DispatchRecord.StateChoices.choices)
        rows = (
            (labels[state.value], in_local_time(at, milliseconds=True), detail) for state, at, detail in history(record)
        )
        return format_html_join("", "<div><strong>{}</strong> {} <em>{}</em></div>", rows)

    @admin.display(description=_("actions"))
    def action_history(self, record: DispatchRecord) -> str:
        rows = (
            (ACTIONS.get(each.action, each.action), in_local_time(each.at), _by(each.actor), each.detail)
            for each in record.actions.order_by("pk")
        )
        return format_html_join("", "<div><strong>{}</strong> {} {} <em>{}</em></div>", rows)


def history(record: DispatchRecord) -> list[tuple[State, datetime, str]]:
    """Returns the history of a dispatch: each state that it entered, the time, and a detail."""
    ended = list(record.ended_attempts.order_by("pk"))
    retries = list(record.actions.filter(action="retry"))
    for_good = {max((each.number for each in ended if each.ended_at <= action.at), default=0) for action in retries}
    events = [
        (
            State.QUEUED,
            record.accepted_at,
            _accepted(record),
        )
    ]
    for each in ended:
        events.append((State.RUNNING, each.started_at, _attempt(each.number, each.worker)))
        events.append((State.FAILED if each.number in for_good else State.QUEUED, each.ended_at, each.error))
    events += [(State.QUEUED, action.at, gettext("again, by {actor}").format(actor=action.actor)) for action in retries]
    if record.started_at and record.attempts not in {0, *(each.number for each in ended)}:
        events.append((State.RUNNING, record.started_at, _attempt(record.attempts, record.worker)))
    if record.finished_at:
        answered = gettext("answered {status}").format(status=record.response_status) if record.response_status else ""
        events.append((record.current_state, record.finished_at, record.error or answered))
    return sorted(events, key=lambda event: event[1])


def _attempt(number: int, worker: str) -> str:
    return gettext("attempt {number} on {worker}").format(number=number, worker=worker)


def _accepted(record: DispatchRecord) -> str:
    return gettext("on {queue}, by {reason}").format(queue=record.queue, reason=record.reason or "request")


def _by(actor: str) -> str:
    return gettext("by {actor}").format(actor=actor)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{formats.number_format(seconds, 1)} s"
