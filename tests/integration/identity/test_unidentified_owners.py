"""Owners who cannot be found again, or distinguished from others."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
from django.conf.urls.i18n import i18n_patterns
from django.contrib.auth.models import AnonymousUser, User
from django.core.handlers.asgi import ASGIHandler
from django.db import OperationalError
from django.http import HttpResponse
from django.test import Client
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt
from rest_framework.authentication import BaseAuthentication, TokenAuthentication
from rest_framework.authtoken.models import Token
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView

from broker_django.decorators import queue
from broker_django.messaging.celery_app import get_app
from broker_django.models import DispatchRecord
from tests import browsers

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]

out_of_reach: set[str] = set()
"""The services that do not answer."""


class Service:
    """One user for all keys."""

    is_authenticated = True
    username = "service"


class WithLock:
    is_authenticated = True

    def __init__(self, name: str) -> None:
        self.said, self.lock = name, threading.Lock()


class WithoutKey:
    is_authenticated = True

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def pk(self) -> Any:
        raise NotImplementedError("a token has no key")


class Robot(AnonymousUser):
    is_authenticated = True  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self.name = name


class Proxy(User):
    class Meta:
        proxy = True
        app_label = "auth"

    @property
    def greeting(self) -> str:
        return f"hello {self.username}"


MAKE: dict[str, Callable[[str], tuple[Any, Any]]] = {
    "row": lambda name: (User.objects.get(username=name), None),
    "one user for all keys": lambda name: (Service(), name),
    "a lock": lambda name: (WithLock(name), None),
    "a lambda": lambda name: (SimpleNamespace(is_authenticated=True, said=name, may=lambda: True), None),
    "an auth that cannot travel": lambda name: (None, WithLock(name)),
    "a key that raises": lambda name: (WithoutKey(name), None),
    "an anonymous kind": lambda name: (Robot(name), None),
    "a token for each time": lambda name: (SimpleNamespace(is_authenticated=True, email=name, exp=id(name)), object()),
}


class Partners(BaseAuthentication):
    def authenticate(self, request: Any) -> Any:
        kind, _, name = request.headers.get("X-Partner", "").partition(":")
        if not kind:
            return None
        if "partners" in out_of_reach:
            raise OperationalError("could not connect")
        if "partners have ended" in out_of_reach:
            raise AuthenticationFailed
        return MAKE[kind](name)

    def authenticate_header(self, request: Any) -> str:
        return "Partner"


class Whose(APIView):
    authentication_classes = [Partners]

    def post(self, request: Any) -> Response:
        return Response({"secret of": request.headers.get("X-Partner")})


class ByAccount(Partners):
    def authenticate(self, request: Any) -> Any:
        return super().authenticate(request) if request._request.account else None


class PreparedByDispatch(Whose):
    authentication_classes = [ByAccount]

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        request.account = "acme"
        return super().dispatch(request, *args, **kwargs)


class PreparedBySetup(Whose):
    authentication_classes = [ByAccount]

    def setup(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().setup(request, *args, **kwargs)
        request.account = "acme"


class QuietByAccount(Partners):
    """Finds no user, instead of failing, until the view has prepared the request."""

    def authenticate(self, request: Any) -> Any:
        return super().authenticate(request) if hasattr(request._request, "account") else None


class StrictByAccount(Partners):
    def authenticate(self, request: Any) -> Any:
        if not hasattr(request._request, "account"):
            raise AuthenticationFailed("which account?")
        return super().authenticate(request)


class QuietByDispatch(PreparedByDispatch):
    authentication_classes = [QuietByAccount]


class StrictByDispatch(PreparedByDispatch):
    authentication_classes = [StrictByAccount]


class ByCookie(BaseAuthentication):
    def authenticate(self, request: Any) -> Any:
        name = request.COOKIES.get("access_token")
        if "users" in out_of_reach:
            raise OperationalError("could not connect")
        return (User.objects.get(username=name), None) if name else None


class OfCookie(Whose):
    authentication_classes = [ByCookie]

    def post(self, request: Any) -> Response:
        return Response({"secret of": request.COOKIES.get("access_token")})


class OfCookieByDispatch(OfCookie):
    """A token of a cookie becomes one of a header field only when the view is dispatched."""

    authentication_classes = [TokenAuthentication]

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        request.META["HTTP_AUTHORIZATION"] = f"Token {request.COOKIES.get('access_token')}"
        return super().dispatch(request, *args, **kwargs)


class Jwt:
    """An auth of a package: no two instances are equal."""

    def __init__(self, text: str) -> None:
        self.payload = {"user_id": text.split(".", maxsplit=1)[0], "exp": text.split(".")[1]}


class ByJwt(BaseAuthentication):
    asked: list[str] = []

    def authenticate(self, request: Any) -> Any:
        text = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.asked.append(text)
        return (User.objects.get(username=text.split(".")[0]), Jwt(text)) if text else None


class OfJwt(Whose):
    authentication_classes = [ByJwt]

    def post(self, request: Any) -> Response:
        return Response({"secret of": request.user.username})


class OfJwtBySetup(OfJwt):
    def setup(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().setup(request, *args, **kwargs)
        self.is_prepared = True


class OtherIssuer(BaseAuthentication):
    """Raises errors of a library that do not mean an outage."""

    class InvalidTokenError(Exception):
        pass

    def authenticate(self, request: Any) -> Any:
        raise self.InvalidTokenError


class Signed(BaseAuthentication):
    def authenticate(self, request: Any) -> Any:
        name, _, method = request.headers.get("Authorization", "").partition(":")
        if method != request.method:
            raise AuthenticationFailed("signed for another request")
        return User.objects.get(username=name), None


class OfSignature(Whose):
    authentication_classes = [Signed]


class ByMethod(Whose):
    def get_authenticators(self) -> Any:
        return [Partners()] if self.request.method == "POST" else []


class OnBehalf(BaseAuthentication):
    """A key that a partner sends for all of its users."""

    def authenticate(self, request: Any) -> Any:
        if request.headers.get("X-Api-Key") != "partner":
            return None
        name = request.headers.get("X-On-Behalf-Of") or request.query_params.get("as") or request.data.get("as", "")
        return User.objects.filter(username=name).first(), None


class ForUsersOfPartners(Whose):
    authentication_classes = [OnBehalf]
    permission_classes = [IsAuthenticated]

    def post(self, request: Any) -> Response:
        return Response({"secret of": request.user.username})


class Greeting(Whose):
    class ByProxy(BaseAuthentication):
        def authenticate(self, request: Any) -> Any:
            if "proxies" in out_of_reach:
                raise AuthenticationFailed
            return Proxy.objects.get(username="ann"), None

    authentication_classes = [ByProxy]

    def post(self, request: Any) -> Response:
        return Response(request.user.greeting)


@csrf_exempt
@queue("bulk")
def plain(request: Any) -> HttpResponse:
    request.session["seen"] = True
    return HttpResponse("a secret")


VIEWS: dict[str, Any] = {
    "whose": Whose,
    "by-dispatch": PreparedByDispatch,
    "by-setup": PreparedBySetup,
    "by-method": ByMethod,
    "on-behalf": ForUsersOfPartners,
    "greeting": Greeting,
    "quiet": QuietByDispatch,
    "strict": StrictByDispatch,
    "of-cookie": OfCookie,
    "of-cookie-by-dispatch": OfCookieByDispatch,
    "of-jwt": OfJwt,
    "of-jwt-by-setup": OfJwtBySetup,
    "of-signature": OfSignature,
}
views = [path(f"{name}/", queue("bulk")(view).as_view()) for name, view in VIEWS.items()]


class OfToken(Whose):
    authentication_classes = [TokenAuthentication]


urlpatterns = [
    path("broker/", include("broker_django.urls")),
    path("заказы/", queue("bulk")(OfToken).as_view()),
    path("plain/", plain),
    *views,
    *i18n_patterns(path("translated/", queue("bulk")(Whose).as_view())),
]


@pytest.fixture(autouse=True)
def everybody() -> Any:
    for name in ("ann", "bob"):
        User.objects.create(username=name)
    yield
    out_of_reach.clear()


def send(url: str, client: Client | None = None, **headers: str) -> Any:
    accepted = (client or Client()).post(url, headers=headers)
    assert accepted.status_code == 202, accepted.content
    return accepted.json()["links"]


def status(links: Any, client: Client | None = None, **headers: str) -> int:
    return int((client or Client()).get(links["response"], headers=headers).status_code)


@pytest.mark.parametrize("kind", MAKE)
def test_users_of_different_kinds_are_different_owners(kind: str) -> None:
    links = send("/whose/", **{"X-Partner": f"{kind}:ann"})
    assert status(links, **{"X-Partner": f"{kind}:ann"}) == 200
    assert status(links, **{"X-Partner": f"{kind}:bob"}) == 404
    assert status(links) == 404


@pytest.mark.parametrize("kind", MAKE)
def test_idempotency_keys_are_separate_for_each_user(kind: str) -> None:
    key = {"Idempotency-Key": "order-1"}
    first, again, other = (
        Client().post("/whose/", headers={"X-Partner": f"{kind}:{name}", **key}) for name in ("ann", "ann", "bob")
    )
    assert first.status_code == other.status_code == 202
    if kind != "a token for each time":  # its auth differs each time, and cannot be frozen
        assert again.json() == {"secret of": f"{kind}:ann"}


def test_another_token_of_the_same_user_is_the_same_owner() -> None:
    links = send("/whose/", **{"X-Partner": "a token for each time:ann"})
    assert len({status(links, **{"X-Partner": "a token for each time:ann"}) for _ in range(3)}) == 1


@pytest.mark.parametrize("url", ["/whose/", "/by-dispatch/", "/quiet/", "/strict/"])
def test_a_user_who_cannot_be_found_before_the_view_runs_is_not_anonymous(
    url: str,
    before_replay: Callable[..., None],
) -> None:
    if url == "/whose/":
        out_of_reach.add("partners")
        before_replay(lambda *_: out_of_reach.clear())
    browser, shown = Client(), {"X-Partner": "row:ann"}
    links = send(url, browser, **shown)
    assert DispatchRecord.objects.get().state == "succeeded"
    assert status(links) == status(links, **{"X-Partner": "row:bob"}) == 404
    assert status(links, **shown) == status(links, browser) == 200
    key = {"Idempotency-Key": "order-1"}
    send(url, **shown, **key)
    assert b"row:ann" not in Client().post(url, headers=key).content


def with_cookie(name: str) -> Client:
    browser = Client(raise_request_exception=False)
    browser.cookies["access_token"] = name
    return browser


@pytest.mark.parametrize("url", ["/of-cookie/", "/of-cookie-by-dispatch/"])
def test_a_token_in_a_cookie_is_a_credential(url: str) -> None:
    for user in User.objects.all():
        Token.objects.create(key=user.username, user=user)
    key = {"Idempotency-Key": "order-1"}
    links = send(url, with_cookie("ann"), **key)
    assert status(links) == status(links, with_cookie("bob")) == 404
    assert status(links, with_cookie("ann")) == 200
    assert with_cookie("ann").post(url, headers=key).json() == {"secret of": "ann"}
    assert b"ann" not in with_cookie("bob").post(url, headers=key).content


def test_idempotency_keys_are_separate_for_cookie_users_who_cannot_be_found() -> None:
    out_of_reach.add("users")
    for name, expected in (("ann", 1), ("ann", 1), ("bob", 2)):
        with_cookie(name).post("/of-cookie/", headers={"Idempotency-Key": "order-1"})
        assert DispatchRecord.objects.count() == expected


@pytest.mark.parametrize("url", ["/of-jwt/", "/of-jwt-by-setup/"])
def test_a_refreshed_token_is_the_same_user_and_its_key_the_same(url: str) -> None:
    first, second = ({"Authorization": f"Bearer ann.{time}", "X-Span": time} for time in "12")
    links = send(url, **first, **{"Idempotency-Key": "order-1"})
    assert status(links, **second) == 200
    assert Client().post(url, headers={**second, "Idempotency-Key": "order-1"}).status_code == 200
    assert DispatchRecord.objects.count() == 1
    assert status(links, Authorization="Bearer bob.1") == 404


def test_a_credential_is_authenticated_once_if_there_is_no_other() -> None:
    """Checking a token or a password may be slow or limited."""
    ByJwt.asked.clear()
    get_app().conf.task_always_eager = False
    try:
        send("/of-jwt/", Authorization="Bearer ann.1")
    finally:
        get_app().conf.task_always_eager = True
    assert ByJwt.asked == ["Bearer ann.1".removeprefix("Bearer ")]


def test_a_signature_per_request_is_verified_on_the_poll_itself() -> None:
    links = send("/of-signature/", Authorization="ann:POST")
    assert status(links, Authorization="ann:GET") == 200
    assert status(links, Authorization="bob:GET") == 404


def test_a_failing_authenticator_does_not_hide_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(APIView, "authentication_classes", [OtherIssuer])
    links = send("/of-jwt/", Authorization="Bearer ann.1")
    assert status(links, Authorization="Bearer ann.2") == 200
    assert status(links, Authorization="Bearer bob.1") == 404


@pytest.mark.parametrize("name", ["X-Goog-Iap-Jwt-Assertion", "X-Amzn-Oidc-Data", "X-Amz-Security-Token"])
def test_a_proxys_signature_per_request_does_not_make_another_client(name: str) -> None:
    first, second = ({"X-Goog-Authenticated-User-Id": "ann", name: time} for time in "12")
    key = {"Idempotency-Key": "order-1"}
    links = send("/plain/", **first, **key)
    assert status(links, **second) == 200
    assert Client().post("/plain/", headers={**second, **key}).content == b"a secret"
    assert status(links, **{name: "1"}) == 404


def test_a_wrong_guess_can_be_exempted(settings: Any) -> None:
    settings.REQUEST_BROKER = {"CREDENTIALS": ["Authorization", "-X-Build-Token"]}
    assert status(send("/plain/", **{"X-Build-Token": "1"})) == 200
    assert status(send("/plain/", Authorization="Bearer 1")) == 404


@pytest.mark.parametrize(
    "names", [["X-" + "a" * 900 + "-Token"], [f"X-Zone-{n}-Of-An-Application-Key" for n in range(40)]]
)
def test_with_too_many_credentials_only_the_claim_identifies_the_client(names: list[str]) -> None:
    browser, shown = Client(), {**dict.fromkeys(names, "same"), "X-Forwarded-User": "ann"}
    links = send("/plain/", browser, **shown)
    assert status(links) == status(links, **{**shown, "X-Forwarded-User": "bob"}) == status(links, **shown) == 404
    assert status(links, browser) == 200


def test_a_field_may_have_a_plus_in_its_name() -> None:
    links = send("/plain/", **{"X+Y-Token": "1"})
    assert (status(links), status(links, **{"X+Y-Token": "1"})) == (404, 200)


@pytest.mark.parametrize("value", [7, b"ann", object()])
def test_middleware_may_put_objects_into_the_environ(value: Any) -> None:
    assert Client().post("/plain/", HTTP_X_USER_ID=value).status_code == 202


async def posted(path: str) -> int:
    """Sends requests over ASGI as servers do, unlike Django's test client."""
    headers = [(b"host", b"testserver"), (b"authorization", b"Token ann"), (b"cookie", b"theme=dark")]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "headers": headers,
    }
    server = ApplicationCommunicator(ASGIHandler(), {**scope, "headers": headers, "query_string": b"", "root_path": ""})
    await server.send_input({"type": "http.request", "body": b"", "more_body": False})
    return int((await server.receive_output(10))["status"])


