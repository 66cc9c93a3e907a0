"""Routers and destinations, through Django's test clients."""

from __future__ import annotations

import io

import pytest
from asgiref.sync import async_to_sync
from django.conf.urls.i18n import i18n_patterns
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import OperationalError, connection, transaction
from django.http import HttpResponse, HttpResponsePermanentRedirect, HttpResponseRedirect
from django.test import Client, override_settings
from django.urls import include, path
from django.views import View
from pytest_django.asserts import assertRedirects
from rest_framework.views import APIView

from broker_core import routing
from broker_core.policies import Decision
from broker_core.routing import Destination, Match, Route
from broker_core.routing.sources import Source
from broker_django.decorators import enable_routing
from broker_django.dispatcher import Dispatcher
from broker_django.models import DispatchRecord, Router
from broker_django.routing import table, triggers
from broker_django.routing.table import Tables, tables, version
from broker_django.routing.visitors import VISITOR_COOKIE

SETTINGS = {"ENABLE_PROXY_ROUTING": True, "ALLOWED_REDIRECT_HOSTS": ["friend.example"]}


@pytest.fixture(autouse=True)
def proxies():
    with override_settings(REQUEST_BROKER=SETTINGS):
        yield


def route(source="/old/", *urls, action="302", **fields):
    row = Router(code=fields.pop("code", f"r{Router.objects.count()}"), source=source, action=action, **fields)
    row.full_clean()
    row.save()
    for entry in urls or ("/echo/",):
        url, weight, *rest = entry if isinstance(entry, tuple) else (entry, 1)
        destination = row.destinations.model(router=row, url=url, weight=weight, **(rest[0] if rest else {}))
        destination.full_clean()
        destination.save()
    return row


@pytest.mark.parametrize("action", ["301", "302", "307", "308"])
def test_a_router_redirects(client, action):
    route(action=action)
    response = client.get("/old/?x=1")
    assert response.status_code == int(action)
    assert response["Location"] == "/echo/?x=1"


@pytest.mark.parametrize("action", ["301", "302", "307", "308"])
def test_djangos_test_clients_follow_a_redirect(client, async_client, action):
    route("/older/", "/old/", action=action)
    route(action=action)
    response = client.get("/older/", follow=True)
    assert response.redirect_chain == [("/old/", int(action)), ("/echo/", int(action))]
    assert response.json()["path"] == "/echo/"
    if action in {"301", "302"}:  # Django's asynchronous client does not follow the others
        assert async_to_sync(async_client.get)("/older/", follow=True).json()["path"] == "/echo/"
    assertRedirects(client.get("/old/"), "/echo/", int(action))
    assertRedirects(client.get("/older/", follow=True), "/echo/", int(action))
    kind = HttpResponsePermanentRedirect if action in {"301", "308"} else HttpResponseRedirect
    assert type(client.get("/old/")) is kind


@pytest.mark.parametrize("action", ["307", "308"])
def test_a_redirect_that_preserves_the_request_keeps_method_and_body(client, action):
    route(action=action, methods="POST")
    response = client.post("/old/", {"x": 1}, follow=True)
    assert (response.json()["method"], response.json()["post"]) == ("POST", {"x": ["1"]})


def test_a_redirect_that_is_too_long_for_djangos_class_still_works(client):
    route()
    query = "x=" + "y" * 20_000
    response = client.get(f"/old/?{query}", follow=True)
    assert response.redirect_chain == [(f"/echo/?{query}", 302)]
    assert response.status_code == 200


def test_redirects_apply_to_safe_methods_by_default(client):
    route()
    assert client.post("/old/").status_code == 404
    Router.objects.update(methods="POST")
    assert client.post("/old/").status_code == 302
    assert client.get("/old/").status_code == 404


def test_captured_values_are_filled_in(client):
    route("/orders/<int:pk>/", "/echo/{pk}/?from={router_code}", code="orders")
    assert client.get("/orders/42/")["Location"] == "/echo/42/?from=orders"
    assert client.get("/orders/x/").status_code == 404


