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
    """Have a request run later, on this queue, as its user. Returns the dispatch, with its id.

        dispatch("/reports/", method="POST", json={"month": "2026-10"}, user=user, queue="bulk")

    A path may have a query, and may be a URL of this site. With it go `method` (GET, or POST if there is a body); one
    of `json`, `data` (a form, as a mapping or pairs) with or without `files`, and `body` with `content_type`; `query`;
    `headers`; `host`, if it is not the usual one of ALLOWED_HOSTS; `user`, as an object or by primary key; and
    `tenant`, as the function of the setting TENANT says it. No CSRF token is asked for.

    Instead of a path it takes a request, as it is now, with its user and session, whose body must not have been
    streamed away; or a RequestMessage. Within a transaction the dispatch is published when that is committed; if it is
    rolled back, it has never been.

    Raises ConfigurationError for a queue that is not configured, TypeError for arguments that contradict each other,
    MessageError for what is no request, or has no view, an inactive user, or a body that is gone; BodyTooLargeError,
    ReducedCapacityError if the queue is full, and UnavailableError if it cannot be recorded.
    """
    from broker_django.dispatching.composing import Parts  # noqa: PLC0415 - which needs the apps to be loaded
    from broker_django.dispatching.dispatch import dispatch as made  # noqa: PLC0415 - needs the apps to be loaded

    parts = Parts(method, json, data, files, body, content_type, query, headers, host, user, tenant)
    return made(request, queue=queue, parts=parts)


def is_replay(request: HttpRequest) -> bool:
    """Whether a worker runs this request, which was accepted before: known before any middleware is asked.

    Middleware that is to act once for a request, such as a rate limit or an audit log, steps aside in a replay, or acts
    only then.
    """
    from broker_django.context import replay_of  # noqa: PLC0415 - which needs Django

    return replay_of(request) is not None


def __getattr__(name: str) -> Any:
    if name == "BrokerRequest":  # which needs Django, and is for annotations
        from broker_django.context import BrokerRequest  # noqa: PLC0415 - needs the settings

        return BrokerRequest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def status_url(request: HttpRequest, dispatch: Dispatch) -> str:
    """Returns the absolute status URL, for the owner. Raises NoReverseMatch if the broker's URLs are not included."""
    from broker_django.ledger import tokens  # noqa: PLC0415 - which needs the settings

    return tokens.status_url(request, dispatch.id, dispatch.accepted_at)
