"""Submissions: what the broker needs to know about a request to accept it.

Each property of a client's request is computed when it is first used, so that refusing a request costs little.
"""

from __future__ import annotations

import uuid
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from django.utils import timezone

from broker_django.admission import idempotency
from broker_django.admission.patterns import pattern_of
from broker_django.annotations.drf import view_class
from broker_django.annotations.view_names import view_name
from broker_django.conf import conf
from broker_django.http import raw_body, to_message
from broker_django.identity import credentials, drf, ownership, principals, sessions, users
from broker_django.identity.instances import evaluated
from broker_django.identity.owners import owner_of, unidentified
from broker_django.identity.users import user_key
from broker_django.ledger import tokens

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

    from broker_core.message import RequestMessage
    from broker_core.policies import Decision
    from broker_django.context import View
    from broker_django.identity.drf import Found


class Submission(Protocol):
    """A request to accept, sent by a client or made by code.

    Each property is computed once, and may raise a BrokerError.
    """

    @property
    def id(self) -> uuid.UUID:
        """The id of the future dispatch."""

    @property
    def moment(self) -> datetime:
        """The time of acceptance."""

    @property
    def decision(self) -> Decision: ...

    @property
    def request(self) -> HttpRequest | None:
        """The client's request; None if code made it."""

    @property
    def view(self) -> View | None: ...

    @property
    def key(self) -> str | None:
        """The Idempotency-Key, if its method is not safe. Raises IdempotencyKeyError if it is malformed."""

    @property
    def status_url(self) -> str:
        """The status URL; empty if code made the request. Raises NoReverseMatch."""

    @property
    def body(self) -> bytes:
        """Raises BodyTooLargeError, and RawPostDataException if it was read before."""

    @property
    def refusal(self) -> HttpResponseBase | None:
        """The response of a view that authenticates users itself, if it refuses the request."""

    @property
    def carrier(self) -> HttpResponse:
        """A response with the cookies that outer middleware sets. Saves the session."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def route(self) -> str:
        """The pattern of the URL."""

    @property
    def host(self) -> str: ...

    @property
    def tenant(self) -> str: ...

    @property
    def owner(self) -> str | None:
        """The owner's name in the ledger; None for an anonymous request."""

    @property
    def credential(self) -> str:
        """The credential that a client must show again to get the response."""

    @property
    def environ(self) -> Mapping[str, Any]:
        """The header fields as CGI variables."""

    @property
    def scope(self) -> str | None:
        """The digest that must be unique in the ledger; None without a key."""

    @property
    def fingerprint(self) -> str:
        """Digest of the request, stored for the key."""

    @property
    def message(self) -> RequestMessage:
        """The message that a worker replays."""


class ClientSubmission:
    """A request that a client has sent to a view."""

    def __init__(self, request: HttpRequest, view: View, decision: Decision) -> None:
        self.request = request
        self.view = view
        self.decision = decision
        self.id = uuid.uuid4()
        self.moment = timezone.now()
        self.method = request.method or ""
        self.path = request.path
        self.environ = request.META

    @cached_property
    def key(self) -> str | None:
        return idempotency.key_of(self.request)

    @cached_property
    def status_url(self) -> str:
        return tokens.status_url(self.request, self.id, self.moment)

    @cached_property
    def body(self) -> bytes:
        return raw_body(self.request, conf.MAX_BODY_SIZE)

    @cached_property
    def _authentication(self) -> tuple[Found | None, HttpResponseBase | None]:
        """The user that a REST framework view finds, and its response if it refuses the request."""
        if view_class(self.view.function) is None:
            return None, None
        return drf.admit(self.request, self.view.function, self.view.args, self.view.kwargs)

    @property
    def found(self) -> Found | None:
        """The user that the view itself authenticated; None if it relies on middleware."""
        return self._authentication[0]

    @property
    def refusal(self) -> HttpResponseBase | None:
        return self._authentication[1]

    @cached_property
    def _saved_session(self) -> tuple[dict[str, str], HttpResponse]:
        return sessions.save_early(self.request)

    @property
    def carrier(self) -> HttpResponse:
        return self._saved_session[1]

    @cached_property
    def user(self) -> Any:
        """The user that the middleware found."""
        return evaluated(getattr(self.request, "user", None))

    @cached_property
    def route(self) -> str:
        return pattern_of(self.request.resolver_match)

    @cached_property
    def host(self) -> str:
        return ownership.host_in(self.status_url)

    @cached_property
    def tenant(self) -> str:
        return ownership.tenant_of(self.request)

    @cached_property
    def owner(self) -> str | None:
        usual, found = owner_of(self.user), self.found
        if found is None:
            return usual
        owner = owner_of(found.user, found.auth) or usual
        if found.again or (owner is not None and owner == usual) or not credentials.shows_anything(self.request):
            return owner
        return unidentified(user_key(found.user))

    @cached_property
    def credential(self) -> str:
        return credentials.credential_for(
            self.request, self.owner or None, self.carrier.cookies, self._is_found_by_fields
        )

    def _is_found_by_fields(self) -> bool:
        """Whether the view finds this user only by the credentials that CREDENTIALS names.

        A proxy may send the same field for all users, beside the one that identifies the user. So the view
        authenticates again, first without these credentials, then with them alone, if the request has others.
        """
        request, found = self.request, self.found
        if found is None or not users.is_row(found.user):
            return False
        if not found.by_body and not credentials.shows_more_than_named(request):
            return True
        view = (self.view.function, self.view.args, self.view.kwargs)
        if user_key(drf.found(credentials.without_named(request), *view).user) == user_key(found.user):
            return False
        return user_key(drf.found(credentials.with_named_alone(request), *view).user) == user_key(found.user)

    @cached_property
    def scope(self) -> str | None:
        if self.key is None:
            return None
        site = (self.host, self.tenant)
        return idempotency.scope_of(self.request, site, self.owner or "", self.route, self.key)

    @cached_property
    def fingerprint(self) -> str:
        return idempotency.fingerprint_of(self.request, self.body, self.key) if self.key is not None else ""

    @cached_property
    def message(self) -> RequestMessage:
        found = self.found
        return to_message(
            self.request,
            self.body,
            user_key(self.user),
            self._saved_session[0],
            view_user=user_key(found.user) if found is not None else None,
            route=self.route,
            view=view_name(self.view.function, self.method),
            tenant=self.tenant,
            principal=principals.describe(self.request, self.user, found),
            accepted_at=self.moment.timestamp(),
        )
