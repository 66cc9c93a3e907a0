"""The tables of routers and destinations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.dispatch import Signal
from django.utils.translation import gettext_lazy as _

from broker_core.routing import Action, StickyBy
from broker_django.models.row_checks import check_destination, check_router

if TYPE_CHECKING:
    from collections.abc import Collection

URL_LENGTH = 255


class RoutingQuerySet(models.QuerySet[Any]):
    """Sends `rows_changed` after changes that send no Django signal. Database triggers detect changes by other
    processes.
    """

    def update(self, **kwargs: Any) -> int:
        updated = super().update(**kwargs)
        rows_changed.send(self.model)
        return updated

    def bulk_create(self, *args: Any, **kwargs: Any) -> Any:
        created = super().bulk_create(*args, **kwargs)
        rows_changed.send(self.model)
        return created


class RouterQuerySet(RoutingQuerySet):
    def get_by_natural_key(self, code: str) -> Router:
        found: Router = self.get(code=code)
        return found


class DestinationQuerySet(RoutingQuerySet):
    def get_by_natural_key(self, code: str, url: str, append_params: str) -> Destination:
        """Only inactive destinations can share a natural key. Then any of them is returned."""
        same = self.filter(router__code=code, url=url, append_params=append_params).order_by("-is_active", "pk")
        found: Destination | None = same.first()
        if found is None:
            raise self.model.DoesNotExist
        return found


rows_changed = Signal()
"""Sent after this process changed routers or destinations in a way that sends no Django signal."""


class Router(models.Model):
    """Sends requests to a source elsewhere: a redirect, a proxy to another view, or a queue.

    Fields that django-route also has keep their names and meanings.
    """

    class ActionChoices(models.TextChoices):
        MOVED_PERMANENTLY = Action.MOVED_PERMANENTLY, _("301 permanent redirect")
        FOUND = Action.FOUND, _("302 temporary redirect")
        TEMPORARY_REDIRECT = Action.TEMPORARY_REDIRECT, _("307 temporary redirect, same method")
        PERMANENT_REDIRECT = Action.PERMANENT_REDIRECT, _("308 permanent redirect, same method")
        PROXY = Action.PROXY, _("proxy to the destination")
        QUEUE = Action.QUEUE, _("queue")

    class StickyChoices(models.TextChoices):
        SESSION = StickyBy.SESSION, _("session")
        USER = StickyBy.USER, _("user")
        CLIENT_ADDRESS = StickyBy.CLIENT_ADDRESS, _("client address")
        HEADER = StickyBy.HEADER, _("header field")
        COOKIE = StickyBy.COOKIE, _("cookie")
        NONE = StickyBy.NONE, _("nothing")

    code = models.SlugField(
        _("code"), max_length=255, unique=True, help_text=_("Name of the router; {router_code} in URLs and parameters.")
    )
    source = models.CharField(
        _("source"), max_length=255, help_text=_("A path, a pattern as for Django's path(), or a prefix such as /api/*")
    )
    rank = models.PositiveSmallIntegerField(
        _("rank"), default=1, validators=[MinValueValidator(1)], help_text=_("The lowest rank is tried first.")
    )
    action = models.CharField(_("action"), max_length=20, choices=ActionChoices)
    condition = models.TextField(
        _("condition"),
        default='"*"',
        blank=True,
        help_text=_('A CEL expression, such as user.is_staff. Empty or "*" always matches.'),
    )
    description = models.TextField(_("description"), blank=True, default="")
    is_active = models.BooleanField(_("active"), default=True)
    methods = models.CharField(
        _("methods"),
        max_length=255,
        blank=True,
        help_text=_("Such as GET POST. If empty: safe methods for redirects, otherwise all."),
    )
    queue = models.CharField(
        _("queue"), max_length=100, blank=True, help_text=_("Queue of the requests, unless the destination names one.")
    )
    sticky_by = models.CharField(
        _("sticky by"),
        max_length=20,
        choices=StickyChoices,
        default=StickyBy.SESSION,
        help_text=_("What identifies a visitor, who keeps the same destination."),
    )
    sticky_name = models.CharField(
        _("sticky name"),
        max_length=100,
        blank=True,
        help_text=_("Name of the header field or cookie. If no cookie is named, a signed one is set."),
    )

    objects = RouterQuerySet.as_manager()

    class Meta:
        ordering = ["source", "rank"]
        verbose_name = _("router")
        verbose_name_plural = _("routers")
        constraints = [
            models.UniqueConstraint(
                fields=["source", "rank"],
                condition=models.Q(is_active=True),
                name="router_source_rank",
                violation_error_message=_("There is already an active router with this source and rank."),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.code} | {self.source} -> {self.action}"

    def natural_key(self) -> tuple[str]:
        return (self.code,)

    def clean(self) -> None:
        check_router(self)

    def validate_constraints(self, exclude: Collection[str] | None = None) -> None:
        """Show the message at the field `rank`, because a conditional constraint belongs to no field."""
        try:
            super().validate_constraints(exclude)
        except ValidationError as error:
            raise ValidationError({"rank": error.messages}) from error


class Destination(models.Model):
    """A weighted target of a router: a path, a URL or the name of a queue, depending on the router's action."""

    router = models.ForeignKey(Router, on_delete=models.CASCADE, related_name="destinations", verbose_name=_("router"))
    weight = models.PositiveSmallIntegerField(
        _("weight"),
        default=1,
        validators=[MinValueValidator(0)],
        help_text=_("Share of the requests; 0 drains the destination."),
    )
    url = models.CharField(
        _("URL"), max_length=URL_LENGTH, help_text=_("A path, a URL or a queue, depending on the action.")
    )
    carry_params = models.BooleanField(
        _("carry parameters"), default=True, help_text=_("Keep the query string of the request.")
    )
    append_params = models.CharField(
        _("append parameters"),
        max_length=255,
        blank=True,
        help_text=_("Query string to add, such as utm_source={router_code}"),
    )
    is_active = models.BooleanField(_("active"), default=True)

    objects = DestinationQuerySet.as_manager()

    class Meta:
        verbose_name = _("destination")
        verbose_name_plural = _("destinations")
        constraints = [
            models.UniqueConstraint(
                fields=["router", "url", "append_params"],
                condition=models.Q(is_active=True),
                name="destination_router_url_params",
                violation_error_message=_("The router already has this active destination."),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.weight} - {self.url}"

    def natural_key(self) -> tuple[str, str, str]:
        return (*self.router.natural_key(), self.url, self.append_params)

    natural_key.dependencies = ["broker_django.router"]  # type: ignore[attr-defined]

    def clean(self) -> None:
        check_destination(self)


class RoutingVersion(models.Model):
    """A single row. Triggers increase its number with every change of a router or destination; see `triggers`."""

    number = models.BigIntegerField(_("number"), default=0)
    kept_by_triggers = models.BooleanField(
        _("kept by triggers"), default=False, db_default=False, help_text=_("Whether triggers increase the number.")
    )

    class Meta:
        verbose_name = _("routing version")
        verbose_name_plural = _("routing versions")

    def __str__(self) -> str:
        return str(self.number)