def test_redirects_stay_below_the_script_name(client):
    route()
    assert client.get("/old/", SCRIPT_NAME="/shop")["Location"] == "/shop/echo/"


def test_a_redirect_may_leave_the_site_if_that_is_allowed(client):
    route("/old/", "https://friend.example/new/")
    assert client.get("/old/")["Location"] == "https://friend.example/new/"


@pytest.mark.parametrize(
    ("fields", "urls", "expected"),
    [
        ({"action": "301"}, ["/echo/"], "max-age=3600"),
        ({}, ["/echo/"], "no-cache"),
        ({"condition": "!user.is_staff"}, ["/echo/"], "private, no-store"),
        ({}, ["/echo/", "/pay/"], "private, no-store"),
    ],
)
def test_redirects_have_cache_headers(client, fields, urls, expected):
    route("/old/", *urls, **fields)
    response = client.get("/old/")
    assert response["Cache-Control"] == expected
    assert ("Cookie" in response["Vary"]) is (expected == "private, no-store")


def test_redirects_after_another_routers_condition_are_private_too(client):
    route("/old/", "/pay/", rank=1, condition='request.remote_addr.startsWith("10.")', code="inside")
    route("/old/", "/echo/", rank=2, action="301", code="outside")
    assert client.get("/old/")["Cache-Control"] == "private, no-store"


def test_conditions_see_the_user(client, django_user_model):
    route(condition="user.is_staff")
    assert client.get("/old/").status_code == 404
    client.force_login(django_user_model.objects.create_user("ada", is_staff=True))
    assert client.get("/old/").status_code == 302


def test_a_redirect_to_the_same_url_is_not_made(client):
    route("/echo/", "/echo/")
    assert client.get("/echo/?x=1").status_code == 200


def test_a_redirect_that_adds_to_the_query_is_made_once(client):
    route("/echo/", ("/echo/", 1, {"append_params": "utm={router_code}"}), code="tagged")
    assert client.get("/echo/?x=1")["Location"] == "/echo/?x=1&utm=tagged"
    assert client.get("/echo/?x=1&utm=tagged").status_code == 200


def test_a_loop_of_redirects_is_refused(client, caplog):
    route("/old/", "/older/", code="a")
    route("/older/", "/oldest/", code="b")
    route("/oldest/", "/old/", code="c")
    response = client.get("/old/")
    assert response.status_code == 508
    assert response["Content-Type"] == "application/problem+json"
    assert "a -> b -> c" in caplog.text
    assert client.post("/old/").status_code == 404


def test_the_status_of_a_dispatch_is_never_routed(client):
    route("/*", "/echo/")
    assert client.get("/anything/").status_code == 302
    assert client.get("/broker/health/").status_code == 200


class AtTheRoot:
    urlpatterns = [path("", include("broker_django.urls"))]


class BelowALanguage:
    urlpatterns = i18n_patterns(path("broker/", include("broker_django.urls")))


@pytest.mark.parametrize(("urls", "health"), [(AtTheRoot, "/health/"), (BelowALanguage, "/de/broker/health/")])
def test_only_the_status_urls_are_exempt_from_routing_at_any_prefix(client, urls, health):
    route("/*", "/echo/")
    with override_settings(ROOT_URLCONF=urls):
        assert client.get("/anything/").status_code == 302
        assert client.get(health).status_code == 200


def test_routing_does_not_create_a_session(client):
    route("/old/", "/echo/", "/pay/")
    response = client.get("/old/")
    assert response.status_code == 302
    assert not response.cookies


def test_a_session_keeps_its_destination(client):
    session = client.session
    session["known"] = True
    session.save()
    route("/old/", "/echo/", "/pay/", "/slow/")
    assert len({client.get("/old/")["Location"] for _ in range(20)}) == 1


