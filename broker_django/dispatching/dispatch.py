"""Dispatch requests from code: `broker_django.dispatch`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.http.request import RawPostDataException, split_domain_port
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.functional import Promise

from broker_core.errors import ConfigurationError, MessageError
from broker_core.message import RequestMessage
from broker_core.policies import Decision
from broker_django.admission.acceptance import Accepted, accept
from broker_django.admission.handover import publish_when_committed
from broker_django.admission.patterns import pattern_of
from broker_django.admission.steps import NotQueueableError
from broker_django.annotations.drf import view_class
from broker_django.annotations.view_names import view_name
from broker_django.conf import conf
from broker_django.context import replay_of
from broker_django.dispatching.arrival import redirected, requires_login
from broker_django.dispatching.composing import Parts, compose
from broker_django.http import raw_body, to_message
from broker_django.identity import ownership, principals
from broker_django.identity.credentials import credential_for
from broker_django.identity.owners import owner_of
from broker_django.identity.users import user_key
from broker_django.routing.choice import is_own

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from django.urls import ResolverMatch

    from broker_core.dispatches import Dispatch


USER_COOKIE = "request_broker_user"
"""The cookie of a replay whose user was given by code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeSubmission:
    """A request that code dispatches: its own, or a client's. No client waits for it, and no view can run now instead.

    message: the request that the worker replays. The view is not asked before that.
    """

    message: RequestMessage
    route: str
    decision: Decision
    moment: datetime
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    credential: str = ""
    host: str = ""
    tenant: str = ""
    owner: str | None = None
    request: None = None
    view: None = None
    key: None = None
    status_url: str = ""
    refusal: None = None
    scope: None = None
    fingerprint: str = ""

    @property
    def body(self) -> bytes:
        return self.message.body

    @property
    def environ(self) -> Mapping[str, str]:
        return self.message.environ

    @property
    def method(self) -> str:
        return self.message.method

    @property
    def path(self) -> str:
        return self.environ.get("SCRIPT_NAME", "") + self.environ.get("PATH_INFO", "/")

    @property
    def carrier(self) -> HttpResponse:
        return HttpResponse()


def dispatch(given: HttpRequest | RequestMessage | str, *, queue: str, parts: Parts | None = None) -> Dispatch:
    """Implements `broker_django.dispatch`."""
    policy = conf.queues.get(queue)
    if policy is None:
        raise ConfigurationError(f"there is no queue {queue!r}; there are {', '.join(conf.queues)}")
    accepted = _accepted(_submission(given, queue, parts or Parts()))
    publish_when_committed(accepted.sealed, policy)
    return accepted.dispatch


def _accepted(submission: CodeSubmission) -> Accepted:
    """Raises MessageError if admission answers or refuses the request, because no client could get that response."""
    try:
        accepted = accept(submission)
    except NotQueueableError as reason:
        raise MessageError(f"the request cannot be queued: {reason}") from reason
    if not isinstance(accepted, Accepted):
        raise MessageError(f"a step of admission answers the request with {accepted.status_code}")
    return accepted


def _submitted(message: RequestMessage, match: ResolverMatch | None, queue: str) -> CodeSubmission:
    """Returns the submission of a message. Its client may be added to it."""
    now, route = timezone.now(), pattern_of(match)
    return CodeSubmission(
        message=replace(_with_user_cookie(message), route=route, accepted_at=now.timestamp()),
        route=route,
        decision=Decision(queue, reason="code"),
        moment=now,
        tenant=message.tenant,
        owner=message.view_user or message.user,
    )


def _with_user_cookie(message: RequestMessage) -> RequestMessage:
    """Returns the message with a cookie for its user, unless it contains other credentials.

    Otherwise caches that vary on Cookie would store the page of this user for all users.
    """
    if message.user is None or {"HTTP_COOKIE", "HTTP_AUTHORIZATION"} & message.environ.keys():
        return message
    value = salted_hmac("request_broker.user", message.user, algorithm="sha256").hexdigest()
    return replace(message, environ={**message.environ, "HTTP_COOKIE": f"{USER_COOKIE}={value}"})


