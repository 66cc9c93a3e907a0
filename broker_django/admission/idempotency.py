"""Idempotency-Key on Django requests: who needs one, and what it makes unique in the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker_core.errors import IdempotencyKeyMissingError
from broker_core.idempotency import SAFE_METHODS, fingerprint, parse_key, scope
from broker_django.annotations.view_annotations import requires_idempotency_key
from broker_django.conf import conf
from broker_django.identity.credentials import client_of
from broker_django.identity.owners import UNTOLD, is_untold

if TYPE_CHECKING:
    from django.http import HttpRequest

    from broker_core.policies import Decision
    from broker_django.models import DispatchRecord


def key_of(request: HttpRequest, view: Any, decision: Decision) -> str | None:
    """The key of a request that is about to be queued; None where it has none, or where its method is safe.

    Raises IdempotencyKeyError, and IdempotencyKeyMissingError where the queue or the view requires one.
    """
    if request.method in SAFE_METHODS:
        return None
    field = request.META.get("HTTP_IDEMPOTENCY_KEY")
    if field is not None:
        return parse_key(field)
    if _required(request, view, decision):
        raise IdempotencyKeyMissingError("send an Idempotency-Key that no other request of yours has, such as a UUID")
    return None


def _required(request: HttpRequest, view: Any, decision: Decision) -> bool:
    names = (decision.queue, decision.priority or decision.queue)
    by_queue = any(conf.queues[name].require_idempotency_key for name in names)
    return by_queue or requires_idempotency_key(view, request.method or "")


def mark(record: DispatchRecord, request: HttpRequest, body: bytes, key: str) -> None:
    """Let the dispatch be the only one for this key of its owner on its route.

    An anonymous client is known by what it sent: one that never got its first answer has no cookie of it.
    """
    client = client_of(request, everything=is_untold(record.user))
    owner = "" if record.user == UNTOLD else record.user
    record.idempotency_key = scope((record.host, record.tenant), owner, client, record.route, key)
    record.fingerprint = fingerprint(
        key,
        request.method or "",
        request.get_full_path(),
        request.content_type or "",
        request.content_params or {},
        body,
    )
