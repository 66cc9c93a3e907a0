"""REST framework: the user authenticated at acceptance is also the user of the replay and of polls."""

from __future__ import annotations

import enum
import functools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.http import HttpResponse
from django.test import Client
from django.urls import include, path
from django.utils.decorators import method_decorator
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, TokenAuthentication
from rest_framework.authtoken.models import Token as TokenRow
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from broker_django.decorators import queue
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]

accepted_now: set[str] = set()
"""The tokens that are valid."""


class TokenUser:
    """A user of a token, without a row or a key."""

    is_authenticated = True
    is_active = True

    def __init__(self, name: str) -> None:
        self.name = name


class KeyedUser(TokenUser):
    """A user of another service, whose keys are numbers too."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.pk = self.id = row("ada").pk


class Payload(dict):  # type: ignore[type-arg]
    """A subclass, as some libraries have one."""

    is_authenticated = is_active = True

    @property
    def name(self) -> Any:
        return self["name"]


class Name(str):  # noqa: SLOT000 - as projects write it
    """A string of a library."""


class Role(enum.Enum):
    CLERK = "clerk"


class Mangled:
    __slots__ = ("__name",)
    is_authenticated = is_active = True

    def __init__(self, name: str) -> None:
        self.__name = name

    @property
    def name(self) -> str:
        return self.__name


class LockedUser(KeyedUser):
    """Cannot be frozen."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.lock = threading.Lock()


class Token:
    def __init__(self, text: str) -> None:
        self.text, self.claims = text, {"scope": ["read", "write"]}


def with_role(user: Any) -> Any:
    user.role = Role.CLERK
    return user


def row(name: str) -> User:
    return User.objects.get(username=name)


def group(name: str) -> Any:
    found = Group.objects.get_or_create(name=name)[0]
    found.is_authenticated = True
    return found


MAKE: dict[str, Callable[[str], Any]] = {
    "row": row,
    "unsaved": lambda name: User(username=name),
    "no key": TokenUser,
    "nobody": lambda _name: AnonymousUser(),
    "foreign key": KeyedUser,
    "other model": group,
    "text": lambda name: TokenUser(Name(name)),
    "dict": lambda name: Payload(name=name),
    "mangled": Mangled,
    "role": lambda name: with_role(KeyedUser(name)),
    "stateless": lambda name: User(pk=4711, username=name),
    "locked": LockedUser,
}


class Authentication(BaseAuthentication):
    field = "X-Custom"
    make: Callable[[str], Any]

    def authenticate(self, request: Any) -> Any:
        text = request.headers.get(self.field, "")
        if not text:
            return None
        if text not in accepted_now:
            raise AuthenticationFailed("expired")
        kind, _, name = text.partition(":")
        return MAKE[kind.replace("-", " ")](name.partition("/")[0]), Token(text)

    def authenticate_header(self, request: Any) -> str:
        return "Custom"


class Whose(APIView):
    authentication_classes = [Authentication]
    permission_classes = [IsAuthenticated]

    def post(self, request: Any) -> Response:
        user, auth = request.user, request.auth
        name = getattr(user, "username", None) or user.name
        return Response({"kind": type(user).__name__, "name": name, "auth": auth and [auth.text, auth.claims]})


class ByBearer(Whose):
    class FromField(Authentication):
        field = "Authorization"

    authentication_classes = [FromField]


class Keyed(Whose):
    """Which an API key without a user may use."""

    permission_classes = []

    def post(self, request: Any) -> Response:
        return Response({"auth": request.auth.text})


