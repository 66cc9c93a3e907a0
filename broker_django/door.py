"""The door: what happens to a request, or to a replay, before its view is resolved."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.http.request import RawPostDataException
from django.urls import Resolver404, resolve
from django.utils.functional import SimpleLazyObject

from broker_core.errors import BrokerError, UserInactiveError, ViewExitedError, ViewNotReachedError
from broker_django import rest
from broker_django.celery_app import ends_worker
from broker_django.conf import conf
from broker_django.context import Replay, RequestContext, replay_of, user_key
from broker_django.http import problem, raw_body
from broker_django.routing import route

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser
    from django.http import HttpRequest, HttpResponse

    from broker_django.acceptance import View

MULTIPART = "multipart/form-data"


def enter(request: HttpRequest) -> HttpResponse | None:
    """Let a request in, with `request.broker` set; a response where it is refused."""
    replay = replay_of(request)
    try:
        if replay is not None:
            replay.entered = True
            pin(request, replay)
            if replay.view_user is not None and replay.view_user != replay.user:
                active_user(replay.view_user)
        else:
            request.broker = RequestContext()  # type: ignore[attr-defined]
            if request.content_type == MULTIPART:
                keep_body(request)
    except BrokerError as error:
        if replay is not None:
            replay.refusal = str(error)
        return problem(error)
    return None


def may_block(request: HttpRequest) -> bool:
    """Whether `enter` could ask the database, or read a stream."""
    return request.content_type == MULTIPART or replay_of(request) is not None


def keep_body(request: HttpRequest) -> None:
    """Take the raw body of a form before CsrfViewMiddleware parses it, but only where the request will be queued.

    Any other upload keeps streaming. Raises BodyTooLargeError.
    """
    try:
        match = resolve(request.path_info, getattr(request, "urlconf", None))
    except Resolver404:
        return
    route(request)
    decision = conf.dispatcher.classify(request, match.func)
    if decision is not None and decision.queued:
        with contextlib.suppress(RawPostDataException):
            raw_body(request, conf.MAX_BODY_SIZE)


def pin(request: HttpRequest, replay: Replay) -> None:
    """Make the replay act as the user who was accepted, where the middleware found another by now.

    Raises UserInactiveError where that user is gone or may no longer log in.
    """
    found = _user_without_trace(request)
    if found is None or user_key(found) == replay.user:
        return
    user = AnonymousUser() if replay.user is None else active_user(replay.user)
    request.user = user  # type: ignore[assignment]
    request._cached_user = request._acached_user = user  # type: ignore[attr-defined]


def _user_without_trace(request: HttpRequest) -> Any:
    """The user, as if nobody had asked: only a view that asks makes its response vary on the session cookie."""
    user, session = getattr(request, "user", None), getattr(request, "session", None)
    if user is None or session is None or session.accessed:
        return user

    user_key(user)
    session.accessed = False
    if isinstance(user, SimpleLazyObject):
        find = user._setupfunc  # a view may empty the lazy user, to have it found anew

        def ask() -> Any:
            request.session.accessed = True
            return find()

        request.user = SimpleLazyObject(ask)  # type: ignore[assignment]
    return user


def active_user(key: str) -> AbstractBaseUser:
    """Raises UserInactiveError."""
    try:
        user = get_user_model()._default_manager.filter(pk=key).first()
    except (ValueError, ValidationError):
        user = None
    if user is None or not user.is_active:
        raise UserInactiveError("the user who made this request is gone or no longer active")
    return user


def reach(request: HttpRequest, view: View, replay: Replay) -> HttpResponse | None:
    """Let a replay come to its view; a response if the URL leads to another view in this process."""
    if replay.view and view.name != replay.view:
        replay.elsewhere = view.name
        return problem(ViewNotReachedError(f"the URL leads to {view.name} here, not to {replay.view}"))
    replay.reached = request.broker.reached = True  # type: ignore[attr-defined]
    pin_view(request, view, replay)
    return None


def note_exit(request: HttpRequest, error: BaseException) -> None:
    """Raise ViewExitedError if a replayed view raised what would end its process: to Django that is no exception."""
    replay = replay_of(request)
    if replay is None or isinstance(error, Exception) or ends_worker(error):
        return
    replay.exception = type(error).__name__
    raise ViewExitedError(f"the view raised {replay.exception}") from error


def pin_view(request: HttpRequest, view: View, replay: Replay) -> None:
    """The same for views that authenticate on their own."""
    if rest.view_class(view.function) is None:
        return
    replay.admitted = rest.speaks_first(view.function)
    if replay.admitted:
        request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined] # as its authenticators did at the door
    found = rest.found_user(request, view.function, view.args, view.kwargs)
    if replay.view_user is not None and found != replay.view_user:
        rest.pin(request, active_user(replay.view_user))
