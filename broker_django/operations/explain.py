"""Explain what happens to a request and why, for the admin's "Try a request" and `broker_explain`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from django.apps import apps
from django.conf import settings
from django.core.exceptions import DisallowedHost, MiddlewareNotUsed
from django.middleware.common import CommonMiddleware
from django.test import RequestFactory  # makes the request to explain
from django.urls import Resolver404, resolve
from django.utils import translation
from django.utils.module_loading import import_string
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from broker_core.errors import BrokerError, LoopDetectedError
from broker_core.redaction import printable
from broker_core.routing import Action, Router, verdicts
from broker_django.admission.steps import PRELIMINARY, NotQueueableError, admit
from broker_django.admission.submission import ClientSubmission
from broker_django.annotations.view_annotations import annotation_of
from broker_django.annotations.view_names import view_name
from broker_django.conf import conf
from broker_django.context import RequestContext, View
from broker_django.dispatcher import decide, route_of
from broker_django.dispatching.arrival import language_of, usual_host
from broker_django.dispatching.urlconfs import urlconf_of
from broker_django.identity import users
from broker_django.models.texts import translated_when_shown
from broker_django.request_values import values
from broker_django.routing import choice, redirects
from broker_django.routing.table import tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from django.http import HttpRequest, HttpResponse
    from django.urls import ResolverMatch
    from django.utils.deprecation import MiddlewareMixin
    from django.utils.functional import _StrOrPromise

    from broker_core.policies import Decision
    from broker_core.routing import Route

VISITORS = 1_000

M = TypeVar("M", bound="MiddlewareMixin")


@dataclass(frozen=True, slots=True)
class Tried:
    """A router or a rule that was tried: its name, a summary, and why it does not apply; empty if it applies."""

    name: _StrOrPromise
    about: _StrOrPromise
    why_not: _StrOrPromise = ""


@dataclass(slots=True)
class Explanation:
    """What happens to one request. `outcome` sums it up in a sentence. Texts are translated when they are shown."""

    outcome: _StrOrPromise = ""
    routers: list[Tried] = field(default_factory=list)
    rules: list[Tried] = field(default_factory=list)
    shares: dict[str, int] = field(default_factory=dict)
    """Visitors out of a thousand that each destination of the router gets, by URL."""
    view: str = ""
    decorator: str = ""
    decision: Decision | None = None


def explain(
    method: str, path: str, headers: Mapping[str, str], user: Any = None, *, names_destinations: bool = True
) -> Explanation:
    """Returns what would happen to this request; `path` may have a query. Nothing is run, queued or written.

    Without `names_destinations`, the targets of redirects and proxies are left out, and messages of errors in code.
    """
    request = _request(method, path, headers, user)
    explanation = Explanation()
    with translation.override(language_of(request.META, request.path_info)):
        try:
            _explain_route(request, explanation, names_destinations=names_destinations)
            if not explanation.outcome:
                _explain_view(request, explanation)
        except _DispatcherError as error:
            explanation.outcome = error.outcome(with_message=names_destinations)
    if not names_destinations:
        explanation.shares = {}
    return explanation


class _DispatcherError(Exception):
    """A method of the DISPATCHER raised."""

    def __init__(self, method: str, error: Exception) -> None:
        super().__init__(method, error)
        self.method, self.error = f"{conf.DISPATCHER}.{method}", error

    def outcome(self, *, with_message: bool) -> _StrOrPromise:
        name, message = type(self.error).__name__, printable(str(self.error))
        shown = f"{name}: {message}" if message and with_message else name
        return format_lazy(_("The request fails: {method} raised {error}."), method=self.method, error=shown)


def _explain_route(request: HttpRequest, explanation: Explanation, *, names_destinations: bool) -> None:
    answers = _answers(request)
    try:
        route = route_of(request)
    except Exception as error:
        raise _DispatcherError("route", error) from error
    finally:
        if "route" in answers:
            _try_routers(request, explanation)
    in_code = answers.get("route") is not route
    if in_code:
        explanation.shares = {}
    outcome = _answer_of_router(request, names_destinations=names_destinations)
    explanation.outcome = _in_code(outcome) if outcome and in_code else outcome


def _explain_view(request: HttpRequest, explanation: Explanation) -> None:
    try:
        found = resolve(request.path_info, getattr(request, "urlconf", None))
    except Resolver404:
        explanation.outcome = _without_view(request)
        return
    request.resolver_match = found
    explanation.view = view_name(found.func, request.method or "")
    explanation.outcome = _login_redirect(request, found)
    if not explanation.outcome and choice.is_own(found):
        explanation.outcome = _("The broker answers: its own URLs are neither routed nor queued.")
    if not explanation.outcome:
        _explain_decision(request, View(found.func, found.args, found.kwargs), explanation)


def _explain_decision(request: HttpRequest, view: View, explanation: Explanation) -> None:
    annotation = annotation_of(view.function, request.method or "")
    if annotation is not None:
        explanation.decorator = f"{annotation.mode} {annotation.queue or ''}".strip()
    answers, route = _answers(request), route_of(request)
    try:
        explanation.decision = decide(request, view.function)
    except Exception as error:
        raise _DispatcherError("classify", error) from error
    finally:
        if "classify" in answers and annotation is None and not _is_queued_by(route):
            _try_rules(request, explanation)
    outcome = _outcome_of_decision(request, view, explanation.decision)
    in_code = "classify" not in answers or answers["classify"] is not explanation.decision
    explanation.outcome = _in_code(outcome) if in_code else outcome


def _outcome_of_decision(request: HttpRequest, view: View, decision: Decision | None) -> _StrOrPromise:
    unknown: str = request.broker.unknown_queue  # type: ignore[attr-defined]
    if unknown:
        return format_lazy(_("The view runs now: there is no queue {queue!r}."), queue=unknown)
    refusal = _refusal_of(request, view, decision)
    return refusal or _with_note(_outcome(decision), _destinations_note(route_of(request)))


def _answers(request: HttpRequest) -> dict[str, Any]:
    """Returns what routers and rules answered the DISPATCHER, by its method. It may have asked neither."""
    answers: dict[str, Any] = request.broker.answers  # type: ignore[attr-defined]
    return answers


def _in_code(outcome: _StrOrPromise) -> _StrOrPromise:
    return format_lazy(_("Your DISPATCHER decided. {outcome}"), outcome=outcome)


def _is_queued_by(route: Route | None) -> bool:
    return route is not None and route.router.action is Action.QUEUE


def _refusal_of(request: HttpRequest, view: View, decision: Decision | None) -> _StrOrPromise:
    """Returns how admission refuses the request without its body; empty if it does not, or the view runs now."""
    if decision is None or not decision.queued:
        return ""
    try:
        response = admit(ClientSubmission(request, view, decision), PRELIMINARY)
    except NotQueueableError as reason:
        return format_lazy(_("The view runs now: {reason}"), reason=str(reason))
    except BrokerError as error:
        return _refused(error.status, error)
    except DisallowedHost as error:
        return _refused(400, error)
    return "" if response is None else format_lazy(_("Admission answers: {status}."), status=response.status_code)


def _refused(status: int, error: Exception) -> _StrOrPromise:
    return format_lazy(_("The request is refused: {status}, {error}"), status=status, error=str(error))


def _answer_of_router(request: HttpRequest, *, names_destinations: bool) -> _StrOrPromise:
    """Returns what the router answers; empty if the view is called."""
    route = route_of(request)
    if route is None or route.router.action is Action.QUEUE:
        return ""
    code = route.router.code
    if route.router.action is Action.PROXY:
        target = redirects.target_of(request, route) if names_destinations else ""
        return _with_note(_answer(code, _("a proxy"), target), _destinations_note(route))
    try:
        response = redirects.redirect(request, route)
    except LoopDetectedError as error:
        return format_lazy(_("Router {code} answers: {answer}"), code=code, answer=f"{error.status}, {error}")
    if response is None:
        return ""
    target = response["Location"] if names_destinations else ""
    return _with_note(_answer(code, str(response.status_code), target), _destinations_note(route))


def _answer(code: str, answer: _StrOrPromise, target: str) -> _StrOrPromise:
    if not target:
        return format_lazy(_("Router {code} answers: {answer}"), code=code, answer=answer)
    return format_lazy(_("Router {code} answers: {answer} to {target}"), code=code, answer=answer, target=target)


def _without_view(request: HttpRequest) -> _StrOrPromise:
    for middleware in _middleware_of(CommonMiddleware):
        if middleware.should_redirect_with_slash(request):
            slashed = request.get_full_path(force_append_slash=True)
            return _redirected(middleware, middleware.response_redirect_class.status_code, slashed)
    return _("No view has this URL: 404.")


def _redirected(middleware: object, status: int, target: str) -> _StrOrPromise:
    name = type(middleware).__name__
    return format_lazy(_("{name} answers: {status} to {target}"), name=name, status=status, target=target)


def _login_redirect(request: HttpRequest, found: ResolverMatch) -> _StrOrPromise:
    """Returns what LoginRequiredMiddleware answers; empty if it lets the request pass."""
    if not apps.is_installed("django.contrib.auth"):
        return ""
    from django.contrib.auth.middleware import LoginRequiredMiddleware  # noqa: PLC0415 - needs its app

    for middleware in _middleware_of(LoginRequiredMiddleware):
        try:
            response = middleware.process_view(request, found.func, found.args, found.kwargs)
        except DisallowedHost as error:
            return _refused(400, error)
        if response is not None:
            return _redirected(middleware, response.status_code, response["Location"])
    return ""


def _middleware_of(middleware_class: type[M]) -> Iterator[M]:
    """Yields the project's middleware of this class, instantiated for this question."""
    for path in settings.MIDDLEWARE:
        named = import_string(path)
        if isinstance(named, type) and issubclass(named, middleware_class):
            with suppress(MiddlewareNotUsed):
                yield named(_never_called)


