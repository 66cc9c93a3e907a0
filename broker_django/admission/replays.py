"""What the middleware does with a request or a replay before its view runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.utils.functional import SimpleLazyObject

from broker_core.errors import BrokerError, ViewExitedError, ViewNotReachedError
from broker_django.admission.patterns import pattern_of
from broker_django.annotations.drf import speaks_first, view_class
from broker_django.annotations.view_names import view_name
from broker_django.conf import conf
from broker_django.context import Replay, RequestContext, by, replay_of
from broker_django.http import problem
from broker_django.identity import drf, ownership, principals, users
from broker_django.identity.accepted_users import accepted, had_a_user, require_actor
from broker_django.identity.logged_in import LOGGED_IN, session_of
from broker_django.identity.users import user_key
from broker_django.ledger import ledger
from broker_django.messaging.celery_app import ends_worker

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

    from broker_django.admission.submission import View


def enter(request: HttpRequest) -> HttpResponse | None:
    """Set `request.broker`. Returns a response if a replay is refused."""
    replay = replay_of(request)
    if replay is None:
        request.broker = RequestContext()  # type: ignore[attr-defined]
        return None
    if not hasattr(request, "broker"):  # a view has copied the META of the replay to another request
        request.broker = replay.context()  # type: ignore[attr-defined]
    try:
        replay.entered = True
        pin(request, replay)
        require_actor(replay)
        if replay.view_user not in (None, replay.user) and not replay.known(principals.AGAIN):
            principals.accepted(replay.view_user, replay.known(principals.VIEW_USER))
    except BrokerError as error:
        return _refused(replay, error)
    return None


def _refused(replay: Replay, error: BrokerError) -> HttpResponse:
    replay.refusal = str(error)
    return problem(error)


def pin(request: HttpRequest, replay: Replay) -> None:
    """Make the replay act as the user who was accepted, if the middleware finds another one now.

    Raises UserInactiveError if that user is deleted or may no longer log in.
    """
    found, named = _user_without_trace(request), had_a_user(replay)
    if found is None:
        return
    frozen = replay.known(principals.USER)
    if principals.is_same(found, replay.user, frozen) if named else user_key(found) is None:
        return
    request.user = user = accepted(replay) if named else users.anonymous()
    request._cached_user = request._acached_user = user  # type: ignore[attr-defined]


def _user_without_trace(request: HttpRequest) -> Any:
    """Returns the user without marking the session as accessed, which would make the response vary on its cookie."""
    user, session = getattr(request, "user", None), session_of(request)
    if user is None or session is None or session.accessed:
        return user

    user_key(user)
    logged_in = session.get(LOGGED_IN)
    session.accessed = False
    if isinstance(user, SimpleLazyObject):
        find = user._setupfunc  # a view may reset the lazy user, so that it is found again

        def load() -> Any:
            request.session.accessed = True
            if request.session.get(LOGGED_IN) != logged_in:  # the view has flushed the session
                request.__dict__.pop("_cached_user", None)
            return find()

        request.user = SimpleLazyObject(load)  # type: ignore[assignment]
    return user


def reach(request: HttpRequest, view: View, replay: Replay) -> HttpResponse | None:
    """Let a replay reach its view. Returns a response if the URL resolves to another view in this process.

    A dead letter that an operator retries may reach another view.
    """
    name, route = view_name(view.function, request.method or ""), pattern_of(request.resolver_match)
    if not replay.is_for(name, route) and not ledger.is_revived(replay.id):
        return _not_reached(replay, by(name, route))
    if conf.TENANT and ownership.tenant_of(request) != replay.tenant:
        return _not_reached(replay, f"another tenant than {replay.tenant!r}")
    replay.reached = request.broker.reached = True  # type: ignore[attr-defined]
    try:
        pin_view(request, view, replay)
    except BrokerError as error:
        return _refused(replay, error)
    return None


def _not_reached(replay: Replay, view: str) -> HttpResponse:
    replay.elsewhere = view
    response = problem(ViewNotReachedError(f"the URL leads to {view} here, not to {replay.wanted}"))
    response._has_been_logged = True  # type: ignore[attr-defined] # the worker logs it
    return response


def convert_exit(request: HttpRequest, error: BaseException) -> None:
    """Raise ViewExitedError if a replayed view raised an error that Django does not handle, such as SystemExit."""
    replay = replay_of(request)
    if replay is None or replay.eager or isinstance(error, Exception) or ends_worker(error):
        return
    replay.exception = type(error).__name__
    raise ViewExitedError(f"the view raised {replay.exception}") from error


def pin_view(request: HttpRequest, view: View, replay: Replay) -> None:
    """The same for views that authenticate users themselves. Raises UserInactiveError."""
    if view_class(view.function) is None:
        return
    known = replay.known(principals.ADMITTED) is not None  # not in messages from code or older releases
    replay.admitted = bool(replay.known(principals.ADMITTED)) if known else speaks_first(view.function)
    if replay.admitted:
        request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined] # as its authenticators did when it was accepted
    if replay.view_user is None and all(replay.known(who) is None for who in (principals.VIEW_USER, principals.GUEST)):
        return
    found = drf.found(request, view.function, view.args, view.kwargs)
    instead = principals.found_as_accepted(found, replay.view_user, replay.principal or {})
    if instead is not None:
        drf.pin(request, instead.user, instead.auth)
