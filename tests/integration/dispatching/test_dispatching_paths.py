"""Dispatches made by code from a path, and the middleware that must not redirect or refuse them."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
from decimal import Decimal
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.contrib.auth.models import AnonymousUser, User
from django.core.files.base import ContentFile
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest, HttpResponse, QueryDict
from django.test import RequestFactory
from django.urls import include, path, set_script_prefix
from django.utils.functional import SimpleLazyObject, lazystr

import broker_django
from broker_core.errors import BodyTooLargeError, MessageError
from broker_core.message import RequestMessage
from broker_django.ledger import ledger, responses
from broker_django.models import DispatchRecord
from tests.site import views

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_django.fixtures import DjangoCaptureOnCommitCallbacks, SettingsWrapper

    from broker_core.message import ResponseMessage

    Run = Callable[..., ResponseMessage]

FORMS = {
    "path": lambda path, method: path,
    "message": lambda path, method: RequestMessage({"REQUEST_METHOD": method, "PATH_INFO": path}),
    "RequestFactory": lambda path, method: RequestFactory().generic(method, path),
}


@pytest.fixture
def run(django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks) -> Run:
    """Dispatch a path. Returns the stored response."""

    def dispatched(request: Any, **parts: Any) -> ResponseMessage:
        with django_capture_on_commit_callbacks(execute=True):
            accepted = broker_django.dispatch(request, queue="bulk", **parts)
        dispatch = ledger.find(accepted.id)
        assert dispatch is not None
        assert dispatch.state == "succeeded", dispatch.error
        response = responses.fetch(dispatch)
        assert response is not None
        return response

    return dispatched


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def go(form: str, run: Run) -> Callable[[str], Any]:
    """Dispatch this path in each of the forms. Returns the view's response; a response of middleware fails the test."""

    def dispatched(path: str, method: str = "GET") -> Any:
        given = FORMS[form](path, method)
        response = run(given, method=method) if form == "path" else run(given)
        assert response.status == 200, response
        return json.loads(response.body) if response.body.startswith(b"{") else response.body.decode()

    return dispatched


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ada", password="secret")


def seen(response: ResponseMessage) -> dict[str, Any]:
    assert response.status == 200, response
    found: dict[str, Any] = json.loads(response.body)
    return found


# Redirects and refusals of middleware


def test_no_csrf_token_is_asked_for(go: Any) -> None:
    assert go("/pay-with-csrf/", "POST") == "paid"


def test_no_redirect_to_tls(go: Any, settings: SettingsWrapper) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert (go("/echo/")["scheme"], go("/echo/")["secure"]) == ("https", True)


def test_a_path_that_is_exempt_from_tls_stays_as_it_is(go: Any, settings: SettingsWrapper) -> None:
    settings.SECURE_SSL_REDIRECT, settings.SECURE_REDIRECT_EXEMPT = True, [r"^echo/$"]
    assert go("/echo/")["secure"] is False


def test_no_redirect_to_tls_behind_a_proxy(go: Any, settings: SettingsWrapper) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert go("/echo/")["secure"] is True


def test_a_contradicting_field_of_a_proxy_is_corrected(run: Run, settings: SettingsWrapper) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert seen(run("/echo/", headers={"X-Forwarded-Proto": "http"}))["secure"] is True


def test_no_redirect_for_a_missing_slash(go: Any) -> None:
    assert go("/echo")["path"] == "/echo/"
    assert go("/echo/name")["name"] == "name"
    assert go("/pay-with-csrf", "POST") == "paid"


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        (["example.org"], "example.org"),
        (["localhost", "127.0.0.1", "[::1]", "example.org", "example.net"], "example.org"),
        ([".example.org"], "example.org"),
        (["127.0.0.1"], "127.0.0.1"),
    ],
)
def test_the_host_is_an_allowed_one(go: Any, settings: SettingsWrapper, allowed: list[str], host: str) -> None:
    settings.ALLOWED_HOSTS = allowed
    assert go("/echo/")["host"] == host


def test_any_host_may_be_localhost(run: Run, settings: SettingsWrapper) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    assert seen(run("/echo/"))["host"] == "localhost"
    settings.ALLOWED_HOSTS, settings.DEBUG = [], True
    assert seen(run("/echo/"))["host"] == "localhost"


def test_no_redirect_to_www(go: Any, settings: SettingsWrapper) -> None:
    settings.PREPEND_WWW, settings.ALLOWED_HOSTS = True, [".example.org"]
    assert go("/echo/")["host"] == "www.example.org"