def _never_called(request: HttpRequest) -> HttpResponse:
    raise NotImplementedError


def _destinations_note(route: Route | None) -> _StrOrPromise:
    """Returns a note if other visitors may get another destination."""
    number = len(route.router.weights) if route is not None else 1
    return format_lazy(_("(one of {number}, by weight)"), number=number) if number > 1 else ""


def _with_note(outcome: _StrOrPromise, note: _StrOrPromise) -> _StrOrPromise:
    return format_lazy("{outcome} {note}", outcome=outcome, note=note) if note else outcome


def _request(method: str, path: str, headers: Mapping[str, str], user: Any) -> HttpRequest:
    request = RequestFactory(headers=dict(headers)).generic(method.upper(), path)
    if not any(name.lower() == "host" for name in headers):
        request.META["SERVER_NAME"] = usual_host()
    request.user = user or users.anonymous()
    request.broker = RequestContext(answers={})  # type: ignore[attr-defined]
    with suppress(DisallowedHost):
        request.urlconf = urlconf_of(request.get_host(), "")
    return request


def _try_routers(request: HttpRequest, explanation: Explanation) -> None:
    """Try the rows in order."""
    first = ""
    candidates = tables.current().candidates(request.path_info)
    read = partial(values, request)
    for match, why_not in verdicts(candidates, request.method or "", read, choice.switched_off()):
        router = match.router
        about = format_lazy(
            _("{source} -> {action}, rank {rank}"),
            source=router.source.text,
            action=router.action.value,
            rank=router.rank,
        )
        reason = format_lazy(_("router {code} comes first"), code=first) if first else _shown(why_not)
        explanation.routers.append(Tried(router.code, about, reason))
        if not first and not why_not:
            first = router.code
            explanation.shares = _shares(router)


