"""Any Django view, answered now or later, by rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from django.http import HttpRequest

    from broker_core.dispatches import Dispatch
    from broker_core.message import RequestMessage
    from broker_django.context import BrokerRequest
    from broker_django.http.bodies import Pairs

__all__ = ["BrokerRequest", "__version__", "dispatch", "is_replay", "status_url"]
__version__ = "0.1.0"


def dispatch(
    request: HttpRequest | RequestMessage | str,
    *,
    queue: str,
    method: str | None = None,
    json: Any = None,
    data: Pairs | None = None,
    files: Pairs | None = None,
    body: bytes | str | None = None,
    content_type: str | None = None,
    query: Pairs | str | None = None,
    headers: Mapping[str, Any] | None = None,
    host: str | None = None,
    user: Any = None,
    tenant: str | None = None,
) -> Dispatch:
    """Dispatch a request: a worker runs it later, from this queue, as its user. Returns the dispatch.

        dispatch("/reports/", method="POST", json={"month": "2026-10"}, user=user, queue="bulk")

    The path may contain a query, and may be a URL of this site. Other arguments of a path:

    method: GET by default, or POST if there is a body.
    json, data, files, body: one of them, or `data` and `files`. `data` is a form, as a mapping or pairs.
    content_type: of `json` or `body`. query, headers: added to the request.
    host: by default the first name in ALLOWED_HOSTS that is not a local one.
    user: an object or a primary key. No CSRF token is needed.
    tenant: as the function of the setting TENANT returns it.

    Instead of a path, pass a request that the site received, with its user and session, unless its body was streamed;
    or a RequestMessage. Within a transaction the dispatch is published after the commit; a rollback removes it.

    Raises ConfigurationError if the queue is not configured; TypeError for arguments that contradict each other;
    MessageError for an invalid request, a URL without a view, an inactive user, or a body that was already read;
    BodyTooLargeError; ReducedCapacityError if the queue is full; UnavailableError if the dispatch cannot be recorded.
    """
    from broker_django.dispatching.composing import Parts  # noqa: PLC0415 - needs the apps to be loaded
    from broker_django.dispatching.dispatch import dispatch as made  # noqa: PLC0415 - needs the apps to be loaded

    parts = Parts(method, json, data, files, body, content_type, query, headers, host, user, tenant)
    return made(request, queue=queue, parts=parts)


def is_replay(request: HttpRequest) -> bool:
    """Whether this request is a replay. Works in any middleware.

    Middleware that must act once per request, such as a rate limit or an audit log, does nothing for a replay, or acts
    only then.
    """
    from broker_django.context import replay_of  # noqa: PLC0415 - needs the settings

    return replay_of(request) is not None


def __getattr__(name: str) -> Any:
    if name == "BrokerRequest":  # for annotations only
        from broker_django.context import BrokerRequest  # noqa: PLC0415 - needs the settings

        return BrokerRequest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def status_url(request: HttpRequest, dispatch: Dispatch) -> str:
    """Returns the absolute status URL for the owner. Raises NoReverseMatch if the broker's URLs are not included."""
    from broker_django.ledger import tokens  # noqa: PLC0415 - needs the settings

    return tokens.status_url(request, dispatch.id, dispatch.accepted_at)