class BySetup(Whose):
    def setup(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().setup(request, *args, **kwargs)
        self.tenant = request.headers["X-Custom"]

    def get_permissions(self) -> Any:
        assert self.tenant
        return super().get_permissions()


class Counted(Whose):
    """A view whose `setup` has an effect."""

    set_up: list[str] = []

    def setup(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().setup(request, *args, **kwargs)
        self.set_up.append(request.method)


class CountedByDispatch(Counted):
    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        return super().dispatch(request, *args, **kwargs)


class ByInitial(Whose):
    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self.owner = request.user


class Prepared(BasePermission):
    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(view.prepared)


class ByDispatch(Whose):
    """A view whose permissions need an attribute that `dispatch` sets."""

    permission_classes = [Prepared]

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self.prepared = True
        return super().dispatch(request, *args, **kwargs)


class HalfBuilt(Whose):
    """A view whose `initial` needs an attribute that its `as_view` sets on the request."""

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        if request._request.prepared:
            super().initial(request, *args, **kwargs)

    @classmethod
    def as_view(cls, **given: Any) -> Any:
        view = super().as_view(**given)

        def prepare(request: Any, *args: Any, **kwargs: Any) -> Any:
            request.prepared = True
            return view(request, *args, **kwargs)

        prepare.cls, prepare.initkwargs, prepare.csrf_exempt = cls, given, True  # type: ignore[attr-defined]
        return prepare


class Set(ViewSet):
    authentication_classes = [Authentication]
    permission_classes = [IsAuthenticated]

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self.named = self.action

    def create(self, request: Any) -> Response:
        return Whose.post(self, request)  # type: ignore[arg-type]


class Lazy(Whose):
    """Authenticates only if something asks for the user."""

    permission_classes = []

    def perform_authentication(self, request: Any) -> None:
        pass


class WithoutInitial(Lazy):
    format_kwarg = None

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        request.accepted_renderer, request.accepted_media_type = self.perform_content_negotiation(request)


class Incurious(Lazy):
    def post(self, request: Any) -> Response:
        return Response({"asks": "nobody"})


def prepared(dispatch: Any) -> Any:
    @functools.wraps(dispatch)
    def prepare(request: Any, *args: Any, **kwargs: Any) -> Any:
        if request.headers.get("X-Probe"):
            return HttpResponse("probed")
        request.account = "acme"
        return dispatch(request, *args, **kwargs)

    return prepare


class HasAccount(BasePermission):
    def has_permission(self, request: Any, view: Any) -> bool:
        return hasattr(request._request, "account")


@method_decorator(prepared, name="dispatch")
class Decorated(Whose):
    permission_classes = [HasAccount]


class DecoratedSet(Set):
    permission_classes = [HasAccount]
    dispatch = method_decorator(prepared)(Set.dispatch)


class Known(Authentication):
    """Authenticates by API keys, without a user. It ignores other credentials."""

    def authenticate(self, request: Any) -> Any:
        try:
            found = super().authenticate(request)
        except AuthenticationFailed:
            return None
        return found and ({"guest": AnonymousUser(), "nobody": None}.get(found[0].username, found[0]), found[1])


class ByKey(Whose):
    authentication_classes = [Known, SessionAuthentication]
    permission_classes = []

    def post(self, request: Any) -> Response:
        assert request.auth is not None
        return Response({"user": request.user.__class__.__name__, "name": str(request.user), "auth": request.auth.text})


class ByRow(Whose):
    authentication_classes = [TokenAuthentication]

    def post(self, request: Any) -> Response:
        return Response({"name": request.user.username, "auth": request.auth.key, "owner": request.auth.user.username})


class Session(Whose):
    authentication_classes = [SessionAuthentication]
    permission_classes = []

    def post(self, request: Any) -> Response:
        return Response({"name": request.user.username})


class SessionByDispatch(Session):
    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        return super().dispatch(request, *args, **kwargs)


class LazySession(Session):
    def perform_authentication(self, request: Any) -> None:
        pass


class Unready(Session):
    """A view whose `setup` needs an attribute that exists only when it runs."""

    def setup(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().setup(request, *args, **kwargs)
        assert request.broker.replayed


class Refusing(Whose):
    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        raise NotAuthenticated


VIEWS: dict[str, Any] = {
    "whose": Whose.as_view(),
    "setup": BySetup.as_view(),
    "initial": ByInitial.as_view(),
    "dispatch": ByDispatch.as_view(),
    "half-built": HalfBuilt.as_view(),
    "set": Set.as_view({"post": "create"}),
    "lazy": Lazy.as_view(),
    "without-initial": WithoutInitial.as_view(),
    "decorated": Decorated.as_view(),
    "decorated-set": DecoratedSet.as_view({"post": "create"}),
}
TRAVELLING = [
    *((name, kind) for name in VIEWS for kind in ("row", "no-key", "foreign-key", "unsaved")),
    *(("whose", kind) for kind in ("text", "dict", "mangled", "role", "stateless")),
]
SESSIONS = {"session-by-dispatch": SessionByDispatch, "lazy-session": LazySession, "unready": Unready}
urlpatterns = [
    *(path(f"{name}/", queue("bulk")(view)) for name, view in VIEWS.items()),
    path("bearer/", queue("bulk")(ByBearer.as_view())),
    path("keyed/", queue("bulk")(Keyed.as_view())),
    *(path(f"{name}/", queue("bulk")(view.as_view())) for name, view in SESSIONS.items()),
    path("refusing/", queue("bulk")(Refusing.as_view())),
    path("by-key/", queue("bulk")(ByKey.as_view())),
    path("by-key-direct/", ByKey.as_view()),
    path("by-row/", queue("bulk")(ByRow.as_view())),
    path("counted/", queue("bulk")(Counted.as_view())),
    path("counted-by-dispatch/", queue("bulk")(CountedByDispatch.as_view())),
    path("incurious/", queue("bulk")(Incurious.as_view())),
    path("direct/", Whose.as_view()),
    path("broker/", include("broker_django.urls")),
]


@pytest.fixture(autouse=True)
def valid() -> Any:
    accepted_now.clear()
    User.objects.create(username="ada")
    yield
    accepted_now.clear()


@pytest.fixture
def send() -> Callable[..., Any]:
    def sent(name: str, token: str, **headers: str) -> Any:
        accepted_now.add(token)
        return Client().post(f"/{name}/", headers={"X-Custom": token, **headers})

    return sent


def answered(accepted: Any, token: str) -> Any:
    assert accepted.status_code == 202, accepted.content
    response = Client().get(accepted.json()["links"]["response"], headers={"X-Custom": token})
    assert response.status_code == 200, response.content
    return response.json()


@pytest.mark.parametrize(("name", "kind"), [*TRAVELLING, ("whose", "locked")])
def test_users_of_any_kind_are_restored(send: Any, name: str, kind: str) -> None:
    token = f"{kind}:ada"
    direct = send("direct", token)
    assert direct.status_code == 200
    assert answered(send(name, token), token) == direct.json()


@pytest.mark.parametrize(("name", "kind"), TRAVELLING)
def test_a_credential_that_expires_while_the_dispatch_waits_is_restored(
    send: Any,
    before_replay: Any,
    name: str,
    kind: str,
) -> None:
    token = f"{kind}:ada"
    direct = send("direct", token)
    before_replay(accepted_now.clear)
    accepted = send(name, token)
    accepted_now.add(token)
    assert answered(accepted, token) == direct.json()


def test_the_owner_may_use_another_token(send: Any) -> None:
    accepted, refreshed = send("whose", "row:ada"), "row:ada/refreshed"
    accepted_now.clear()
    assert Client().get(accepted.json()["links"]["self"], headers={"X-Custom": refreshed}).status_code == 404
    accepted_now.add(refreshed)
    assert answered(accepted, refreshed)["name"] == "ada"


OTHERS = [
    *(("row:ada", other) for other in ("row:bob", "foreign-key:ada", "other-model:ada", "no-key:ada", "unsaved:ada")),
    *((f"{kind}:ada", f"{kind}:bob") for kind in ("no-key", "unsaved")),
]


@pytest.mark.parametrize(("owner", "other"), OTHERS)
def test_another_user_is_not_the_owner(send: Any, owner: str, other: str) -> None:
    User.objects.create(username="bob")
    accepted = send("whose", owner)
    accepted_now.add(other)
    for token in (other, ""):
        assert Client().get(accepted.json()["links"]["self"], headers={"X-Custom": token}).status_code == 404


@pytest.mark.parametrize("kind", ["no-key", "unsaved", "foreign-key"])
def test_a_user_without_a_row_may_use_another_token(send: Any, kind: str) -> None:
    accepted, refreshed = send("whose", f"{kind}:ada"), f"{kind}:ada/refreshed"
    accepted_now.add(refreshed)
    assert answered(accepted, refreshed)["name"] == "ada"


@pytest.mark.parametrize("kind", ["no-key", "unsaved"])
def test_an_idempotency_key_belongs_to_a_user_without_a_row(send: Any, kind: str) -> None:
    first, again, other = (
        send("whose", f"{kind}:{name}", **{"Idempotency-Key": "one"}) for name in ("ada", "ada", "bob")
    )
    assert [each.status_code for each in (first, again, other)] == [202, 200, 202]
    assert again.json()["name"] == "ada"
    assert other.json()["id"] != first.json()["id"]


@pytest.mark.parametrize("kind", ["row", "unsaved", "no-key", "foreign-key"])
def test_a_shared_header_does_not_identify_a_user_who_has_another_credential(send: Any, kind: str) -> None:
    edge = {"Authorization": "Basic ZWRnZTplZGdl"}
    accepted = send("whose", f"{kind}:ada", **edge)
    url = accepted.json()["links"]["self"]
    assert Client().get(url, headers=edge).status_code == 404
    assert Client().get(url, headers={**edge, "X-Custom": f"{kind}:ada"}).status_code == 200


def test_a_user_without_a_row_is_active_if_the_view_accepts_it() -> None:
    accepted_now.add("no-key:ada")
    accepted = Client().post("/bearer/", headers={"Authorization": "no-key:ada"})
    url = accepted.json()["links"]["self"]
    assert Client().get(url, headers={"Authorization": "no-key:ada"}).status_code == 200
    accepted_now.clear()
    assert Client().get(url, headers={"Authorization": "no-key:ada"}).status_code == 404


def test_an_api_key_without_a_user_is_an_owner(send: Any) -> None:
    accepted, other = send("keyed", "nobody:ada"), "nobody:bob"
    accepted_now.add(other)
    url = accepted.json()["links"]["self"]
    assert [Client().get(url, headers=asked).status_code for asked in ({}, {"X-Custom": other})] == [404, 404]
    assert Client().get(url, headers={"X-Custom": "nobody:ada"}).status_code == 200


def test_a_refusal_before_acceptance_is_the_views_own_response(send: Any) -> None:
    assert send("refusing", "row:ada").status_code == 401
    accepted_now.clear()
    assert Client().post("/whose/", headers={"X-Custom": "row:ada"}).status_code == 401
    assert Client().post("/set/").status_code == 401
    assert not DispatchRecord.objects.exists()


def test_a_view_that_cannot_be_asked_refuses_when_it_runs() -> None:
    accepted = Client().post("/half-built/")
    assert accepted.status_code == 202
    assert Client().get(accepted.json()["links"]["response"]).status_code == 401


@pytest.mark.parametrize("name", ["lazy", "without-initial"])
def test_a_view_that_authenticates_late_refuses_when_it_runs(name: str) -> None:
    shown = {"X-Custom": "row:nobody"}
    accepted = Client().post(f"/{name}/", headers=shown)
    assert accepted.status_code == 202
    assert Client().get(accepted.json()["links"]["response"], headers=shown).status_code == 401


def test_a_view_without_a_required_user_may_get_an_invalid_credential() -> None:
    accepted = Client().post("/incurious/", headers={"X-Custom": "row:nobody"})
    assert answered(accepted, "row:nobody") == {"asks": "nobody"}


@pytest.mark.parametrize("name", ["decorated", "decorated-set"])
def test_a_decorator_of_dispatch_answers_in_the_replay(name: str) -> None:
    accepted = Client().post(f"/{name}/", headers={"X-Probe": "1"})
    assert accepted.status_code == 202
    assert Client().get(accepted.json()["links"]["response"], headers={"X-Probe": "1"}).content == b"probed"


@pytest.mark.parametrize("name", SESSIONS)
def test_a_view_that_was_not_asked_checks_csrf_when_it_runs(name: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(row("ada"))
    accepted = client.post(f"/{name}/")
    assert accepted.status_code == 202
    assert client.get(accepted.json()["links"]["response"]).status_code == 403


def state() -> Any:
    return DispatchRecord.objects.values_list("state", "response_status").get()


@pytest.mark.parametrize("fate", ["expired", "another's"])
def test_a_user_who_must_be_found_again_is_refused_if_not_found(
    send: Any,
    before_replay: Any,
    monkeypatch: pytest.MonkeyPatch,
    fate: str,
) -> None:
    User.objects.create(username="bob")

    def fall() -> None:
        accepted_now.clear() if fate == "expired" else monkeypatch.setitem(MAKE, "locked", lambda _: row("bob"))

    before_replay(fall)
    send("whose", "locked:ada")
    assert state() == ("failed", 403)


@pytest.mark.parametrize("kind", ["no-key", "unsaved", "dict"])
def test_a_credential_that_now_belongs_to_another_user_does_not_change_the_user(
    send: Any,
    before_replay: Any,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    name, make = kind.replace("-", " "), MAKE[kind.replace("-", " ")]
    before_replay(lambda: monkeypatch.setitem(MAKE, name, lambda _: make("bob")))
    accepted = send("whose", f"{kind}:ada")
    monkeypatch.setitem(MAKE, name, make)
    assert answered(accepted, f"{kind}:ada")["name"] == "ada"


@pytest.mark.parametrize("fate", ["deactivated", "deleted"])
def test_an_unsaved_user_acts_for_a_row_that_is_active(send: Any, before_replay: Any, fate: str) -> None:
    User.objects.create(pk=4711, username="grace")
    mine = User.objects.filter(pk=4711)
    before_replay(mine.delete if fate == "deleted" else lambda: mine.update(is_active=False))
    send("whose", "stateless:ada")
    assert state() == (("succeeded", 200) if fate == "deleted" else ("failed", 403))


@pytest.mark.parametrize("name", ["guest", "nobody", "ada"])
def test_an_api_key_that_expires_while_the_dispatch_waits_is_restored(send: Any, before_replay: Any, name: str) -> None:
    direct = send("by-key-direct", f"unsaved:{name}")
    before_replay(accepted_now.clear)
    accepted = send("by-key", f"unsaved:{name}")
    accepted_now.add(f"unsaved:{name}")
    assert answered(accepted, f"unsaved:{name}") == direct.json()


def test_the_original_authentication_is_restored_if_another_one_applies_now(before_replay: Any) -> None:
    client = Client()
    client.force_login(row("ada"))
    accepted_now.add("row:ada")
    before_replay(accepted_now.clear)
    accepted = client.post("/by-key/", headers={"X-Custom": "row:ada"})
    response = client.get(accepted.json()["links"]["response"])
    assert response.json() == {"user": "User", "name": "ada", "auth": "row:ada"}


@pytest.mark.parametrize("fate", ["used", "expired", "gone"])
def test_a_token_that_is_a_row(before_replay: Any, fate: str) -> None:
    ada = row("ada")
    token = TokenRow.objects.create(user=ada)
    fates = {"used": lambda: None, "expired": token.delete, "gone": ada.delete}
    client, key = Client(), token.key
    client.force_login(ada)
    before_replay(fates[fate])
    accepted = client.post("/by-row/", headers={"Authorization": f"Token {key}"})
    if fate == "gone":
        assert state() == ("failed", 403)
    else:
        response = client.get(accepted.json()["links"]["response"], headers={"Authorization": f"Token {key}"})
        assert response.json() == {"name": "ada", "auth": key, "owner": "ada"}


@pytest.mark.parametrize(("name", "times"), [("counted", 2), ("counted-by-dispatch", 1)])
def test_setup_runs_when_a_view_is_asked_and_when_it_runs(send: Any, name: str, times: int) -> None:
    Counted.set_up.clear()
    accepted = send(name, "no-key:ada")
    assert answered(accepted, "no-key:ada")["name"] == "ada"
    assert Client().get(accepted.json()["links"]["self"]).status_code == 404
    assert Counted.set_up == ["POST"] * times