@pytest.mark.django_db(transaction=True)
def test_non_ascii_paths_are_resolved_to_find_their_user() -> None:
    Token.objects.create(key="ann", user=User.objects.get(username="ann"))
    assert async_to_sync(posted)("/заказы/") == 202


def test_an_unidentifiable_user_must_show_something() -> None:
    """The view may fail for its own reasons; it could not have found a user."""
    links = send("/by-dispatch/")
    assert status(links) != 404


@pytest.mark.parametrize("url", ["/by-setup/", "/by-method/", "/de/translated/"])
def test_a_poll_finds_the_user_as_the_request_did(url: str) -> None:
    links = send(url, **{"X-Partner": "row:ann"})
    assert status(links, **{"X-Partner": "row:ann"}) == 200
    assert status(links, **{"X-Partner": "row:bob"}) == status(links) == 404


def test_a_closed_account_gets_nothing_even_if_its_user_cannot_be_found() -> None:
    browser = Client()
    links = send("/by-setup/", browser, **{"X-Partner": "row:ann"})
    assert status(links, browser) == 200
    User.objects.update(is_active=False)
    assert status(links, browser) == status(links, **{"X-Partner": "row:ann"}) == 404


def test_an_authenticator_that_does_not_answer_makes_the_poll_unavailable() -> None:
    links = send("/whose/", **{"X-Partner": "row:ann"})
    out_of_reach.add("partners")
    assert status(links, **{"X-Partner": "row:ann"}) == 503
    assert status(links) == 404


