"""Routers in the admin, "Try a request", and `broker_explain`."""

from __future__ import annotations

import io

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils import translation

from broker_core import routing
from broker_core.policies import Decision
from broker_core.routing import Match, Route
from broker_core.routing.sources import Source
from broker_django.dispatcher import Dispatcher
from broker_django.models import Destination, Router
from tests.forms import router_form
from tests.site.views import echo, pay

CHANGE_LIST = "/admin/broker_django/router/"
TRY = f"{CHANGE_LIST}try/"


@pytest.fixture
def router():
    row = Router.objects.create(code="blue-green", source="/old/", action="302", condition='request.method == "GET"')
    row.destinations.create(url="/echo/", weight=3)
    row.destinations.create(url="/pay/", weight=1)
    return row


def test_the_list_shows_the_live_shares(admin_client, router):
    page = admin_client.get(CHANGE_LIST).content.decode()
    assert "/echo/ <strong>75%</strong>" in page
    assert "/pay/ <strong>25%</strong>" in page


def test_many_destinations_cost_no_more_queries_than_few(admin_client, router, django_assert_max_num_queries):
    page = f"{CHANGE_LIST}{router.pk}/change/"
    admin_client.get(page)
    with CaptureQueriesContext(connection) as few:
        admin_client.get(page)
    number = len(few)
    Destination.objects.bulk_create(Destination(router=router, url=f"/{each}/") for each in range(20))
    admin_client.get(page)  # which loads the routing table, as the first did
    with django_assert_max_num_queries(number):
        admin_client.get(page)


def test_the_list_flags_a_broken_row(admin_client, router):
    Router.objects.update(condition="request.path ===")
    assert "token recognition error" in admin_client.get(CHANGE_LIST).content.decode()


def test_the_list_shows_drained_routers(admin_client, router):
    router.destinations.update(weight=0)
    assert "drained: skipped" in admin_client.get(CHANGE_LIST).content.decode()


def test_an_edited_weight_takes_effect_at_once(admin_client, client, router):
    answer = admin_client.post(f"{CHANGE_LIST}{router.pk}/change/", router_form(router, **{"destinations-0-weight": 0}))
    assert answer.status_code == 302, answer.context["errors"]
    assert {client.get("/old/")["Location"] for _ in range(20)} == {"/pay/"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition": "request.path ==="}, "Column 16"),
        ({"source": "old/"}, "must begin with a slash"),
        ({"destinations-0-url": "javascript:alert(1)"}, "http or https"),
        ({"action": "queue"}, "There is no queue"),
        ({"destinations-0-weight": "-1"}, "greater than or equal to 0"),
    ],
)
def test_invalid_values_are_refused_at_their_field(admin_client, router, changes, message):
    answer = admin_client.post(f"{CHANGE_LIST}{router.pk}/change/", router_form(router, **changes))
    assert answer.status_code == 200
    assert message in answer.content.decode()


@pytest.mark.parametrize(("action", "status"), [("deactivate", 404), ("drain", 404), ("activate", 302)])
def test_routers_are_switched_in_bulk(admin_client, client, router, action, status):
    admin_client.post(CHANGE_LIST, {"action": action, "_selected_action": [router.pk]})
    assert client.get("/old/").status_code == status


def test_routers_that_a_filter_hides_afterwards_are_counted_and_logged(admin_client, router):
    chosen = {"action": "deactivate", "_selected_action": [router.pk]}
    answer = admin_client.post(f"{CHANGE_LIST}?is_active__exact=1", chosen, follow=True)
    assert "1 router was changed." in answer.content.decode()
    assert LogEntry.objects.get(change_message="Deactivated.").object_id == str(router.pk)


def test_draining_requires_permission_to_change_destinations(client, router, django_user_model):
    clerk = django_user_model.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["view_router", "change_router"]))
    client.force_login(clerk)
    client.post(CHANGE_LIST, {"action": "drain", "_selected_action": [router.pk]})
    assert router.destinations.filter(weight=0).count() == 0


SECRET = "secret.internal"
ABOUT_ROUTERS = ["view_router", "change_router"]


