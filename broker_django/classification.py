"""Classification of a Django request: the values that conditions read, and the decision."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.core.exceptions import DisallowedHost, SuspiciousOperation
from django.utils import timezone

from broker_core.preferences import NO_PREFERENCES, Preferences, parse_preferences
from broker_core.routing import Action
from broker_django.conf import conf
from broker_django.context import RequestContext
from broker_django.decorators import annotation_of
from broker_django.http import declared_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from django.http import HttpRequest

    from broker_core.policies import Decision


logger = logging.getLogger("broker_django.classification")

NOWHERE = RequestContext()


def preferences_of(request: HttpRequest) -> Preferences:
    prefer = request.META.get("HTTP_PREFER")
    return parse_preferences(prefer) if prefer else NO_PREFERENCES


def decide(request: HttpRequest, view: Any) -> Decision | None:
    """Which queue, and when, for this request to this view; None where the view is left alone.

    It asks the database only where a rule reads the user.
    """
    classifier = conf.classifier
    route = getattr(request, "broker", NOWHERE).route
    if route is not None and route.router.action is Action.QUEUE:
        return classifier.routed(route, preferences_of(request))
    annotation = annotation_of(view, request.method or "")
    if annotation is not None:
        return classifier.annotated(annotation, preferences_of(request))
    if not classifier.rules:
        return None
    return classifier.classify(lambda names: values(request, names), preferences_of(request))


def decision_of(request: HttpRequest, view: Any) -> Decision | None:
    """What is decided about this request to this view. It is asked once, and kept on `request.broker`."""
    context: RequestContext = request.broker  # type: ignore[attr-defined]
    if context.view is not view:
        context.decision = settled(request, conf.dispatcher.classify(request, view))
        context.view = view
    return context.decision


def may_block(request: HttpRequest, view: Any) -> bool:
    """Whether `decision_of` would look at the user, and so could ask the database."""
    return request.broker.view is not view and reads_user(request, view)  # type: ignore[attr-defined]


def settled(request: HttpRequest, decision: Decision | None) -> Decision | None:
    """What a project decided in code, completed; None, and logged, for a queue that is not configured."""
    if decision is None:
        return None
    policy = conf.queues.get(decision.priority or decision.queue)
    if policy is None or decision.queue not in conf.queues:
        logger.error("The queue %r is not configured: the view runs now", decision.queue)
        return None
    if decision.wait is not None:
        return decision
    wait = preferences_of(request).wait
    return replace(decision, wait=policy.wait if wait is None else wait, reason=decision.reason or "dispatcher")


def reads_user(request: HttpRequest, view: Any) -> bool:
    """Whether `decide` would look at the user."""
    return conf.classifier.reads_user and annotation_of(view, request.method or "") is None


def values(request: HttpRequest, names: frozenset[str]) -> dict[str, Any]:
    """The values of these names, as `broker_core.conditions` lists them."""
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = _VALUES[name](request)
        except SuspiciousOperation:
            continue  # the view meets it too, where it cares; a condition that reads it does not match
    return found


def _host(request: HttpRequest) -> str:
    try:
        return request.get_host()
    except DisallowedHost:
        return ""


def _user(attribute: str, default: object) -> Callable[[HttpRequest], Any]:
    def read(request: HttpRequest) -> Any:
        return getattr(getattr(request, "user", None), attribute, default)

    return read


def _user_id(request: HttpRequest) -> str:
    key = getattr(getattr(request, "user", None), "pk", None)
    return "" if key is None else str(key)


def _username(request: HttpRequest) -> str:
    user = getattr(request, "user", None)
    name = getattr(user, "get_username", None)  # a project's own kind of user may have none
    return str(name()) if name is not None else ""


def _groups(request: HttpRequest) -> list[str]:
    user = getattr(request, "user", None)
    groups = getattr(user, "groups", None)  # AbstractBaseUser has none
    if groups is None or not getattr(user, "is_authenticated", False):
        return []
    return list(groups.values_list("name", flat=True))


_VALUES: Mapping[str, Callable[[HttpRequest], Any]] = {
    "request.method": lambda request: request.method,
    "request.path": lambda request: request.path,
    "request.full_path": lambda request: request.get_full_path(),
    "request.query": lambda request: request.GET.dict(),
    "request.headers": lambda request: {name.lower(): value for name, value in request.headers.items()},
    "request.cookies": lambda request: dict(request.COOKIES),
    "request.content_type": lambda request: request.content_type or "",
    "request.size": declared_size,
    "request.scheme": lambda request: request.scheme,
    "request.host": _host,
    "request.remote_addr": lambda request: request.META.get("REMOTE_ADDR", ""),
    "user.id": _user_id,
    "user.username": _username,
    "user.is_authenticated": _user("is_authenticated", default=False),
    "user.is_staff": _user("is_staff", default=False),
    "user.is_superuser": _user("is_superuser", default=False),
    "user.groups": _groups,
    "now": lambda _request: timezone.now(),
}
