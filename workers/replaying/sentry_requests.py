"""Add the request of a dispatch to Sentry's events, as for a request that is answered directly."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest

from broker_core.message import RequestMessage
from broker_django.context import Replay
from broker_django.dispatching.arrival import usual_host
from broker_django.http import to_request
from broker_django.ledger import bodies
from broker_django.messaging.sealing import open_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest

    from broker_core.dispatches import SealedRequest

    Processor = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


def processor(sdk: Any, request: HttpRequest) -> Processor:
    """Returns a function that adds the request to an event, as Sentry's Django integration would."""
    steps: list[Processor] = []
    with contextlib.suppress(Exception):  # private functions of the SDK, which may change
        steps = _of_integration(sdk, request)

    def add(event: dict[str, Any], hint: dict[str, Any]) -> dict[str, Any]:
        for step in steps:
            with contextlib.suppress(Exception):
                event = step(event, hint) or event
        return _with_url(event, request)

    return add


def _of_integration(sdk: Any, request: HttpRequest) -> list[Processor]:
    """It respects `send_default_pii`, and leaves out secrets."""
    integration = sdk.get_client().get_integration("django")
    if integration is None:
        return []
    of_django = importlib.import_module("sentry_sdk.integrations.django")
    if not isinstance(request, ASGIRequest):
        of_wsgi = importlib.import_module("sentry_sdk.integrations.wsgi")
        return [
            of_wsgi._make_wsgi_event_processor(request.META, settings.USE_X_FORWARDED_HOST),
            of_django._make_wsgi_request_event_processor(lambda: request, integration),
        ]
    of_asgi = importlib.import_module("sentry_sdk.integrations.asgi")
    served = of_asgi.SentryAsgiMiddleware(_nothing, unsafe_context_data=True)
    return [
        lambda event, hint: served.event_processor(event, hint, request.scope),
        importlib.import_module("sentry_sdk.integrations.django.asgi")._make_asgi_request_event_processor(request),
    ]


async def _nothing(_scope: Any, _receive: Any, _send: Any) -> None:
    """An ASGI application, which Sentry's middleware requires."""


def _with_url(event: dict[str, Any], request: HttpRequest) -> dict[str, Any]:
    with contextlib.suppress(Exception):  # DisallowedHost: then the view was not reached, either
        fields = event.setdefault("request", {})
        fields.setdefault("url", request.build_absolute_uri(request.path))
        fields.setdefault("method", request.method)
    return event


def processor_for(sdk: Any, sealed: SealedRequest) -> Processor:
    """The same for a dispatch in the ledger. If its request cannot be opened here, the ledger has its method and URL,
    and the settings of the project say whether it has TLS.
    """
    request, dispatch = _request_of(sealed), sealed.dispatch
    if request is not None:
        return processor(sdk, request)
    url = f"{_usual_scheme()}://{dispatch.host or usual_host()}{dispatch.path}"
    fields = {"method": dispatch.method, "url": url}
    return lambda event, _hint: {**event, "request": fields}


def _usual_scheme() -> str:
    return "https" if settings.SECURE_SSL_REDIRECT or settings.SECURE_PROXY_SSL_HEADER else "http"


def _request_of(sealed: SealedRequest) -> HttpRequest | None:
    """None if it cannot be opened here."""
    dispatch = sealed.dispatch
    with contextlib.suppress(Exception):
        content = bodies.read(sealed.file) if sealed.file else sealed.content
        opened = open_request(content, str(dispatch.id), dispatch.queue)
        return to_request(RequestMessage.decode(opened), Replay(dispatch.id, dispatch.queue, dispatch.attempts, None))
    return None
