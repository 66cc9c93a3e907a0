"""REST framework: whoever is authenticated at the door is so in the replay, and when asking for the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.test import Client
from django.urls import include, path
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
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
    """A user of a token, who is no row and has no key."""

    is_authenticated = True
    is_active = True

    def __init__(self, name: str) -> None:
        self.name = name


class KeyedUser(TokenUser):
    """Of another service, whose keys are numbers too."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.pk = self.id = row("ada").pk


class Payload(dict):  # type: ignore[type-arg]
    """A subclass, as some libraries have one."""


class Token:
    def __init__(self, text: str) -> None:
        self.text, self.claims = text, {"scope": ["read", "write"]}


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


class ByInitial(Whose):
    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self.owner = request.user


class Prepared(BasePermission):
    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(view.prepared)


class ByDispatch(Whose):
    """What its permissions ask for is there only if it is dispatched."""

    permission_classes = [Prepared]

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self.prepared = True
        return super().dispatch(request, *args, **kwargs)


class HalfBuilt(Whose):
    """Its `initial` needs what `as_view` of its own leaves on the request."""

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


class Session(Whose):
    authentication_classes = [SessionAuthentication]


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
}
urlpatterns = [
    *(path(f"{name}/", queue("bulk")(view)) for name, view in VIEWS.items()),
    path("bearer/", queue("bulk")(ByBearer.as_view())),
    path("keyed/", queue("bulk")(Keyed.as_view())),
    path("refusing/", queue("bulk")(Refusing.as_view())),
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


@pytest.mark.parametrize("kind", ["row", "no-key", "foreign-key", "unsaved"])
@pytest.mark.parametrize("name", VIEWS)
def test_a_user_of_any_kind_is_who_it_was(send: Any, name: str, kind: str) -> None:
    token = f"{kind}:ada"
    direct = send("direct", token)
    assert direct.status_code == 200
    assert answered(send(name, token), token) == direct.json()


@pytest.mark.parametrize("kind", ["row", "no-key", "foreign-key", "unsaved"])
@pytest.mark.parametrize("name", VIEWS)
def test_a_credential_that_expires_while_it_waits_is_as_it_was(
    send: Any, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    from workers import tasks

    token, opened = f"{kind}:ada", tasks._open
    direct = send("direct", token)

    def expired(*given: Any) -> Any:
        accepted_now.discard(token)
        return opened(*given)

    monkeypatch.setattr(tasks, "_open", expired)
    accepted = send(name, token)
    accepted_now.add(token)
    assert answered(accepted, token) == direct.json()


def test_the_owner_may_come_with_another_token(send: Any) -> None:
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
def test_a_user_who_is_no_row_may_come_with_another_token(send: Any, kind: str) -> None:
    accepted, refreshed = send("whose", f"{kind}:ada"), f"{kind}:ada/refreshed"
    accepted_now.add(refreshed)
    assert answered(accepted, refreshed)["name"] == "ada"


@pytest.mark.parametrize("kind", ["no-key", "unsaved"])
def test_an_idempotency_key_is_a_users_own_who_is_no_row(send: Any, kind: str) -> None:
    first, again, other = (
        send("whose", f"{kind}:{name}", **{"Idempotency-Key": "one"}) for name in ("ada", "ada", "bob")
    )
    assert [each.status_code for each in (first, again, other)] == [202, 200, 202]
    assert again.json()["name"] == "ada"
    assert other.json()["id"] != first.json()["id"]


@pytest.mark.parametrize("kind", ["row", "unsaved", "no-key", "foreign-key"])
def test_what_everybody_sends_opens_nothing_of_a_user_who_is_known_by_something_else(send: Any, kind: str) -> None:
    edge = {"Authorization": "Basic ZWRnZTplZGdl"}
    accepted = send("whose", f"{kind}:ada", **edge)
    url = accepted.json()["links"]["self"]
    assert Client().get(url, headers=edge).status_code == 404
    assert Client().get(url, headers={**edge, "X-Custom": f"{kind}:ada"}).status_code == 200


def test_a_user_who_is_no_row_is_active_if_the_view_says_so() -> None:
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


def test_a_refusal_at_the_door_is_the_views_own(send: Any) -> None:
    assert send("refusing", "row:ada").status_code == 401
    accepted_now.clear()
    assert Client().post("/whose/", headers={"X-Custom": "row:ada"}).status_code == 401
    assert Client().post("/set/").status_code == 401
    assert not DispatchRecord.objects.exists()


def test_a_view_that_cannot_be_asked_refuses_when_it_runs() -> None:
    accepted = Client().post("/half-built/")
    assert accepted.status_code == 202
    assert Client().get(accepted.json()["links"]["response"]).status_code == 401