def test_the_host_may_be_a_proxys(run: Run, settings: SettingsWrapper) -> None:
    settings.USE_X_FORWARDED_HOST, settings.ALLOWED_HOSTS, settings.PREPEND_WWW = True, [".example.org"], True
    assert seen(run("/echo/", headers={"X-Forwarded-Host": "example.org"}))["host"] == "www.example.org"
    assert seen(run("/echo/"))["host"] == "www.example.org"
    with pytest.raises(MessageError, match="not allowed"):
        run("/echo/", headers={"X-Forwarded-Host": "example.net"})


@pytest.fixture
def localized(settings: SettingsWrapper) -> Iterator[Callable[..., None]]:
    def use(*, prefix_default_language: bool) -> None:
        urls = ModuleType("localized")
        urls.urlpatterns = [  # type: ignore[attr-defined]
            path("broker/", include("broker_django.urls")),
            *i18n_patterns(path("echo/", views.echo), prefix_default_language=prefix_default_language),
        ]
        settings.ROOT_URLCONF = urls

    return use


def test_no_redirect_to_the_prefix_of_a_language(go: Any, localized: Any) -> None:
    localized(prefix_default_language=True)
    assert (go("/echo")["path"], go("/echo/")["language"]) == ("/en/echo/", "en")
    assert (go("/de/echo/")["path"], go("/de/echo")["greeting"]) == ("/de/echo/", "Ja")


def test_a_language_can_be_asked_for(run: Run, localized: Any) -> None:
    localized(prefix_default_language=False)
    assert seen(run("/echo/"))["language"] == "en"
    german = seen(run("/echo/", headers={"Accept-Language": "de"}))
    assert german["language"] == "en", "the path has the default language, as for a client"
    localized(prefix_default_language=True)
    german = seen(run("/echo/", headers={"Accept-Language": "de"}))
    assert (german["path"], german["language"]) == ("/de/echo/", "de")


def test_the_script_name_is_kept_apart(run: Run, settings: SettingsWrapper) -> None:
    settings.FORCE_SCRIPT_NAME = "/app"
    set_script_prefix("/app/")
    try:
        for given in ("/echo/", "/app/echo/", "http://testserver/app/echo/"):
            found = seen(run(given))
            assert (found["path"], found["script_name"]) == ("/app/echo/", "/app")
        assert DispatchRecord.objects.first().path == "/app/echo/"
    finally:
        set_script_prefix("/")


def test_the_script_name_of_a_message_is_the_projects(run: Run, settings: SettingsWrapper) -> None:
    settings.FORCE_SCRIPT_NAME = "/app/"
    assert seen(run(RequestMessage({"REQUEST_METHOD": "GET", "PATH_INFO": "/echo/"})))["path"] == "/app/echo/"
    assert DispatchRecord.objects.get().path == "/app/echo/"


def test_a_path_may_be_lazy(run: Run) -> None:
    assert seen(run(lazystr("/echo/")))["path"] == "/echo/"


def test_login_required_middleware_lets_the_user_in(run: Run, user: User, settings: SettingsWrapper) -> None:
    required = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE[:-1], required, settings.MIDDLEWARE[-1]]
    assert seen(run("/echo/", user=user))["user"] == "ada"
    with pytest.raises(MessageError, match="requires a user"):
        run("/echo/")
    with pytest.raises(MessageError, match="requires a user"):
        run(RequestMessage({"REQUEST_METHOD": "GET", "PATH_INFO": "/echo/"}))


def test_a_request_of_a_client_is_checked_like_one(settings: SettingsWrapper, client: Any) -> None:
    """A view or middleware that dispatches it cannot skip checks that were not made yet."""
    request = RequestFactory().post("/pay-with-csrf/")
    request.environ["wsgi.input"] = request._stream = io.BytesIO()
    request.user = AnonymousUser()
    record = broker_django.dispatch(request, queue="bulk")
    from tests.integration.dispatching.test_dispatching import message_of

    assert message_of(record).csrf == "unchecked"
    assert message_of(record).environ["SERVER_NAME"] == "testserver"


# Arguments


def test_json_is_posted(run: Run, user: User) -> None:
    value = {"month": datetime.date(2026, 10, 1), "amount": Decimal("1.5"), "name": "Zoë"}
    response = run("/echo/?a=1", json=value, query={"b": ["2", "3"]}, user=user, headers={"X-Name": "Grace"})
    found = seen(response)
    assert (found["method"], found["query"], found["user"]) == ("POST", {"a": ["1"], "b": ["2", "3"]}, "ada")
    assert found["headers"]["Content-Type"] == "application/json"
    assert found["headers"]["X-Name"] == "Grace"
    assert found["broker"]["replayed"] is True
    body = run("/body/", json=value).body
    assert json.loads(body) == {"month": "2026-10-01", "amount": "1.5", "name": "Zoë"}


@pytest.mark.parametrize("falsy", [{}, [], 0, False, ""])
def test_json_may_be_false(run: Run, falsy: Any) -> None:
    assert json.loads(run("/body/", json=falsy).body) == falsy