@pytest.fixture
def hidden(router, settings):
    """The URLs of the router's destinations; one is broken, as changed settings may make it."""
    settings.REQUEST_BROKER = {"ALLOWED_REDIRECT_HOSTS": [SECRET]}
    for number, destination in enumerate(router.destinations.all()):
        destination.url = f"https://{SECRET}/{number}/"
        destination.save()
    Router.objects.create(code="broken", source="/b/", action="302").destinations.create(url=f"https://a.{SECRET}/")
    return router


def pages_about_destinations(client, router):
    chosen = {"action": "export", "_selected_action": [router.pk]}
    tried = {"method": "GET", "path": "/old/"}
    return {
        "list": client.get(CHANGE_LIST),
        "search": client.get(CHANGE_LIST, {"q": "secret.int"}),
        "filter": client.get(CHANGE_LIST, {"destinations__url__startswith": "https://secret"}),
        "change": client.get(f"{CHANGE_LIST}{router.pk}/change/"),
        "history": client.get(f"{CHANGE_LIST}{router.pk}/history/"),
        "export": client.post(CHANGE_LIST, chosen, follow=True),
        "try": client.get(TRY, tried),
    }


@pytest.mark.parametrize("permissions", [["view_router"], ABOUT_ROUTERS])
def test_targets_of_routers_require_permission_to_view_destinations(
    client, admin_client, hidden, django_user_model, permissions
):
    admin_client.post(f"{CHANGE_LIST}{hidden.pk}/change/", router_form(hidden, **{"destinations-0-weight": 7}))
    clerk = django_user_model.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(clerk)
    pages = pages_about_destinations(client, hidden)
    found = {name for name, page in pages.items() if SECRET in page.content.decode().replace("?q=secret.int", "")}
    assert found == set()
    assert pages["list"].context["cl"].result_count == 2
    assert pages["search"].context["cl"].result_count == 0
    assert "Router blue-green answers: 302 (one of 2, by weight)" in pages["try"].content.decode()
    clerk.user_permissions.add(Permission.objects.get(codename="view_destination"))
    pages = pages_about_destinations(client, hidden)
    found = {name for name, page in pages.items() if SECRET in page.content.decode()}
    assert found >= {"list", "search", "change", "history", "export", "try"}
    assert pages["search"].context["cl"].result_count == 2


def test_trying_a_request_explains_why(admin_client, router):
    Router.objects.create(code="drained", source="/*", action="302")
    page = admin_client.get(TRY, {"method": "GET", "path": "/old/?x=1", "headers": "X-A: b"}).content.decode()
    assert "Router blue-green answers: 302 to" in page
    assert "router blue-green comes first" in page
    assert "Of 1,000 visitors" in page
    assert "its condition is false" in admin_client.get(TRY, {"method": "HEAD", "path": "/old/"}).content.decode()


@pytest.mark.parametrize(
    "data", [{"path": "old/"}, {"path": "//["}, {"path": "/", "headers": "nonsense"}, {"path": "/", "user": "nobody"}]
)
def test_trying_an_invalid_request_is_refused(admin_client, data):
    answer = admin_client.get(TRY, {"method": "GET", **data})
    assert answer.context["form"].errors
    assert answer.context["explanation"] is None


def test_trying_requires_permission_to_view_routers(client, django_user_model):
    client.force_login(django_user_model.objects.create_user("clerk", is_staff=True))
    assert client.get(TRY).status_code == 403


def explained(*arguments):
    out = io.StringIO()
    call_command("broker_explain", *arguments, stdout=out, no_color=True)
    return out.getvalue()


def test_broker_explain_explains_the_same(router, settings):
    settings.REQUEST_BROKER = {"RULES": [{"when": 'request.path == "/a/"', "queue": "bulk"}]}
    output = explained("get", "/old/?x=1")
    assert "blue-green (/old/ -> 302, rank 1): applies" in output
    assert "of 1,000 visitors:" in output
    assert "Router blue-green answers: 302 to" in output
    assert "(one of 2, by weight)" in output
    output = explained("POST", "/echo/")
    assert "rule 0" in output
    assert "its condition is false" in output
    assert "as without the broker" in output
    assert "Queued on payment (decorator)" in explained("POST", "/pay/")
    assert "404" in explained("GET", "/nowhere/")


