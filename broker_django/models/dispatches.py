"""The tables of dispatches: accepted requests, their attempts, and actions of operators."""

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

    id = models.UUIDField(_("ID"), primary_key=True, default=uuid.uuid4, editable=False)
    queue = models.CharField(_("queue"), max_length=100)
    state = models.CharField(_("state"), max_length=10, choices=StateChoices, default=StateChoices.QUEUED)
    method = models.CharField(_("method"), max_length=20)
    path = models.CharField(_("path"), max_length=PATH_LENGTH)
    route = models.CharField(_("route"), max_length=500)
    reason = models.CharField(
        _("reason"), max_length=100, blank=True, help_text=_("What decided to queue the request.")
    )
    user = models.CharField(
        _("user"), max_length=255, blank=True, help_text=_("Primary key of the user who made the request.")
    )
    credential = models.CharField(
        _("credential"),
        max_length=1000,
        blank=True,
        help_text=_("Kinds of credentials that the client sent, and a digest of their values."),
    )
    host = models.CharField(
        _("host"),
        max_length=255,
        blank=True,
        default="",
        db_default="",
        help_text=_("The host that the request was sent to."),
    )
    tenant = models.CharField(
        _("tenant"),
        max_length=255,
        blank=True,
        default="",
        db_default="",
        help_text=_("Tenant of the request, from the setting TENANT."),
    )
    trace_id = models.CharField(
        _("trace"), max_length=32, blank=True, help_text=_("Trace of the request (W3C Trace Context).")
    )
    trace_fields = models.TextField(  # noqa: DJ001 - NULL, because most have none
        _("trace fields"),
        null=True,
        editable=False,
        help_text=_("Header fields of the trace, as JSON, for each message."),
    )
    idempotency_key = models.CharField(  # noqa: DJ001 - NULL is exempt from the unique constraint
        _("idempotency key"),
        max_length=64,
        null=True,
        unique=True,
        editable=False,
        help_text=_("Digest of the key, its site, its user and its route."),
    )
    fingerprint = models.CharField(
        _("fingerprint"), max_length=64, blank=True, help_text=_("Digest of the request that the key is for.")
    )
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    attempts_before = models.PositiveIntegerField(
        _("attempts before"), default=0, help_text=_("Attempts before an operator ran it again.")
    )
    worker = models.CharField(_("worker"), max_length=255, blank=True)
    accepted_at = models.DateTimeField(_("accepted at"))
    published_at = models.DateTimeField(
        _("published at"),
        null=True,
        blank=True,
        help_text=_("When it was last published; empty while it waits to be published."),
    )
    started_at = models.DateTimeField(_("started at"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    expires_at = models.DateTimeField(
        _("expires at"), null=True, blank=True, help_text=_("When the client no longer wants the response.")
    )
    due_at = models.DateTimeField(
        _("due at"),
        null=True,
        blank=True,
        help_text=_(
            "When the reaper processes it: if queued, the time to publish it; if running, the end of the lease; "
            "if done, the time to drop the stored response."
        ),
    )
    response_status = models.PositiveSmallIntegerField(_("response status"), null=True, blank=True)
    response_type = models.CharField(_("response type"), max_length=255, blank=True)
    response_size = models.PositiveBigIntegerField(_("response size"), null=True, blank=True)
    error = models.CharField(_("error"), max_length=500, blank=True)
    kept_response = models.BinaryField(
        _("kept response"),
        null=True,
        blank=True,
        help_text=_("The sealed response, until the result store accepts it."),
    )
    sealed = models.BinaryField(_("sealed"), help_text=_("The sealed request, kept so that it can be published again."))
    sealed_with = models.CharField(
        _("sealed with"),
        max_length=20,
        blank=True,
        default="",
        db_default="",
        help_text=_("Version of the sealed request, and the id of its key."),
    )
    sealed_file = models.CharField(
        _("sealed file"),
        max_length=255,
        blank=True,
        help_text=_("Name of the file in the storage that contains a large sealed request."),
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
            ("retry_dispatchrecord", "Can run dispatches again"),
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
        """The trace id: the client's, or the dispatch's own id, which is a valid one."""
        return self.trace_id or self.pk.hex


class AttemptRecord(models.Model):
    """An attempt that ended and was followed by another. The dispatch itself describes the latest one."""

    dispatch = models.ForeignKey(
        DispatchRecord, on_delete=models.CASCADE, related_name="ended_attempts", verbose_name=_("dispatch")
    )
    number = models.PositiveIntegerField(_("number"))
    worker = models.CharField(_("worker"), max_length=255, blank=True)
    started_at = models.DateTimeField(_("started at"))
    ended_at = models.DateTimeField(_("ended at"))
    response_status = models.PositiveSmallIntegerField(_("response status"), null=True, blank=True)
    error = models.CharField(_("error"), max_length=500)

    class Meta:
        verbose_name = _("ended attempt")
        verbose_name_plural = _("ended attempts")
        constraints = [models.UniqueConstraint(fields=["dispatch", "number"], name="attempt_number")]

    def __str__(self) -> str:
        return f"{self.number}: {self.error}"


class ActionRecord(models.Model):
    """What an operator did to a dispatch."""

    dispatch = models.ForeignKey(
        DispatchRecord, on_delete=models.CASCADE, related_name="actions", verbose_name=_("dispatch")
    )
    at = models.DateTimeField(_("time"))
    action = models.CharField(_("action"), max_length=20)
    actor = models.CharField(_("actor"), max_length=255, help_text=_("A user of the admin or of the operating system."))
    detail = models.CharField(_("detail"), max_length=500, blank=True)

    class Meta:
        verbose_name = _("action")
        verbose_name_plural = _("actions")

    def __str__(self) -> str:
        return f"{self.action} by {self.actor}"
