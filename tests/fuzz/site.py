"""A site that records what its outer middleware and its view see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction
from django.http import JsonResponse
from django.urls import include, path
from django.utils.decorators import sync_and_async_middleware
from django.views.decorators.csrf import csrf_exempt

from broker_django.context import replay_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest


@dataclass(frozen=True, slots=True)
class Seen:
    """One request at one place. `meta` has the texts of `request.META`; `body` is None if it was not read."""

    meta: dict[str, str]
    method: str | None
    path: str
    cookies: dict[str, str]
    replayed: bool
    body: bytes | None = None


at_door: list[Seen] = []
at_view: list[Seen] = []


def forget() -> None:
    at_door.clear()
    at_view.clear()


def _seen(request: HttpRequest, body: bytes | None = None) -> Seen:
    meta = {key: value for key, value in request.META.items() if type(value) is str}
    return Seen(meta, request.method, request.path, dict(request.COOKIES), replay_of(request) is not None, body)


@sync_and_async_middleware
def door(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    def note(request: HttpRequest) -> Any:
        at_door.append(_seen(request))
        return get_response(request)

    async def anote(request: HttpRequest) -> Any:
        at_door.append(_seen(request))
        return await get_response(request)

    return anote if iscoroutinefunction(get_response) else note


@csrf_exempt
def view(request: HttpRequest, name: str = "") -> JsonResponse:
    at_view.append(_seen(request, request.read()))
    return JsonResponse({"name": name})


urlpatterns = [
    path("broker/", include("broker_django.urls")),
    path("seen/", view),
    path("seen/<path:name>", view),
]
