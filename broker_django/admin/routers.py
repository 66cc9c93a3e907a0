"""Routers and their destinations in the admin, and "Try a request"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.formats import number_format
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from broker_core.routing import ALWAYS
from broker_core.routing.balancing import shares
from broker_django.identity.users import user_model
from broker_django.models import Destination, Router
from broker_django.operations.explain import explain
from broker_django.operations.forms import ImportForm, TrialForm
from broker_django.operations.pools import notify_workers
from broker_django.routing import transfer
from broker_django.routing.rows import error_of

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest

    ModelAdmin = admin.ModelAdmin[Router]
    TabularInline = admin.TabularInline[Destination, Router]
else:
    ModelAdmin, TabularInline = admin.ModelAdmin, admin.TabularInline


OF_DESTINATIONS = ("leads_to", "works")
"""Columns of the list that show destinations' URLs; `works` shows broken ones."""


class DestinationInline(TabularInline):
    model = Destination
    extra = 1
    fields = ("url", "weight", "share", "carry_params", "append_params", "is_active")
    readonly_fields = ("share",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Destination]:
        return super().get_queryset(request).prefetch_related("router__destinations")

    @admin.display(description=_("share"))
    def share(self, destination: Destination) -> str:
        found = {} if destination._state.adding else _shares(destination.router)
        return f"{number_format(found[destination.pk] * 100, 1)}%" if destination.pk in found else ""


