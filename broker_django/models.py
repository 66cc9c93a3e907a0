"""What the broker keeps in the database."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from broker_core.dispatches import State

if TYPE_CHECKING:
    from datetime import datetime

PATH_LENGTH = 2_000


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
    credential = models.CharField(max_length=64, blank=True, help_text=_("Digest of what the client identified with."))
    attempts = models.PositiveIntegerField(default=0)
    worker = models.CharField(max_length=255, blank=True)
    accepted_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True, help_text=_("When nobody wants the answer any more."))
    lease_until = models.DateTimeField(null=True, blank=True)
    response_status = models.PositiveSmallIntegerField(null=True, blank=True)
    response_type = models.CharField(max_length=255, blank=True)
    response_size = models.PositiveBigIntegerField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True)
    sealed = models.BinaryField(help_text=_("The sealed request, kept so that it can be published again."))

    class Meta:
        verbose_name = _("dispatch")
        verbose_name_plural = _("dispatches")
        ordering = ["-accepted_at"]
        indexes = [
            models.Index(fields=["state", "accepted_at"], name="dispatch_state_accepted"),
            models.Index(fields=["accepted_at"], name="dispatch_accepted"),
        ]

    def __str__(self) -> str:
        return f"{self.method} {self.path} ({self.queue})"

    @property
    def current_state(self) -> State:
        return State(self.state)

    def history(self) -> list[tuple[State, datetime, str]]:
        """What happened when: the state entered, the moment, and a detail."""
        events = [(State.QUEUED, self.accepted_at, f"on {self.queue}, by {self.reason or 'request'}")]
        if self.started_at:
            events.append((State.RUNNING, self.started_at, f"attempt {self.attempts} on {self.worker}"))
        if self.finished_at:
            answered = f"answered {self.response_status}" if self.response_status else ""
            events.append((self.current_state, self.finished_at, self.error or answered))
        return events

    def outcome(self) -> dict[str, Any] | None:
        """The `response` member of the status document."""
        if self.response_status is None:
            return None
        return {"status": self.response_status, "content_type": self.response_type, "size": self.response_size}