def test_broker_explain_explains_routers_that_do_not_apply(settings):
    settings.REQUEST_BROKER = {"ENABLE_PROXY_ROUTING": False}
    for code, source, action, url in (
        ("here", "/echo/", "302", "/echo/"),
        ("there", "/there/", "302", "/back/"),
        ("back", "/back/", "302", "/there/"),
        ("off", "/switched/", "proxy", "/echo/"),
        ("next", "/switched/*", "302", "/pay/"),
        ("all", "/broker/*", "302", "/echo/"),
    ):
        Router.objects.create(code=code, source=source, action=action).destinations.create(url=url)
    assert "as without the broker" in explained("GET", "/echo/")
    assert "508, the routers there, back redirect" in explained("GET", "/there/")
    output = explained("GET", "/switched/")
    assert "proxy is switched off" in output
    assert "Router next answers: 302 to /pay/" in output
    assert "neither routed nor queued" in explained("GET", "/broker/health/")


class Nowhere(Dispatcher):
    def classify(self, request, view):
        return Decision("nowhere")


def test_broker_explain_reports_an_unknown_queue(settings):
    settings.REQUEST_BROKER = {"DISPATCHER": f"{__name__}.Nowhere"}
    assert "The view runs now: there is no queue 'nowhere'." in explained("GET", "/echo/")


class ByName(Dispatcher):
    """Decides by the name of the URL, once."""

    asked = []

    def classify(self, request, view):
        self.asked.append(request.resolver_match.route)
        return Decision("bulk", wait=0) if len(self.asked) == 1 else None


def test_broker_explain_asks_a_dispatcher_once_with_the_url_resolved(settings):
    settings.REQUEST_BROKER = {"DISPATCHER": f"{__name__}.ByName"}
    ByName.asked.clear()
    assert "Queued on bulk (dispatcher)" in explained("GET", "/echo/")
    assert ByName.asked == ["echo/"]


def test_broker_explain_reports_what_admission_refuses(settings):
    settings.REQUEST_BROKER = {"QUEUES": {"payment": {"require_idempotency_key": True}}}
    assert "The request is refused: 400, send a unique Idempotency-Key" in explained("POST", "/pay/")
    assert "Queued on payment" in explained("POST", "/pay/", "-H", 'Idempotency-Key: "1"')
    assert "is refused: 400, the field" in explained("POST", "/pay/", "-H", "Idempotency-Key: a,b")


class WithoutStatusUrls:
    urlpatterns = [path("pay/", pay)]


def test_broker_explain_reports_missing_status_urls(settings):
    settings.ROOT_URLCONF = WithoutStatusUrls
    output = explained("POST", "/pay/")
    assert "The view runs now: the broker's URLs cannot be reversed on the host" in output
    assert "Queued" not in output


class Translated:
    urlpatterns = [*i18n_patterns(path("echo/", echo)), path("broker/", include("broker_django.urls"))]


def test_broker_explain_finds_the_url_in_the_language_of_the_request(settings):
    settings.ROOT_URLCONF = Translated
    settings.MIDDLEWARE = ["django.middleware.locale.LocaleMiddleware", *settings.MIDDLEWARE]
    with translation.override("en"):
        assert "view tests.site.views.echo" in explained("GET", "/de/echo/")
        assert translation.get_language() == "en"


class Elsewhere(Dispatcher):
    def route(self, request):
        destination = routing.Destination("code", "/elsewhere/")
        router = routing.Router("in-code", Source.parse("/old/"), routing.Action.FOUND, (destination,))
        return Route(Match(router), destination)


def test_broker_explain_names_the_handler_of_a_class_based_view():
    assert "view tests.site.views.Report.get, decorated: queue bulk" in explained("GET", "/report/2026/")


