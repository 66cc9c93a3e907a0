"""Each request is decided once, with any body: the decision is the same before and when its view is resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from broker_core.policies import Decision
from broker_django.decorators import queue, require_idempotency_key
from broker_django.dispatcher import Dispatcher
from broker_django.models import DispatchRecord, Router

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.urls(__name__)

LIMIT = 1_000
SMALL, LARGE = b"a,b\n", b"a,b\n" * 500


def form(request: HttpRequest) -> JsonResponse:
    size = request.FILES["file"].size if request.FILES else len(request.body)
    return JsonResponse({"replayed": request.broker.replayed, "size": size})


view = csrf_exempt(form)
queued = queue("bulk")(view)
with_key = require_idempotency_key(queued)

urlpatterns = [
    path("view/", view, name="the-view"),
    path("queued/", queued),
    path("with-key/", with_key),
    path("checked/", queue("bulk")(form)),
    path("broker/", include("broker_django.urls")),
]


class Elsewhere:
    """A URLconf without the broker's URLs."""

    urlpatterns = [path("queued/", queued)]


class Swapped:
    """A URLconf with another view."""

    urlpatterns = [path("queued/", view), path("broker/", include("broker_django.urls"))]


def multipart(content: bytes) -> dict[str, Any]:
    return {"data": {"file": SimpleUploadedFile("rows.csv", content)}}


def binary(content: bytes) -> dict[str, Any]:
    return {"data": content, "content_type": "text/csv"}


@pytest.fixture(params=[multipart, binary])
def body(request: pytest.FixtureRequest) -> Callable[[bytes], dict[str, Any]]:
    return request.param


@pytest.fixture(params=["wsgi", "asgi"])
def post(request: pytest.FixtureRequest) -> Callable[..., HttpResponse]:
    if request.param == "wsgi":
        return Client(raise_request_exception=False).post
    return async_to_sync(AsyncClient(raise_request_exception=False).post)


@pytest.fixture(autouse=True)
def limited() -> Any:
    with override_settings(REQUEST_BROKER={"MAX_BODY_SIZE": LIMIT}):
        yield


class Deciding(Dispatcher):
    """Counts its decisions, which the test sets."""

    asked: list[str] = []
    decision: Decision | None = None

    def classify(self, request: HttpRequest, view: Any) -> Decision | None:
        self.asked.append(request.resolver_match.view_name)
        return self.decision


class Unsteady(Dispatcher):
    """Decides differently each time."""

    turn = 0

    def classify(self, request: HttpRequest, view: Any) -> Decision | None:
        type(self).turn += 1
        return Decision("bulk", wait=5) if self.turn % 2 else None


@pytest.fixture
def deciding() -> Any:
    Deciding.asked.clear()
    with override_settings(REQUEST_BROKER={"MAX_BODY_SIZE": LIMIT, "DISPATCHER": f"{__name__}.Deciding"}):
        yield Deciding
    Deciding.decision = None


@pytest.mark.parametrize("content", [SMALL, LARGE])
@pytest.mark.parametrize("decision", [Decision("nowhere"), Decision("bulk", priority="nowhere"), None])
def test_an_unknown_queue_or_none_lets_the_view_run_now(
    post: Any, body: Any, deciding: Any, decision: Decision | None, content: bytes
) -> None:
    deciding.decision = decision
    response = post("/view/", **body(content))
    assert (response.status_code, response.json()) == (200, {"replayed": False, "size": len(content)})
    assert deciding.asked == ["the-view"]


def test_a_known_queue_is_asked_for_once_and_has_its_limit(post: Any, body: Any, deciding: Any) -> None:
    deciding.decision = Decision("bulk", wait=5)
    assert post("/view/", **body(SMALL)).json() == {"replayed": True, "size": len(SMALL)}
    assert deciding.asked == ["the-view"]
    assert post("/view/", **body(LARGE)).status_code == 413
    assert deciding.asked == ["the-view"] * 2


