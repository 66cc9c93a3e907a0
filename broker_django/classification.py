"""Classification of a Django request: whether its view runs now or later, and on which queue."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from broker_core.http.preferences import NO_PREFERENCES, Preferences, parse_preferences
from broker_core.routing import Action
from broker_django.annotations.view_annotations import annotation_of
from broker_django.conf import conf
from broker_django.context import RequestContext
from broker_django.request_values import values

if TYPE_CHECKING:
    from django.http import HttpRequest

    from broker_core.policies import Decision


logger = logging.getLogger("broker_django.classification")

NOWHERE = RequestContext()


def preferences_of(request: HttpRequest) -> Preferences:
    prefer = request.META.get("HTTP_PREFER")
    return parse_preferences(prefer) if prefer else NO_PREFERENCES


def classify(request: HttpRequest, view: Any) -> Decision | None:
    """Returns which queue a request to this view belongs to, and when it runs; None if the broker leaves it alone.

    Costs no query unless a rule reads the user.
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


def may_block(request: HttpRequest, view: Any) -> bool:
    """Whether a decision reads the user, and so may query the database."""
    return request.broker.view is not view and reads_user(request, view)  # type: ignore[attr-defined]


def completed(request: HttpRequest, decision: Decision | None) -> Decision | None:
    """Returns the decision with its wait and its reason. Returns None, and logs an error, if its queue is unknown."""
    if decision is None:
        return None
    policy = conf.queues.get(decision.priority or decision.queue)
    if policy is None or decision.queue not in conf.queues:
        logger.error("The queue %r is not configured: the view runs now", decision.queue)
        request.broker.unknown_queue = decision.queue  # type: ignore[attr-defined]
        return None
    if decision.wait is not None and decision.reason:
        return decision
    waits = (decision.wait, preferences_of(request).wait, policy.wait)
    wait = next((each for each in waits if each is not None), None)
    return replace(decision, wait=wait, reason=decision.reason or "dispatcher")


def reads_user(request: HttpRequest, view: Any) -> bool:
    """Whether `classify` reads the user."""
    return conf.classifier.reads_user and annotation_of(view, request.method or "") is None