@pytest.mark.parametrize(
    ("fields", "same", "other"),
    [
        ({"sticky_by": "client_address"}, {"REMOTE_ADDR": "10.0.0.1"}, "REMOTE_ADDR"),
        ({"sticky_by": "header", "sticky_name": "X-Tenant"}, {"HTTP_X_TENANT": "a"}, "HTTP_X_TENANT"),
        ({"sticky_by": "cookie", "sticky_name": "tenant"}, {"HTTP_COOKIE": "tenant=a"}, "HTTP_COOKIE"),
    ],
)
def test_each_sticky_by_keeps_a_visitor(fields, same, other):
    route("/old/", "/echo/", "/pay/", **fields)
    assert len({Client().get("/old/", **same)["Location"] for _ in range(20)}) == 1
    values = [f"tenant={number}" if other == "HTTP_COOKIE" else f"10.0.0.{number}" for number in range(40)]
    assert len({Client().get("/old/", **{other: value})["Location"] for value in values}) == 2


def test_a_signed_cookie_identifies_a_new_visitor_if_the_router_uses_it(client):
    route("/old/", "/echo/", "/pay/", sticky_by="cookie")
    first = client.get("/old/")
    assert first.cookies["request_broker_visitor"]["httponly"]
    for _ in range(20):
        response = client.get("/old/")
        assert response["Location"] == first["Location"]
        assert not response.cookies
    client.cookies["request_broker_visitor"] = "forged:x"
    assert client.get("/old/").cookies["request_broker_visitor"].value != "forged:x"


@pytest.mark.parametrize("method", ["get", "post", "put", "delete", "patch"])
def test_a_proxy_carries_every_method_with_its_body(client, method):
    route("/old/<str:name>/", "/echo/{name}/", action="proxy")
    arguments = {} if method == "get" else {"data": "y=2", "content_type": "application/x-www-form-urlencoded"}
    response = getattr(client, method)("/old/ü/?x=1", **arguments)
    assert response.status_code == 200
    seen = response.json()
    assert (seen["method"], seen["path"], seen["query"]) == (method.upper(), "/echo/ü/", {"x": ["1"]})
    assert seen["post"] == ({"y": ["2"]} if method == "post" else {})


@pytest.mark.parametrize("size", [0, 10, 2_000_000])
def test_a_proxied_body_arrives_byte_for_byte(client, size):
    route("/old/", "/body/", action="proxy")
    body = bytes(range(256)) * (size // 256)
    assert client.post("/old/", body, content_type="application/octet-stream").content == body


def test_a_proxied_upload_is_not_lost(client):
    route("/old/", "/echo/", action="proxy")
    upload = SimpleUploadedFile("a.txt", b"content")
    [[name, size, _]] = client.post("/old/", {"file": upload}).json()["files"]["file"]
    assert (name, size) == ("a.txt", 7)


def test_a_proxy_works_under_asgi(async_client):
    route("/old/<str:name>/", "/echo/{name}/", action="proxy")
    seen = async_to_sync(async_client.post)("/old/a/?x=1", {"y": "2"}).json()
    assert (seen["method"], seen["path"], seen["query"], seen["post"]) == (
        "POST",
        "/echo/a/",
        {"x": ["1"]},
        {"y": ["2"]},
    )


def test_a_redirect_works_under_asgi(async_client):
    route(condition="!user.is_staff")
    assert async_to_sync(async_client.get)("/old/")["Location"] == "/echo/"


def test_a_loop_of_proxies_is_refused(client):
    route("/old/", "/older/", action="proxy")
    route("/older/", "/old/", action="proxy")
    assert client.get("/old/").status_code == 508


def test_proxies_work_only_if_they_are_enabled(client):
    route("/old/", "/echo/", action="proxy")
    with override_settings(REQUEST_BROKER={}):
        assert client.get("/old/").status_code == 404


def test_the_session_that_a_proxied_view_writes_is_the_clients(client):
    route("/old/", "/count/", action="proxy")
    counts = [int(client.get("/old/").content) for _ in range(3)]
    assert counts == [counts[0], counts[0] + 1, counts[0] + 2]


def test_a_router_puts_requests_into_a_queue(client):
    route("/echo/*", "bulk", action="queue", code="echoes")
    response = client.post("/echo/name/", {"x": "1"})
    assert response.status_code == 202
    record = DispatchRecord.objects.get()
    assert (record.queue, record.reason) == ("bulk", "router echoes")
    assert client.post("/echo/missing/page/").status_code == 404


def test_a_router_overrides_decorators(client):
    route("/pay/", "bulk", action="queue")
    assert client.post("/pay/").json()["queue"] == "bulk"
    route("/immediately/", "realtime", action="queue")
    assert client.get("/immediately/").status_code == 202


def test_an_upload_is_queued_whole(client):
    route("/echo/", "bulk", action="queue")
    assert client.post("/echo/", {"file": SimpleUploadedFile("a.txt", b"content")}).status_code == 202


def test_a_router_can_be_deactivated(client):
    route()
    with override_settings(REQUEST_BROKER={"ROUTING_ENABLED": False}):
        assert client.get("/old/").status_code == 404


# Rows and the table


def test_a_request_costs_no_query(client, django_assert_num_queries):
    route()
    client.get("/old/")
    with django_assert_num_queries(0):
        assert client.get("/old/").status_code == 302


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.delete(),
        lambda row: Router.objects.update(is_active=False),
        lambda row: Router.objects.all().delete(),
        lambda row: row.destinations.update(weight=0),
        lambda row: row.destinations.all().delete(),
        lambda row: row.destinations.first().delete(),
    ],
)
def test_a_change_takes_effect_at_once(client, change):
    row = route()
    assert client.get("/old/").status_code == 302
    change(row)
    assert client.get("/old/").status_code == 404