@pytest.mark.parametrize("who", [({"X-On-Behalf-Of": "ann"}, {"X-On-Behalf-Of": "bob"}), ("?as=ann", "?as=bob")])
def test_a_shared_key_does_not_identify_a_user(who: Any) -> None:
    shown = {"X-Api-Key": "partner"}
    if isinstance(who[0], dict):
        links = send("/on-behalf/", **shown, **who[0])
        assert status(links, **shown, **who[0]) == 200
        assert status(links, **shown, **who[1]) == status(links, **shown) == 404
        return
    links = send(f"/on-behalf/{who[0]}", **shown)
    asked = {each: {"response": links["response"] + each} for each in (*who, "")}
    assert [status(asked[each], **shown) for each in (*who, "")] == [200, 404, 404]


def test_a_shared_key_does_not_identify_a_user_whom_the_body_names() -> None:
    shown = {"X-Api-Key": "partner"}
    accepted = Client().post("/on-behalf/", {"as": "ann"}, headers=shown)
    assert accepted.status_code == 202
    assert status(accepted.json()["links"], **shown) == status(accepted.json()["links"]) == 404
    assert status(accepted.json()["links"], **shown, **{"X-On-Behalf-Of": "ann"}) == 200


def test_a_proxy_model_of_the_user_is_restored_in_the_replay(before_replay: Callable[..., None]) -> None:
    before_replay(lambda *_: out_of_reach.add("proxies"))
    links = send("/greeting/")
    out_of_reach.clear()
    assert Client().get(links["response"]).json() == "hello ann"