class ActivationFilter(admin.BooleanFieldListFilter):
    """Its title is a noun, because the page says "By ..."."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = _("activation")


@admin.register(Router)
class RouterAdmin(ModelAdmin):
    """Changes take effect within a second, in every process."""

    inlines = (DestinationInline,)
    list_display = ("code", "source", "rank", "action", "leads_to", "shown_condition", "is_active", "works")
    list_editable = ("rank", "is_active")
    list_filter = (("is_active", ActivationFilter), "action", "sticky_by")
    search_fields = ("code", "source", "description")
    actions = ("activate", "deactivate", "drain", "export")
    save_on_top = True
    change_list_template = "admin/broker_django/router/change_list.html"
    fieldsets = (
        (
            None,
            {"fields": (("code", "is_active"), ("source", "rank"), ("action", "queue"), "condition")},
        ),
        (_("More"), {"fields": ("description", "methods", ("sticky_by", "sticky_name")), "classes": ("collapse",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Router]:
        return super().get_queryset(request).prefetch_related("destinations")

    def get_list_display(self, request: HttpRequest) -> Any:
        columns = super().get_list_display(request)
        return columns if _may_see_destinations(request) else [each for each in columns if each not in OF_DESTINATIONS]

    def get_search_fields(self, request: HttpRequest) -> Any:
        fields = super().get_search_fields(request)
        return [*fields, "destinations__url"] if _may_see_destinations(request) else fields

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Requires permission to view destinations, because the history names changed ones."""
        if not _may_see_destinations(request):
            raise PermissionDenied
        return super().history_view(request, object_id, extra_context)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        super().save_related(request, form, formsets, change)
        notify_workers()

    def delete_model(self, request: HttpRequest, obj: Router) -> None:
        super().delete_model(request, obj)
        notify_workers()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Router]) -> None:
        super().delete_queryset(request, queryset)
        notify_workers()

    @admin.display(description=_("destinations"))
    def leads_to(self, router: Router) -> str:
        found = _shares(router)
        rows = ((each.url, f"{found.get(each.pk, 0):.0%}") for each in router.destinations.all() if each.is_active)
        return format_html_join("", "<div>{} <strong>{}</strong></div>", rows)

    @admin.display(description=_("condition"), ordering="condition")
    def shown_condition(self, router: Router) -> str:
        text = router.condition.strip()
        return "" if text in ALWAYS else text[:80]

    @admin.display(description=_("works"))
    def works(self, router: Router) -> str:
        reason = error_of(router)
        if not reason and not any(_shares(router).values()):
            reason = gettext("drained: skipped")
        return format_html('<strong style="color: #c62828">{}</strong>', reason) if reason else "✓"

    @admin.action(description=_("Activate the selected routers"), permissions=["change"])
    def activate(self, request: HttpRequest, routers: QuerySet[Router]) -> None:
        chosen = list(routers)
        routers.update(is_active=True)
        self._log_changes(request, chosen, gettext("Activated."))

    @admin.action(description=_("Deactivate the selected routers"), permissions=["change"])
    def deactivate(self, request: HttpRequest, routers: QuerySet[Router]) -> None:
        chosen = list(routers)  # the update may change what the list's filters match
        routers.update(is_active=False)
        self._log_changes(request, chosen, gettext("Deactivated."))

    @admin.action(description=_("Drain the selected routers: weight 0"), permissions=["drain"])
    def drain(self, request: HttpRequest, routers: QuerySet[Router]) -> None:
        chosen = list(routers)
        Destination.objects.filter(router__in=chosen).update(weight=0)
        self._log_changes(request, chosen, gettext("Drained."))

    @admin.action(description=_("Export the selected routers as JSON"), permissions=["export"])
    def export(self, request: HttpRequest, routers: QuerySet[Router]) -> HttpResponse:  # noqa: ARG002 - Django's signature
        disposition = {"Content-Disposition": 'attachment; filename="routers.json"'}
        return HttpResponse(transfer.export(routers), content_type="application/json", headers=disposition)

    def _log_changes(self, request: HttpRequest, changed: list[Router], message: str) -> None:
        notify_workers()
        for router in changed:
            self.log_change(request, router, message)
        text = ngettext("%(count)d router was changed.", "%(count)d routers were changed.", len(changed))
        self.message_user(request, text % {"count": len(changed)}, messages.SUCCESS)

    def get_urls(self) -> list[Any]:
        own = [
            path(f"{name}/", self.admin_site.admin_view(view), name=f"broker_django_router_{name}")
            for name, view in (("try", self.try_view), ("import", self.import_view))
        ]
        return [*own, *super().get_urls()]

    def import_view(self, request: HttpRequest) -> HttpResponse:
        """Import routers that another site exported."""
        if not self._may_import(request):
            raise PermissionDenied
        form = ImportForm(request.POST or None, request.FILES or None)
        if form.is_valid():
            try:
                imported = transfer.import_routers(form.cleaned_data["file"])
            except ValidationError as error:
                form.add_error("file", error)
            else:
                self._log_import(request, imported)
                return HttpResponseRedirect(reverse("admin:broker_django_router_changelist"))
        return self._page(request, "import.html", _("Import routers"), form=form)

    def try_view(self, request: HttpRequest) -> HttpResponse:
        """Explain what would happen to a request."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = TrialForm(request.GET or None, may_name_users=_may_see_users(request))
        explanation = None
        if form.is_valid():
            given = form.cleaned_data
            explanation = explain(
                given["method"],
                given["path"],
                given["headers"],
                given.get("user"),
                names_destinations=_may_see_destinations(request),
            )
        return self._page(request, "try.html", _("Try a request"), form=form, explanation=explanation)

    def _may_import(self, request: HttpRequest) -> bool:
        """An import creates, changes and deletes rows."""
        permissions = [
            ("add", Router),
            ("change", Router),
            *((verb, Destination) for verb in ("add", "change", "delete")),
        ]
        return all(_may(request, verb, model) for verb, model in permissions)

    def _log_import(self, request: HttpRequest, imported: transfer.Imported) -> None:
        for router in imported.created:
            self.log_addition(request, router, gettext("Imported."))
        for router in imported.changed:
            self.log_change(request, router, gettext("Imported."))
        notify_workers()
        text = gettext("Routers created: %(created)d, changed: %(changed)d.")
        counted = {"created": len(imported.created), "changed": len(imported.changed)}
        self.message_user(request, text % counted, messages.SUCCESS)

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Requires permission to view destinations: a router imported without them would lose its destinations."""
        return self.has_view_permission(request) and _may_see_destinations(request)

    def has_drain_permission(self, request: HttpRequest) -> bool:
        return self.has_change_permission(request) and _may(request, "change", Destination)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        shown = {"has_import_permission": self._may_import(request), **(extra_context or {})}
        return super().changelist_view(request, shown)

    def _page(self, request: HttpRequest, template: str, title: Any, **context: Any) -> HttpResponse:
        shared = {**self.admin_site.each_context(request), "title": title, "opts": self.model._meta}
        return TemplateResponse(request, f"admin/broker_django/router/{template}", {**shared, **context})


def _may(request: HttpRequest, verb: str, model: Any) -> bool:
    return request.user.has_perm(f"broker_django.{verb}_{model._meta.model_name}")


def _may_see_destinations(request: HttpRequest) -> bool:
    return _may(request, "view", Destination) or _may(request, "change", Destination)


def _may_see_users(request: HttpRequest) -> bool:
    model = user_model()
    return model is not None and request.user.has_perm(f"{model._meta.app_label}.view_{model._meta.model_name}")


def _shares(router: Router) -> dict[Any, float]:
    return shares({each.pk: each.weight for each in router.destinations.all() if each.is_active})