def test_rows_that_are_rolled_back_are_forgotten_without_a_query(client, django_assert_num_queries):
    assert client.get("/old/").status_code == 404
    with transaction.atomic():
        route()
        assert client.get("/old/").status_code == 302
        transaction.set_rollback(True)
    with django_assert_num_queries(0):
        assert client.get("/old/").status_code == 404


def test_a_table_has_the_rows_of_one_point_in_time():
    """What another process changes between the queries for routers and for destinations."""
    row = route("/old/", "bulk", action="queue", code="moving")

    def change_meanwhile(execute, sql, *arguments):
        if "broker_django_destination" in sql and row.action == "queue":
            row.action = "302"
            Router.objects.filter(pk=row.pk).update(action="302")
            row.destinations.update(url="/new/")
        return execute(sql, *arguments)

    watched = Tables()
    with connection.execute_wrapper(change_meanwhile):
        watched._reload()
    [loaded] = watched._table.routers
    assert (loaded.action, loaded.destinations[0].url) == ("302", "/new/")


def test_every_change_increases_the_number(client):
    numbers = [version()]
    row = route()
    numbers.append(version())
    with connection.cursor() as cursor:
        for statement in (
            f"UPDATE broker_django_router SET rank = 7 WHERE id = {row.pk}",
            "UPDATE broker_django_destination SET weight = 3",
            "DELETE FROM broker_django_destination",
        ):
            cursor.execute(statement)
            numbers.append(version())
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    "fields",
    [
        {"condition": "request.path ==="},
        {"condition": "x" * 3_000},
        {"source": "no-slash"},
        {"action": "teleport"},
        {"methods": "G:T"},
        {"queue": "nowhere"},
        {"sticky_by": "horoscope"},
        {"rank": 0},
    ],
)
def test_an_invalid_row_is_left_out_and_the_others_work(client, caplog, fields):
    route("/fine/")
    broken = route("/old/", code="broken")
    Router.objects.filter(pk=broken.pk).update(**fields)
    assert client.get("/fine/").status_code == 302
    assert client.get("/old/").status_code == 404
    assert "Router broken is left out" in caplog.text