def test_an_expired_authentication_that_cannot_be_frozen_is_refused(before_replay: Callable[..., None]) -> None:
    """A view would otherwise run as the user, without what the user may do."""
    MAKE["a scope"] = lambda name: (User.objects.get(username=name), WithLock(name))
    before_replay(lambda *_: out_of_reach.add("partners have ended"))
    links = send("/whose/", **{"X-Partner": "a scope:ann"})
    out_of_reach.clear()
    answer = Client().get(links["response"], headers={"X-Partner": "a scope:ann"})
    del MAKE["a scope"]
    assert answer.status_code == 403
    assert "cannot be restored" in answer.json()["detail"]


FIELDS = [
    *("X-Token", "X-Authorization", "Private-Token", "X-ApiKey", "Apikey", "Token", "Proxy-Authorization", "X-Auth"),
    *("X-Session-Token", "Ocp-Apim-Subscription-Key", "X-Goog-Api-Key", "Cf-Access-Jwt-Assertion", "X-Client-Secret"),
    *("Remote-User", "X-Forwarded-User", "X-Auth-Request-Email", "X-MS-Client-Principal-Id", "Tailscale-User-Login"),
]


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_looks_like_a_credential_is_one(name: str) -> None:
    browser, key = Client(), {"Idempotency-Key": "order-1"}
    links = send("/plain/", browser, **{name: "1"}, **key)
    assert status(links) == status(links, **{name: "2"}) == 404
    assert status(links, **{name: "1"}) == status(links, browser) == 200
    assert Client().post("/plain/", headers={name: "2", **key}).status_code == 202


