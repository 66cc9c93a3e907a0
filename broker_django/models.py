"""What the broker keeps in the database."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.dispatch import Signal
from django.utils.translation import gettext_lazy as _

from broker_core.dispatches import State
from broker_core.routing import Action, StickyBy
from broker_django.routers import check_destination, check_router

if TYPE_CHECKING:
    from collections.abc import Collection

PATH_LENGTH = 2_000
URL_LENGTH = 255


class DispatchRecord(models.Model):
    """One accepted request. Its primary key is the Celery task id."""

    class StateChoices(models.TextChoices):
        QUEUED = State.QUEUED, _("queued")
        RUNNING = State.RUNNING, _("running")
        SUCCEEDED = State.SUCCEEDED, _("succeeded")
        FAILED = State.FAILED, _("failed")
        CANCELLED = State.CANCELLED, _("cancelled")
        EXPIRED = State.EXPIRED, _("expired")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    queue = models.CharField(max_length=100)
    state = models.CharField(max_length=10, choices=StateChoices, default=StateChoices.QUEUED)
    method = models.CharField(max_length=20)
    path = models.CharField(max_length=PATH_LENGTH)
    route = models.CharField(max_length=500)
    reason = models.CharField(max_length=100, blank=True, help_text=_("What decided that the request is queued."))
    user = models.CharField(max_length=255, blank=True, help_text=_("Primary key of the user who made the request."))
    credential = models.CharField(
        max_length=1000,
        blank=True,
        help_text=_("What the client identified with: kinds, and a digest of their values."),
    )
    host = models.CharField(
        max_length=255, blank=True, default="", db_default="", help_text=_("The host that the request was sent to.")
    )
    tenant = models.CharField(
        max_length=255,
        blank=True,
        default="",
        db_default="",
        help_text=_("Whose request it was, by the setting TENANT."),
    )
    trace_id = models.CharField(max_length=32, blank=True, help_text=_("Trace of the request (W3C Trace Context)."))
    trace_fields = models.TextField(  # noqa: DJ001 - most have none
        null=True, editable=False, help_text=_("The header fields of the trace, as JSON: each message has them.")
    )
    idempotency_key = models.CharField(  # noqa: DJ001 - many have none, and none of these conflict
        max_length=64,
        null=True,
        unique=True,
        editable=False,
        help_text=_("Digest of the key, its site, its user and its route."),
    )
    fingerprint = models.CharField(max_length=64, blank=True, help_text=_("Digest of the request that the key is for."))
    attempts = models.PositiveIntegerField(default=0)
    attempts_before = models.PositiveIntegerField(
        default=0, help_text=_("Attempts before somebody in charge had it run again.")
    )
    worker = models.CharField(max_length=255, blank=True)
    accepted_at = models.DateTimeField()
    published_at = models.DateTimeField(
        null=True, blank=True, help_text=_("When it was last handed to the message broker; empty while it is to be.")
    )
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True, help_text=_("When nobody wants the answer any more."))
    due_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text=_(
            "When the reaper takes it up: while queued, the moment to publish it; while running, the end of the lease; "
            "when done, the moment to drop the stored response."
        ),
    )
    response_status = models.PositiveSmallIntegerField(null=True, blank=True)
    response_type = models.CharField(max_length=255, blank=True)
    response_size = models.PositiveBigIntegerField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True)
    kept_response = models.BinaryField(
        null=True, blank=True, help_text=_("The sealed response, until the result store takes it.")
    )
    sealed = models.BinaryField(help_text=_("The sealed request, kept so that it can be published again."))
    sealed_with = models.CharField(
        max_length=20,
        blank=True,
        default="",
        db_default="",
        help_text=_("Version of the sealed request, and the id of its key."),
    )
    sealed_file = models.CharField(
        max_length=255, blank=True, help_text=_("Where the sealed request is in the storage, when it is large.")
    )

    class Meta:
        verbose_name = _("dispatch")
        verbose_name_plural = _("dispatches")
        ordering = ["-accepted_at"]
        indexes = [
            models.Index(fields=["state", "queue", "accepted_at"], name="dispatch_state_queue_accepted"),
            models.Index(fields=["state", "due_at"], name="dispatch_state_due"),
            models.Index(fields=["accepted_at"], name="dispatch_accepted"),
            models.Index(
                fields=["state", "queue", "finished_at"],
                condition=models.Q(finished_at__isnull=False),
                name="dispatch_finished",
            ),
            models.Index(
                fields=["queue", "published_at"],
                condition=models.Q(due_at=None, finished_at=None),
                name="dispatch_published",
            ),
            models.Index(
                fields=["expires_at"],
                condition=models.Q(expires_at__isnull=False, finished_at=None),
                name="dispatch_expires",
            ),
            models.Index(
                fields=["queue", "due_at"],
                condition=models.Q(due_at__isnull=False, published_at=None, finished_at=None),
                name="dispatch_held",
            ),
        ]
        permissions = [
            ("retry_dispatchrecord", "Can have dispatches run again"),
            ("discard_dispatchrecord", "Can discard dead letters"),
        ]

    def __str__(self) -> str:
        return f"{self.method} {self.path} ({self.queue})"

    @property
    def current_state(self) -> State:
        return State(self.state)

    @property
    def trace(self) -> str:
        """The id of the trace: the client's, or else the dispatch's own, which is one too."""
        return self.trace_id or self.pk.hex

    def outcome(self) -> dict[str, Any] | None:
        """The `response` member of the status document."""
        if self.response_status is None:
            return None
        return {"status": self.response_status, "content_type": self.response_type, "size": self.response_size}


class AttemptRecord(models.Model):
    """An attempt that ended and was not the last. The latest is told by the dispatch itself."""

    dispatch = models.ForeignKey(DispatchRecord, on_delete=models.CASCADE, related_name="ended_attempts")
    number = models.PositiveIntegerField()
    worker = models.CharField(max_length=255, blank=True)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    response_status = models.PositiveSmallIntegerField(null=True, blank=True)
    error = models.CharField(max_length=500)

    class Meta:
        verbose_name = _("ended attempt")
        verbose_name_plural = _("ended attempts")
        constraints = [models.UniqueConstraint(fields=["dispatch", "number"], name="attempt_number")]

    def __str__(self) -> str:
        return f"{self.number}: {self.error}"


class ActionRecord(models.Model):
    """What somebody in charge did to a dispatch."""

    dispatch = models.ForeignKey(DispatchRecord, on_delete=models.CASCADE, related_name="actions")
    at = models.DateTimeField()
    action = models.CharField(max_length=20)
    actor = models.CharField(max_length=255, help_text=_("Who: a user of the admin, or of the machine."))
    detail = models.CharField(max_length=500, blank=True)

    class Meta:
        verbose_name = _("action")
        verbose_name_plural = _("actions")

    def __str__(self) -> str:
        return f"{self.action} by {self.actor}"


class RoutingQuerySet(models.QuerySet[Any]):
    """Says so when rows change without a signal. What other processes do, the database itself notes."""

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
        """Of several, which can only be inactive ones, any."""
        same = self.filter(router__code=code, url=url, append_params=append_params).order_by("-is_active", "pk")
        found: Destination | None = same.first()
        if found is None:
            raise self.model.DoesNotExist
        return found


rows_changed = Signal()
"""Routers or destinations were changed by this process, in one of the ways that send no signal of Django's own."""