@pytest.mark.parametrize(
    "data",
    [
        {"amount": 7, "tag": ["a", "ü&="]},
        [("amount", "7"), ("tag", "a"), ("tag", "ü&=")],
        QueryDict("amount=7&tag=a&tag=%C3%BC%26%3D"),
    ],
)
def test_a_form_is_posted(run: Run, data: Any) -> None:
    assert seen(run("/echo/", data=data))["post"] == {"amount": ["7"], "tag": ["a", "ü&="]}


@pytest.mark.parametrize("method", ["PUT", "patch", "DELETE", "GET", "QUERY"])
def test_any_method_may_have_a_body(run: Run, method: str) -> None:
    assert run("/body/", method=method, body="ünder").body == "ünder".encode()
    assert seen(run("/echo/", method=method, body=b"{}", content_type="application/json"))["method"] == method.upper()


def test_files_are_uploaded(run: Run) -> None:
    content = bytes(range(256))
    files = [
        ("one", SimpleUploadedFile("März.pdf", content, "application/pdf")),
        ("one", ContentFile(content, name="two.txt")),
        ("two", io.BytesIO(content)),
        ("three", ('a"b\r\n.bin', content, "application/x-own")),
        ("four", content),
    ]
    found = seen(run("/echo/", data={"name": ["Zoë", "--x\r\n"]}, files=files))
    digest = hashlib.sha256(content).hexdigest()
    assert found["post"] == {"name": ["Zoë", "--x\r\n"]}
    assert found["files"]["one"] == [["März.pdf", 256, digest], ["two.txt", 256, digest]]
    assert found["files"]["two"] == [["two", 256, digest]]
    assert found["files"]["four"] == [["four", 256, digest]]
    assert found["files"]["three"] == [["a%22b%0D%0A.bin", 256, digest]]


def test_a_url_of_this_site_is_one_too(run: Run, settings: SettingsWrapper) -> None:
    settings.ALLOWED_HOSTS = ["example.org"]
    assert seen(run("https://example.org:8443/echo/?a=1"))["absolute"] == "https://example.org:8443/echo/?a=1"
    assert seen(run("/echo/", host="example.org:81"))["host"] == "example.org:81"
    assert seen(run("/echo/übergröße/?größe=ä"))["query"] == {"größe": ["ä"]}
    assert seen(run("/echo/%C3%BCber%20all/"))["name"] == "über all"


@pytest.mark.parametrize("given", [lambda user: user, lambda user: user.pk, lambda user: str(user.pk)])
def test_a_user_is_an_object_or_a_key(run: Run, user: User, given: Any) -> None:
    assert seen(run("/echo/", user=given(user)))["user"] == "ada"
    assert seen(run("/echo/", user=SimpleLazyObject(lambda: user)))["user"] == "ada"


@pytest.mark.parametrize("nobody", [None, AnonymousUser()])
def test_a_user_may_be_anonymous(run: Run, nobody: Any) -> None:
    assert seen(run("/echo/", user=nobody))["user"] == ""


def test_a_view_of_django_rest_framework_knows_the_user(run: Run, user: User, settings: SettingsWrapper) -> None:
    response = run("/rest/", json={"a": 1}, user=user)
    found = json.loads(response.body)
    assert (found["user"], found["data"]) == ("ada", {"a": 1})
    without = [each for each in settings.MIDDLEWARE if "auth" not in each and "messages" not in each]
    settings.MIDDLEWARE = without
    assert json.loads(run("/rest/", json={}, user=user).body)["user"] == "ada"


def test_it_belongs_to_the_user(run: Run, user: User, client: Any, rf: RequestFactory) -> None:
    run("/echo/", user=user)
    record = DispatchRecord.objects.get()
    assert (record.user, record.route, record.method, record.reason) == (str(user.pk), "/echo/", "GET", "code")
    url = broker_django.status_url(rf.get("/"), record)
    assert client.get(url).status_code == 404
    client.force_login(user)
    assert client.get(url).json()["state"] == "succeeded"


