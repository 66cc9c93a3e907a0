"""Checks of the middleware, the status URLs and the decorators of views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.checks import Warning as CheckWarning
from django.urls import (
    NoReverseMatch,
    Resolver404,
    URLPattern,
    URLResolver,
    get_resolver,
    get_script_prefix,
    resolve,
    reverse,
)

from broker_django.annotations.view_annotations import annotation_of
from broker_django.conf import conf
from broker_django.routing.choice import OWN_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

MIDDLEWARE = "broker_django.middleware.RequestBrokerMiddleware"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@register("request_broker")
def check_middleware(**_: Any) -> list[CheckMessage]:
    if MIDDLEWARE not in settings.MIDDLEWARE:
        return [
            Error(
                "The request broker's middleware is not installed, so no request is ever queued.",
                hint=f"Add {MIDDLEWARE!r} as the last entry of MIDDLEWARE.",
                id="request_broker.E005",
            )
        ]
    if settings.MIDDLEWARE[-1] != MIDDLEWARE:
        return [
            CheckWarning(
                "The request broker's middleware is not the last in MIDDLEWARE.",
                hint="Move it to the end. Middleware after it does not run before a request is accepted.",
                id="request_broker.W002",
            )
        ]
    return []


@register(Tags.urls)
def check_urls(**_: Any) -> list[CheckMessage]:
    try:
        path = reverse(f"{OWN_NAMESPACE}:task", args=["token"])
    except NoReverseMatch:
        return [
            Error(
                "The status URLs are not included, so clients cannot get the response of a queued request.",
                hint='Add path("broker/", include("broker_django.urls")) to the root URLconf, with a prefix that '
                "captures nothing.",
                id="request_broker.E006",
            )
        ]
    if _is_status_url(unquote(path)):
        return []
    return [
        Error(
            f"The status URLs, such as {path}, lead elsewhere, so clients cannot get the response of a queued request.",
            hint='Move include("broker_django.urls") before the pattern that matches them.',
            id="request_broker.E006",
        )
    ]


def _is_status_url(path: str) -> bool:
    try:
        match = resolve("/" + path.removeprefix(get_script_prefix()))
    except Resolver404:
        return False
    return OWN_NAMESPACE in match.app_names and match.url_name == "task"


@register(Tags.urls)
def check_decorators(**_: Any) -> list[CheckMessage]:
    unknown: dict[str, str] = {}
    for route, view in _views(get_resolver().url_patterns):
        for method in METHODS:
            annotation = annotation_of(view, method)
            if annotation and annotation.queue is not None and annotation.queue not in conf.queues:
                unknown.setdefault(annotation.queue, route)
    return [
        Error(
            f"A decorator of the view at {route!r} names the queue {name!r}, which is not configured.",
            hint=f"The queues are {', '.join(conf.queues)}. Add it to REQUEST_BROKER['QUEUES'], or correct the name.",
            id="request_broker.E007",
        )
        for name, route in unknown.items()
    ]


def _views(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _views(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern):
            yield route, pattern.callback
