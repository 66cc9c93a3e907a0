"""The tables of dispatches: each accepted request, its attempts, and what operators did."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _

from broker_core.dispatches import PATH_LENGTH, Moments, State


class DispatchRecord(Moments, models.Model):
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
    def keeps_response(self) -> bool:
        return bool(self.kept_response)

    @property
    def trace(self) -> str:
        """The id of the trace: the client's, or else the dispatch's own, which is one too."""
        return self.trace_id or self.pk.hex


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
