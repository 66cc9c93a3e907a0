"""The Idempotency-Key of Django requests: which need one, and what is unique for it in the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker_core.idempotency import SAFE_METHODS, fingerprint, parse_key, scope
from broker_django.annotations.view_annotations import requires_idempotency_key
from broker_django.conf import conf
from broker_django.identity.credentials import client_of
from broker_django.identity.owners import UNIDENTIFIED, is_unidentified

if TYPE_CHECKING:
    from django.http import HttpRequest

    from broker_core.policies import Decision


def key_of(request: HttpRequest) -> str | None:
    """Returns the key of a request; None without a key or for safe methods. Raises IdempotencyKeyError."""
    field = None if request.method in SAFE_METHODS else request.META.get("HTTP_IDEMPOTENCY_KEY")
    return None if field is None else parse_key(field)


def is_required(view: Any, method: str, decision: Decision) -> bool:
    """Whether the queue, its class or the view requires a key."""
    if method in SAFE_METHODS:
        return False
    names = (decision.queue, decision.priority or decision.queue)
    by_queue = any(conf.queues[name].require_idempotency_key for name in names)
    return by_queue or requires_idempotency_key(view, method)


def scope_of(request: HttpRequest, site: tuple[str, str], owner: str, route: str, key: str) -> str:
    """Returns the value that is unique for this key of this owner on this route.

    Anonymous clients are identified by what they sent: without the first response they have no cookie from it.
    """
    client = client_of(request, everything=is_unidentified(owner))
    return scope(site, "" if owner == UNIDENTIFIED else owner, client, route, key)


def fingerprint_of(request: HttpRequest, body: bytes, key: str) -> str:
    return fingerprint(
        key,
        request.method or "",
        request.get_full_path(),
        request.content_type or "",
        request.content_params or {},
        body,
    )