class Router(models.Model):
    """Where requests to a source go: elsewhere by a redirect, to another view by a proxy, or into a queue.

    The fields that django-route has keep their names and meanings.
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
        max_length=255, unique=True, help_text=_("Names the router; it is {router_code} in urls and parameters.")
    )
    source = models.CharField(
        max_length=255, help_text=_("A path, a pattern as for Django's path(), or a prefix such as /api/*")
    )
    rank = models.PositiveSmallIntegerField(
        default=1, validators=[MinValueValidator(1)], help_text=_("The lowest is asked first.")
    )
    action = models.CharField(max_length=20, choices=ActionChoices)
    condition = models.TextField(
        default='"*"', blank=True, help_text=_('In CEL, such as user.is_staff. "*" or nothing: always.')
    )
    description = models.TextField(blank=True, default="")
    is_active = models.BooleanField(_("active"), default=True)
    methods = models.CharField(
        max_length=255, blank=True, help_text=_("Such as GET POST. Nothing: the safe ones for redirects, else all.")
    )
    queue = models.CharField(
        max_length=100, blank=True, help_text=_("The priority class of queued requests, if not the destination's own.")
    )
    sticky_by = models.CharField(
        max_length=20,
        choices=StickyChoices,
        default=StickyBy.SESSION,
        help_text=_("What keeps a visitor at one destination."),
    )
    sticky_name = models.CharField(
        max_length=100, blank=True, help_text=_("Of the header field or cookie. No cookie named: one is set, signed.")
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
                violation_error_message=_("There is an active router of this source and rank already."),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.code} | {self.source} -> {self.action}"

    def natural_key(self) -> tuple[str]:
        return (self.code,)

    def clean(self) -> None:
        check_router(self)

    def validate_constraints(self, exclude: Collection[str] | None = None) -> None:
        """With the message at a field: that of a constraint on active rows would be at none."""
        try:
            super().validate_constraints(exclude)
        except ValidationError as error:
            raise ValidationError({"rank": error.messages}) from error


class Destination(models.Model):
    """A weighted target of a router: a path, a URL or the name of a queue, as the router's action needs."""

    router = models.ForeignKey(Router, on_delete=models.CASCADE, related_name="destinations")
    weight = models.PositiveSmallIntegerField(
        default=1, validators=[MinValueValidator(0)], help_text=_("Share of the requests; 0 drains the destination.")
    )
    url = models.CharField(max_length=URL_LENGTH, help_text=_("A path, a url or a queue, as the action needs."))
    carry_params = models.BooleanField(default=True, help_text=_("Keep the query of the request."))
    append_params = models.CharField(
        max_length=255, blank=True, help_text=_("A query that is added, such as utm_source={router_code}")
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
                violation_error_message=_("The router has this active destination already."),
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
    """One row, whose number triggers raise at every change of a router or destination; see `triggers`."""

    number = models.BigIntegerField(default=0)
    kept_by_triggers = models.BooleanField(
        default=False, db_default=False, help_text=_("Whether there are triggers that raise the number.")
    )

    class Meta:
        verbose_name = _("routing version")
        verbose_name_plural = _("routing versions")

    def __str__(self) -> str:
        return str(self.number)
