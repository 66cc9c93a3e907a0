"""Let replays reach the views that their requests were accepted for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_core.errors import BrokerError, ViewExitedError, ViewNotReachedError
from broker_django.admission.patterns import pattern_of
from broker_django.annotations.view_names import view_name
from broker_django.conf import conf
from broker_django.context import Replay, RequestContext, by, replay_of
from broker_django.http import problem
from broker_django.identity import accepted_users, ownership
from broker_django.ledger import ledger
from broker_django.messaging.celery_app import ends_worker

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

    from broker_django.context import View


def enter(request: HttpRequest) -> HttpResponse | None:
    """Set `request.broker`. Returns a response if the request is a replay and its user may no longer act."""
    replay = replay_of(request)
    if replay is None:
        request.broker = RequestContext()  # type: ignore[attr-defined]
        return None
    if not hasattr(request, "broker"):  # a view has copied the META of the replay to another request
        request.broker = replay.context()  # type: ignore[attr-defined]
    try:
        replay.entered = True
        accepted_users.restore_user(request, replay)
        accepted_users.require_actor(replay)
        accepted_users.require_view_user(replay)
    except BrokerError as error:
        return _refused(replay, error)
    return None


def _refused(replay: Replay, error: BrokerError) -> HttpResponse:
    replay.refusal = str(error)
    return problem(error)


def reach(request: HttpRequest, view: View, replay: Replay) -> HttpResponse | None:
    """Let a replay reach its view. Returns a response if the URL resolves to another view in this process.

    Only a dead letter that an operator retries may reach another view.
    """
    name, route = view_name(view.function, request.method or ""), pattern_of(request.resolver_match)
    if not replay.is_for(name, route) and not ledger.is_revived(replay.id):
        return _refuse_other_view(replay, by(name, route))
    if conf.TENANT and ownership.tenant_of(request) != replay.tenant:
        return _refuse_other_view(replay, f"another tenant than {replay.tenant!r}")
    replay.reached = request.broker.reached = True  # type: ignore[attr-defined]
    try:
        accepted_users.restore_view_user(request, view, replay)
    except BrokerError as error:
        return _refused(replay, error)
    return None


def _refuse_other_view(replay: Replay, view: str) -> HttpResponse:
    replay.elsewhere = view
    response = problem(ViewNotReachedError(f"the URL leads to {view} here, not to {replay.wanted}"))
    response._has_been_logged = True  # type: ignore[attr-defined] # the worker logs it
    return response


def raise_if_view_exited(request: HttpRequest, error: BaseException) -> None:
    """Raises ViewExitedError if a replayed view raised SystemExit or the like, which Django does not catch."""
    replay = replay_of(request)
    if replay is None or replay.eager or isinstance(error, Exception) or ends_worker(error):
        return
    replay.exception = type(error).__name__
    raise ViewExitedError(f"the view raised {replay.exception}") from error