def test_control_characters_in_rows_are_escaped_in_logs(client, caplog):
    """They may be written past the admin, and a worker's log is read in a terminal."""
    harm = "\x1b]0;pwned\x07\n"
    changes = {
        "broken": ("/broken/", {"action": harm}),
        "loop": ("/old/", {}),
        "proxy": ("/proxied/", {"action": "proxy"}),
        "nowhere": ("/queued/", {"action": "queue"}),
    }
    for code, (source, fields) in changes.items():
        row = route(source, {"/proxied/": "/proxied/?a=1"}.get(source, "/older/"), code=code)
        Router.objects.filter(pk=row.pk).update(code=code + harm, **fields)
    route("/older/", "/old/", code="back")
    for source in ("/old/", "/proxied/", "/queued/"):
        client.get(source)
    logged = [record for record in caplog.records if record.name.startswith("broker_")]
    assert {"loop", "broken"} <= {name for name in changes if any(name in record.getMessage() for record in logged)}
    assert [record.getMessage() for record in logged if not record.getMessage().isprintable()] == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"condition": "request.path ==="}, "condition"),
        ({"condition": "request.body"}, "condition"),
        ({"condition": " || ".join(["user.is_staff"] * 500)}, "condition"),
        ({"source": "old/"}, "source"),
        ({"source": "/<x:y>/"}, "source"),
        ({"methods": "G:T"}, "methods"),
        ({"queue": "nowhere", "action": "queue"}, "queue"),
        ({"rank": 0}, "rank"),
        ({"sticky_by": "header"}, "sticky_name"),
        ({"action": "teleport"}, "action"),
    ],
)
def test_a_bad_router_is_refused_at_its_field(fields, field):
    with pytest.raises(ValidationError) as caught:
        Router(**{"code": "bad", "source": "/old/", "action": "302", **fields}).full_clean()
    assert field in caught.value.message_dict


@pytest.mark.parametrize(
    ("action", "fields", "field"),
    [
        ("302", {"url": "javascript:alert(1)"}, "url"),
        ("302", {"url": "/a\x00/"}, "url"),
        ("302", {"url": "https://evil.example/"}, "url"),
        ("302", {"url": "/a/", "weight": -1}, "weight"),
        ("proxy", {"url": "https://friend.example/"}, "url"),
        ("queue", {"url": "nowhere"}, "url"),
    ],
)
def test_a_bad_destination_is_refused_at_its_field(action, fields, field):
    row = route("/old/", "bulk" if action == "queue" else "/a/", action=action)
    with pytest.raises(ValidationError) as caught:
        row.destinations.model(router=row, **fields).full_clean()
    assert field in caught.value.message_dict


def test_two_active_routers_of_the_same_source_and_rank_are_refused():
    route()
    with pytest.raises(ValidationError) as refused:
        Router(code="other", source="/old/", action="301").full_clean()
    assert refused.value.message_dict == {"rank": ["There is already an active router with this source and rank."]}
    Router(code="other", source="/old/", action="301", is_active=False).full_clean()
    assert tables.current().routers


# Deciding in code


class ByTenant(Dispatcher):
    """A DISPATCHER of a project: tenants have queues, and beta testers are redirected to /beta/."""

    def route(self, request):
        if request.headers.get("X-Beta") and request.path_info == "/old/":
            beta = Destination("beta", "/echo/")
            return Route(Match(routing.Router("beta", Source.parse("/old/"), routing.Action.FOUND, (beta,))), beta)
        return super().route(request)

    def classify(self, request, view):
        tenant = request.headers.get("X-Tenant")
        return Decision(tenant) if tenant else super().classify(request, view)


def test_a_project_decides_in_code(client):
    with override_settings(REQUEST_BROKER={"DISPATCHER": f"{__name__}.ByTenant"}):
        assert client.get("/old/", headers={"X-Beta": "1"})["Location"] == "/echo/"
        assert client.get("/old/").status_code == 404
        assert client.post("/echo/", headers={"X-Tenant": "bulk"}).json()["queue"] == "bulk"
        assert client.post("/echo/", headers={"X-Tenant": "nowhere"}).status_code == 200
        assert client.post("/pay/").json()["queue"] == "payment"


