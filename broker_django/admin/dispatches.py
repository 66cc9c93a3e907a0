"""Dispatches in the admin: to look at, not to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext_lazy as _

from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest

    ModelAdmin = admin.ModelAdmin[DispatchRecord]
else:
    ModelAdmin = admin.ModelAdmin


@admin.register(DispatchRecord)
class DispatchAdmin(ModelAdmin):
    """Read-only. The request's headers and body stay sealed."""

    list_display = ("summary", "queue", "coloured_state", "attempts", "answered", "waited", "ran", "accepted_at")
    list_filter = ("queue", "state", "method", "accepted_at")
    search_fields = ("=id", "path", "route", "=user", "error")
    search_help_text = _("Id, path, route, user or error")
    show_full_result_count = False
    list_per_page = 50
    fieldsets = (
        (None, {"fields": ("summary", "state", "state_history")}),
        (_("Request"), {"fields": ("id", "method", "path", "route", "user", "sealed_size")}),
        (_("Queue"), {"fields": ("queue", "reason", "attempts", "worker", "expires_at", "due_at")}),
        (_("Response"), {"fields": ("answered", "response_type", "response_size", "error")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[DispatchRecord]:
        return super().get_queryset(request).defer("sealed")

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False

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
        return filesizeformat(len(record.sealed))

    @admin.display(description=_("history"))
    def state_history(self, record: DispatchRecord) -> str:
        rows = (
            (state.value, timezone.localtime(at).isoformat(" ", "milliseconds"), detail)
            for state, at, detail in record.history()
        )
        return format_html_join("", "<div><strong>{}</strong> {} <em>{}</em></div>", rows)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