def _shares(router: Router) -> dict[str, int]:
    picked = [router.pick(f"visitor {number}") for number in range(VISITORS)]
    return {destination.url: picked.count(destination) for destination in router.destinations}


def _shown(reason: str) -> _StrOrPromise:
    return translated_when_shown(reason) if reason else ""


def _try_rules(request: HttpRequest, explanation: Explanation) -> None:
    classifier = conf.classifier
    for number, (rule, why_not) in enumerate(classifier.verdicts(partial(values, request))):
        name = format_lazy(_("rule {number}"), number=number)
        about = f"{rule.when.text} -> {rule.mode} {rule.queue}"
        explanation.rules.append(Tried(name, about, _shown(why_not)))
        if not why_not:
            return


def _outcome(decision: Decision | None) -> _StrOrPromise:
    if decision is None:
        return _("The view runs now, as without the broker.")
    names = {"queue": decision.queue, "reason": decision.reason}
    if not decision.queued:
        return format_lazy(_("The view runs now, in the class {queue} ({reason})."), **names)
    if decision.wait:
        text = _("Queued on {queue} ({reason}); the client waits up to {seconds} s.")
        return format_lazy(text, seconds=f"{decision.wait:g}", **names)
    return format_lazy(_("Queued on {queue} ({reason})."), **names)