# Invalid arguments


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ({"json": {}, "data": {}}, "one body"),
        ({"json": {}, "body": b""}, "one body"),
        ({"files": {}, "body": b""}, "one body"),
        ({"json": {}, "files": {}}, "one body"),
        ({"data": {}, "content_type": "text/plain"}, "form has its own"),
        ({"files": {"a": b""}, "content_type": "text/plain"}, "form has its own"),
        ({"content_type": "text/plain"}, "needs body or json"),
        ({"headers": {"Content-Type": "text/plain"}}, "needs body or json"),
        ({"headers": {"Content-Type": "text/plain"}, "data": {}}, "needs body or json"),
        ({"headers": {"content-length": "7"}, "body": b"a"}, "the body determines it"),
        ({"headers": {"Host": "other"}}, "as host="),
        ({"data": {"a": None}}, "None"),
        ({"data": {"a": "b"}, "method": "get"}, "use query"),
        ({"files": {"a": b"b"}, "method": "HEAD"}, "use query"),
        ({"data": "a=b"}, "as `body`"),
        ({"query": {"a": None}}, "None"),
        ({"files": {"a": io.StringIO("text")}}, "'rb'"),
        ({"files": {"a": "name.txt"}}, "'rb'"),
    ],
)
def test_arguments_that_contradict_each_other_are_type_errors(parts: dict[str, Any], error: str) -> None:
    with pytest.raises(TypeError, match=error):
        broker_django.dispatch("/echo/", queue="bulk", **parts)
    assert not DispatchRecord.objects.exists()


@pytest.mark.parametrize(
    ("given", "parts", "error"),
    [
        ("/nowhere/", {}, "no view"),
        ("/nowhere", {}, "no view"),
        ("echo/", {}, "does not begin"),
        ("", {}, "does not begin"),
        ("https://example.net/echo/", {}, "not a host of this site"),
        ("//example.net/echo/", {}, "not a host of this site"),
        ("https://me@example.org/echo/", {}, "not a host of this site"),
        ("ftp://example.org/echo/", {}, "not a host of this site"),
        ("mailto:ada@example.org", {}, "neither a path"),
        ("http://[example.org/echo/", {}, "neither a path"),
        ("/echo/", {"host": "example.net"}, "not a host of this site"),
        ("/echo/", {"method": "GET /"}, "not an HTTP method"),
        ("/echo/", {"method": ""}, "not an HTTP method"),
        ("/echo/", {"headers": {"X-A": "b\r\nX-C: d"}}, "not a valid header field"),
        ("/echo/", {"headers": {"X A": "b"}}, "not a valid header field"),
        ("/echo/", {"user": 123456}, "no active user"),
        ("/echo/", {"user": "nobody"}, "no active user"),
        ("/echo/", {"user": User(username="new")}, "not saved"),
        ("/echo/", {"user": User(pk=1, is_active=False)}, "not active"),
        ("/broker/health/", {}, "own URLs"),
    ],
)
def test_an_invalid_request_is_a_message_error(
    given: str, parts: dict[str, Any], error: str, settings: SettingsWrapper
) -> None:
    settings.ALLOWED_HOSTS = ["example.org"]
    with pytest.raises(MessageError, match=error):
        broker_django.dispatch(given, queue="bulk", **parts)
    assert not DispatchRecord.objects.exists()


def test_a_missing_slash_matches_no_view_without_append_slash(settings: SettingsWrapper) -> None:
    settings.APPEND_SLASH = False
    with pytest.raises(MessageError, match="no view"):
        broker_django.dispatch("/echo", queue="bulk")


def test_no_host_at_all_is_refused(settings: SettingsWrapper) -> None:
    settings.ALLOWED_HOSTS = []
    with pytest.raises(MessageError, match="ALLOWED_HOSTS"):
        broker_django.dispatch("/echo/", queue="bulk")
    with pytest.raises(MessageError, match="ALLOWED_HOSTS"):
        message = RequestMessage({"REQUEST_METHOD": "GET", "PATH_INFO": "/echo/", "HTTP_HOST": "example.net"})
        broker_django.dispatch(message, queue="bulk")


def test_an_inactive_user_is_refused_by_key_too(user: User) -> None:
    user.is_active = False
    user.save()
    with pytest.raises(MessageError, match="no active user"):
        broker_django.dispatch("/echo/", user=user.pk, queue="bulk")


@pytest.mark.parametrize("given", [HttpRequest(), RequestFactory().get("/echo/"), RequestMessage({})])
def test_a_request_has_its_own_parts(given: Any) -> None:
    with pytest.raises(TypeError, match="only be given with a path"):
        broker_django.dispatch(given, queue="bulk", json={})


@pytest.mark.parametrize("given", [None, b"/echo/", {"path": "/echo/"}, HttpResponse()])
def test_nothing_else_can_be_dispatched(given: Any) -> None:
    with pytest.raises(TypeError, match="can be dispatched, not"):
        broker_django.dispatch(given, queue="bulk")


def test_a_bare_request_has_no_path() -> None:
    with pytest.raises(MessageError, match="dispatch a path instead"):
        broker_django.dispatch(HttpRequest(), queue="bulk")


def test_a_body_that_is_too_large_is_refused(settings: SettingsWrapper) -> None:
    settings.REQUEST_BROKER = {"MAX_BODY_SIZE": 10}
    with pytest.raises(BodyTooLargeError):
        broker_django.dispatch("/echo/", json="x" * 20, queue="bulk")