@pytest.mark.parametrize(
    "name", ["X-CSRFToken", "X-Recaptcha-Token", "X-Request-Id", "Accept-Language", "User-Agent", "X-Partner"]
)
def test_a_field_that_does_not_look_like_a_credential_is_not_one(name: str) -> None:
    assert status(send("/plain/", **{name: "1"})) == 200


@pytest.mark.parametrize("name", ["api_key", "access_token", "apiKey", "X-Amz-Security-Token"])
def test_a_parameter_that_looks_like_a_credential_is_one(name: str) -> None:
    browser = Client()
    links = send(f"/plain/?{name}=1&page=2", browser)
    assert status(links) == status({"response": f"{links['response']}?{name}=2"}) == 404
    assert status({"response": f"{links['response']}?{name}=1"}) == status(links, browser) == 200


def test_a_user_authenticated_by_the_server_is_a_credential() -> None:
    links = Client(REMOTE_USER="ann").post("/plain/").json()["links"]
    assert status(links) == status(links, Client(REMOTE_USER="bob")) == 404
    assert status(links, Client(REMOTE_USER="ann")) == 200


def test_more_parameters_than_django_accepts_are_no_credentials() -> None:
    """The view does not ask for them, and neither does the broker."""
    links = send(f"/plain/?{'&'.join(f'a{number}=1' for number in range(2_000))}&token=1")
    assert status(links) == 200


def test_a_parameter_can_be_named(settings: Any) -> None:
    settings.REQUEST_BROKER = {"CREDENTIALS": ["query:who"]}
    browser = Client()
    links = send("/plain/?who=ann", browser)
    assert status(links) == status(links, browser) == 404
    assert status({"response": f"{links['response']}?who=ann"}) == 200


@pytest.mark.parametrize("every", [True, False])
def test_a_browser_with_a_session_cookie_that_changes_is_recognised(settings: Any, every: bool) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    settings.SESSION_SAVE_EVERY_REQUEST = every
    browser = browsers.logged_in("ann")
    links = send("/plain/", browser)
    browser.session.save()
    browser.get(links["self"])
    assert browser.get(links["response"]).cookies["sessionid"].value
    assert browser.session["seen"] is True