@pytest.mark.parametrize(("policy", "prefer", "status"), [(0, "wait=2", 200), (2, "", 200), (2, "wait=0", 202)])
def test_routes_decided_in_code_can_wait_too(client, policy, prefer, status):
    queues = {"bulk": {"wait": policy}}
    with override_settings(REQUEST_BROKER={"QUEUES": queues, "DISPATCHER": f"{__name__}.ByTenant"}):
        assert client.post("/echo/", headers={"X-Tenant": "bulk", "Prefer": prefer}).status_code == status


def test_one_view_is_routed_without_the_middleware(rf):
    view = enable_routing(lambda request: HttpResponse("the view"))
    assert view(rf.get("/old/")).content == b"the view"
    route()
    assert view(rf.get("/old/"))["Location"] == "/echo/"
    assert view(rf.post("/old/")).content == b"the view"


def test_one_coroutine_is_routed_without_the_middleware(rf):
    async def respond(request):
        return HttpResponse("the view")

    view = enable_routing(respond)
    assert async_to_sync(view)(rf.get("/old/")).content == b"the view"
    route()
    assert async_to_sync(view)(rf.get("/old/"))["Location"] == "/echo/"


class Plain(View):
    def get(self, request):
        return HttpResponse("the view")


class ByHandler(View):
    @enable_routing
    def get(self, request):
        return HttpResponse("the view")


class OfRest(APIView):
    @enable_routing
    def get(self, request):
        return HttpResponse("the view")


@pytest.mark.parametrize(
    "view", [enable_routing(Plain).as_view(), ByHandler.as_view(), OfRest.as_view()], ids=["class", "handler", "DRF"]
)
def test_one_class_is_routed_without_the_middleware(rf, view):
    assert view(rf.get("/old/")).content == b"the view"
    route()
    assert view(rf.get("/old/"))["Location"] == "/echo/"


def test_a_routed_class_is_a_copy(rf):
    enable_routing(Plain)
    route()
    assert Plain.as_view()(rf.get("/old/")).content == b"the view"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_visitor_is_recognised_without_the_middleware(rf, is_async):
    async def respond(request):
        return HttpResponse("the view")

    view = async_to_sync(enable_routing(respond)) if is_async else enable_routing(lambda request: HttpResponse("view"))
    route("/old/", "/echo/", "/pay/", sticky_by="cookie")
    first = view(rf.get("/old/"))
    rf.cookies[VISITOR_COOKIE] = first.cookies[VISITOR_COOKIE].value
    again = [view(rf.get("/old/")) for _ in range(10)]
    assert {response["Location"] for response in again} == {first["Location"]}
    assert not any(response.cookies for response in again)


# A database that has no triggers


def test_without_triggers_the_rows_themselves_reveal_a_change(monkeypatch):
    row = route()
    monkeypatch.setattr(table, "_version_row", lambda: (1, False))
    seen = [table.fingerprint()]
    with connection.cursor() as cursor:
        for statement in (
            f"UPDATE broker_django_router SET source = '/other/' WHERE id = {row.pk}",
            "UPDATE broker_django_destination SET weight = 3",
            "UPDATE broker_django_router SET is_active = (1 = 0)",
        ):
            cursor.execute(statement)
            seen.append(table.fingerprint())
    assert len(set(seen)) == len(seen)
    assert seen[-1] == table.fingerprint()


@pytest.mark.parametrize("to_whom", ["stdout", "log"])
def test_migrate_continues_if_the_database_refuses_triggers(monkeypatch, caplog, to_whom):
    def refuse(*_arguments):
        raise OperationalError(1419, "You do not have the SUPER privilege and binary logging is enabled")

    monkeypatch.setattr(triggers, "install", refuse)
    said = io.StringIO() if to_whom == "stdout" else None
    table.after_migrate(connection.alias, plan=[], stdout=said)
    text = said.getvalue() if said else caplog.text
    assert "the database refuses the triggers that detect changed routers (OperationalError" in text
    assert "SET GLOBAL log_bin_trust_function_creators = 1" in text
    assert not table.is_kept_by_triggers()
    monkeypatch.undo()
    table.after_migrate(connection.alias, plan=[])
    assert table.is_kept_by_triggers()