def test_broker_explain_reports_answers_of_djangos_middleware(settings, django_user_model):
    settings.MIDDLEWARE = [
        "django.middleware.common.CommonMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
        *settings.MIDDLEWARE,
    ]
    settings.LOGIN_URL = "/login/"
    settings.ALLOWED_HOSTS = ["shop.example"]
    assert "CommonMiddleware answers: 301 to /echo/?x=1" in explained("GET", "/echo?x=1")
    assert "LoginRequiredMiddleware answers: 302 to /login/?next=/echo/" in explained("GET", "/echo/")
    assert "is refused: 400" in explained("GET", "/echo/", "-H", "Host: elsewhere.example")
    django_user_model.objects.create_user("ada")
    assert "LoginRequiredMiddleware" not in explained("GET", "/echo/", "--user", "ada")
    assert "neither routed nor queued" in explained("GET", "/broker/health/")


def test_broker_explain_asks_the_dispatcher_of_the_project(settings):
    settings.REQUEST_BROKER = {"DISPATCHER": f"{__name__}.Elsewhere"}
    assert "Router in-code answers: 302 to /elsewhere/" in explained("GET", "/old/")


RULES = [{"when": 'request.path == "/echo/"', "queue": "bulk"}]
DECIDED = "Your DISPATCHER decided."


class Never(Dispatcher):
    def route(self, request):
        return None

    def classify(self, request, view):
        return None


class Asking(Dispatcher):
    """Asks the routers and rules, and obeys them unless the request has a field `X-Now`."""

    def route(self, request):
        return super().route(request)

    def classify(self, request, view):
        decision = super().classify(request, view)
        return None if "x-now" in request.headers else decision


def test_broker_explain_lists_no_routers_and_rules_that_a_dispatcher_did_not_ask(router, settings):
    settings.REQUEST_BROKER = {"DISPATCHER": f"{__name__}.Never", "RULES": RULES}
    output = explained("GET", "/echo/")
    assert "rule 0" not in output
    assert f"{DECIDED} The view runs now, as without the broker." in output
    output = explained("GET", "/old/")
    assert "blue-green" not in output
    assert "visitors" not in output


def test_broker_explain_lists_the_routers_and_rules_that_a_dispatcher_asked(router, settings):
    settings.REQUEST_BROKER = {"DISPATCHER": f"{__name__}.Asking", "RULES": RULES}
    output = explained("GET", "/echo/")
    assert "rule 0" in output
    assert "Queued on bulk (rule 0)" in output
    assert DECIDED not in output
    output = explained("GET", "/old/")
    assert "blue-green (/old/ -> 302, rank 1): applies" in output
    assert DECIDED not in output
    output = explained("GET", "/echo/", "-H", "X-Now: 1")
    assert "rule 0" in output
    assert f"{DECIDED} The view runs now, as without the broker." in output


def test_broker_explain_says_that_a_dispatcher_chose_the_route(settings):
    settings.REQUEST_BROKER = {"DISPATCHER": f"{__name__}.Elsewhere"}
    assert f"{DECIDED} Router in-code answers: 302 to /elsewhere/" in explained("GET", "/old/")


class RaisesInRoute(Dispatcher):
    def route(self, request):
        raise KeyError("cart")


class RaisesInClassify(Dispatcher):
    def classify(self, request, view):
        raise ValueError("no tenant")


@pytest.mark.parametrize(
    ("name", "raised"),
    [
        ("RaisesInRoute", ".route raised KeyError: 'cart'."),
        ("RaisesInClassify", ".classify raised ValueError: no tenant."),
    ],
)
def test_an_exception_of_a_dispatcher_is_explained_and_fails_the_request(name, raised, settings, client):
    settings.REQUEST_BROKER = {"DISPATCHER": f"{__name__}.{name}"}
    assert f"The request fails: {__name__}.{name}{raised}" in explained("GET", "/echo/")
    client.raise_request_exception = False
    assert client.get("/echo/").status_code == 500


def test_broker_explain_speaks_english(settings):
    settings.LANGUAGE_CODE = "de"
    with translation.override("de"), pytest.raises(CommandError, match="There is no such user"):
        explained("GET", "/", "--user", "nobody")
    with translation.override("de"):
        assert "as without the broker" in explained("GET", "/echo/")


@pytest.mark.parametrize(
    "arguments", [("GET", "old/"), ("GET", "/", "--header", "nonsense"), ("GET", "/", "--user", "nobody")]
)
def test_broker_explain_refuses_invalid_input(arguments):
    with pytest.raises(CommandError):
        explained(*arguments)