def test_a_decision_is_made_once(post: Any, body: Any) -> None:
    Unsteady.turn = 0
    with override_settings(REQUEST_BROKER={"DISPATCHER": f"{__name__}.Unsteady"}):
        seen = [post("/view/", **body(SMALL)).json()["replayed"] for _ in range(4)]
    assert seen == [True, False, True, False]


def test_the_brokers_own_urls_take_any_body(post: Any, body: Any) -> None:
    rules = {"MAX_BODY_SIZE": LIMIT, "RULES": [{"when": "true", "queue": "bulk"}]}
    with override_settings(REQUEST_BROKER=rules):
        assert post("/broker/tasks/unknown/", **body(LARGE)).status_code in {404, 405}


@pytest.mark.parametrize("url", ["/queued/", "/nowhere/"])
def test_a_redirect_comes_before_the_view_and_its_limit(post: Any, body: Any, url: str) -> None:
    row = Router.objects.create(code="moved", source=url, action="307", methods="POST")
    row.destinations.create(url="/elsewhere/")
    assert post(url, **body(LARGE)).status_code == 307
    assert not DispatchRecord.objects.exists()


def test_a_redirect_to_the_very_same_url_leaves_the_decision_to_the_view(post: Any, body: Any) -> None:
    row = Router.objects.create(code="same", source="/queued/", action="307", methods="POST")
    row.destinations.create(url="/queued/")
    assert post("/queued/", **body(SMALL)).status_code == 202
    assert post("/queued/", **body(LARGE)).status_code == 413


def test_a_missing_key_is_reported_before_the_size(post: Any, body: Any) -> None:
    assert post("/with-key/", **body(LARGE)).status_code == 400
    assert post("/with-key/", **body(LARGE), headers={"Idempotency-Key": '"1"'}).status_code == 413
    assert post("/with-key/", **body(SMALL), headers={"Idempotency-Key": '"1"'}).status_code == 202


class SetsUrlconf:
    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.urlconf = {"elsewhere": Elsewhere, "swapped": Swapped}[request.headers["X-Site"]]
        return self.get_response(request)


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_a_urlconf_that_is_set_later_decides(post: Any, body: Any, settings: Any, content: bytes) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.SetsUrlconf"]
    if content is SMALL:  # a larger form is refused before anybody could know of the other view
        response = post("/queued/", **body(content), headers={"X-Site": "swapped"})
        assert response.json() == {"replayed": False, "size": len(content)}


def test_a_urlconf_that_is_set_before_decides(post: Any, body: Any, settings: Any) -> None:
    settings.MIDDLEWARE = [f"{__name__}.SetsUrlconf", *settings.MIDDLEWARE]
    response = post("/queued/", **body(LARGE), headers={"X-Site": "swapped"})
    assert response.json() == {"replayed": False, "size": len(LARGE)}


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_a_site_without_the_brokers_urls_runs_the_view_now(post: Any, body: Any, content: bytes) -> None:
    with override_settings(ROOT_URLCONF=Elsewhere):
        response = post("/queued/", **body(content))
    assert response.json() == {"replayed": False, "size": len(content)}


class Answers:
    """Middleware that answers in place of the view."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, function: Any, args: Any, kwargs: Any) -> HttpResponse:
        return function(request, *args, **kwargs)


def test_a_view_that_middleware_calls_itself_gets_its_body(post: Any, body: Any, settings: Any) -> None:
    settings.MIDDLEWARE = [f"{__name__}.Answers", *settings.MIDDLEWARE]
    response = post("/queued/", **body(SMALL))
    assert response.json() == {"replayed": False, "size": len(SMALL)}
    assert not DispatchRecord.objects.exists()


def test_csrf_is_checked_for_queued_requests(body: Any) -> None:
    assert Client(enforce_csrf_checks=True).post("/checked/", **body(SMALL)).status_code == 403