def _submission(given: HttpRequest | RequestMessage | str, queue: str, parts: Parts) -> CodeSubmission:
    if isinstance(given, str | Promise):
        return _from_path(str(given), queue, parts)
    if parts.given:
        raise TypeError(f"{', '.join(parts.given)} can only be given with a path: a request has its own")
    request: object = getattr(given, "_request", given)  # REST framework wraps it
    return _from_request(request, queue) if isinstance(request, HttpRequest) else _from_message(request, queue)


def _from_path(path: str, queue: str, parts: Parts) -> CodeSubmission:
    message = compose(path, parts)
    host = _given_host(message)
    message, match = redirected(message)
    if match is None:
        raise MessageError(f"no view has the URL {message.environ['PATH_INFO']!r}")
    if is_own(match):
        raise MessageError("the broker's own URLs cannot be dispatched")
    if view_class(match.func) is not None:
        message = replace(message, view_user=message.user)
    _require_user(message, match)
    _require_tenant(message)
    return replace(_submitted(_for_view(message, match), match, queue), host=host)


def _from_message(message: object, queue: str) -> CodeSubmission:
    if not isinstance(message, RequestMessage):
        raise TypeError(f"a path, a request or a RequestMessage can be dispatched, not {type(message).__name__}")
    if not {"REQUEST_METHOD", "PATH_INFO"} <= message.environ.keys():
        raise MessageError("the environ of a message needs REQUEST_METHOD and PATH_INFO; or dispatch a path instead")
    host = _given_host(message)
    message, match = redirected(message)
    _require_user(message, match)
    _require_tenant(message)
    return replace(_submitted(message, match, queue), host=host)


def _given_host(message: RequestMessage) -> str:
    """Returns the host that code has given. Its users own the dispatch. Empty if no host was given."""
    return split_domain_port(message.environ.get("HTTP_HOST", ""))[0][:255]


def _from_request(request: HttpRequest, queue: str) -> CodeSubmission:
    if replay_of(request) is not None:
        raise MessageError("a replayed request would dispatch itself forever: check request.broker.replayed")
    if type(request) is HttpRequest:
        raise MessageError("a bare HttpRequest has neither environ nor body: dispatch a path instead")
    try:
        body = raw_body(request, conf.MAX_BODY_SIZE)
    except RawPostDataException as error:
        raise MessageError("the body of the request was already read") from error
    user = getattr(request, "user", None)
    message, match = to_message(request, body, user_key(user), {}), request.resolver_match
    if _is_made_by_code(request):
        message, match = redirected(message)
    message = replace(message, tenant=ownership.tenant_of(request), principal=principals.describe(request, user, None))
    submission, owner = _submitted(_for_view(message, match), match, queue), owner_of(user)
    return replace(
        submission,
        owner=owner or submission.owner,
        credential=credential_for(request, owner),
        host=ownership.host_of(request),
    )


def _for_view(message: RequestMessage, match: ResolverMatch | None) -> RequestMessage:
    """Returns the message with the name of the view that its URL resolves to."""
    return replace(message, view="" if match is None else view_name(match.func, message.method))


def _is_made_by_code(request: HttpRequest) -> bool:
    """Whether RequestFactory made it. A request that middleware has seen was sent by a client."""
    if request.resolver_match is not None or hasattr(request, "broker"):
        return False
    stream = request._stream if isinstance(request, ASGIRequest) else getattr(request, "environ", {}).get("wsgi.input")
    return type(getattr(stream, "_stream", stream)).__module__ == "django.test.client"


def _require_tenant(message: RequestMessage) -> None:
    """Raises MessageError if the project has tenants and the message has none."""
    if conf.TENANT and not message.tenant:
        raise MessageError("REQUEST_BROKER['TENANT'] is set: pass tenant=")


def _require_user(message: RequestMessage, match: ResolverMatch | None) -> None:
    """Raises MessageError if the request is anonymous and LoginRequiredMiddleware would redirect it to the login."""
    known = message.user or {"HTTP_COOKIE", "HTTP_AUTHORIZATION", "REMOTE_USER"} & message.environ.keys()
    if match is not None and not known and requires_login(match):
        raise MessageError("the view requires a user (LoginRequiredMiddleware): pass user=")
