"""Who owns a dispatch, with which credentials, and what other clients get from each endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings

import broker_django
from broker_core.errors import MessageError, TenantUnknownError
from broker_django.identity import credentials, ownership
from broker_django.models import DispatchRecord
from broker_django.tracking import holding
from tests.browsers import logged_in, with_a_session

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("everything_accepted")


class Banning(ModelBackend):
    """Refuses locked accounts, as some packages do."""

    def user_can_authenticate(self, user: Any) -> bool:
        return super().user_can_authenticate(user) and user.last_name != "banned"


EDGE = {"Authorization": "Basic ZWRnZTplZGdl"}
"""A header field that the same proxy adds to all requests."""


def exits(client: Client, links: dict[str, str], **headers: str) -> set[int]:
    """Returns the statuses of all URLs of a dispatch."""
    asked = [client.get(links[name], headers=headers) for name in ("self", "response", "events")]
    return {response.status_code for response in (*asked, client.delete(links["cancel"], headers=headers))}


def send(client: Client, **headers: str) -> dict[str, str]:
    accepted = client.post("/pay/", headers=headers)
    assert accepted.status_code == 202, accepted.content
    return dict(accepted.json()["links"])


def ann() -> Client:
    return logged_in("ann")


def bob() -> Client:
    return logged_in("bob")


SENT: dict[str, tuple[Callable[[], Client], dict[str, str]]] = {
    "user": (ann, {}),
    "user behind an edge": (ann, EDGE),
    "nobody with a key": (Client, {"X-Api-Key": "1"}),
    "nobody with a bearer token": (Client, {"Authorization": "Bearer 1"}),
    "nobody behind an edge with a key": (Client, {**EDGE, "X-Api-Key": "1"}),
}
STRANGERS: dict[str, tuple[Callable[[], Client], dict[str, str]]] = {
    "nobody": (Client, {}),
    "another user": (bob, {}),
    "another user behind the edge": (bob, EDGE),
    "nobody behind the edge": (Client, EDGE),
    "another key": (Client, {**EDGE, "X-Api-Key": "2"}),
}


@pytest.mark.parametrize("asks", STRANGERS)
@pytest.mark.parametrize("sent", SENT)
def test_a_dispatch_does_not_exist_for_other_clients(sent: str, asks: str) -> None:
    make, headers = SENT[sent]
    owner = make()
    links = send(owner, **headers)
    stranger, shown = STRANGERS[asks]
    assert exits(stranger(), links, **shown) == {404}
    assert 404 not in exits(owner, links, **headers)


def test_the_same_user_elsewhere_is_the_owner() -> None:
    assert 404 not in exits(ann(), send(ann()))


def test_a_client_may_show_its_credential_again() -> None:
    headers = {"Authorization": "Bearer 1", "X-Api-Key": "2"}
    links = send(Client(), **headers)
    assert exits(Client(), links, Authorization="Bearer 1") == {404}
    assert 404 not in exits(Client(), links, **headers, **{"X-Auth-Token": "more"})


@pytest.mark.parametrize("shown", ["access=1; theme=light", "access=2; theme=dark", ""])
def test_a_cookie_may_be_a_credential(shown: str) -> None:
    queued = {"RULES": [{"when": "true", "queue": "bulk"}], "CREDENTIALS": ["Authorization", "cookie:access"]}
    with override_settings(REQUEST_BROKER=queued):
        links = send(Client(), Cookie="access=1; theme=dark")
        assert (exits(Client(), links, Cookie=shown) == {404}) is ("access=1" not in shown)


@pytest.mark.parametrize("headers", [{"X-Api-Key": "1"}, {**EDGE, "X-Api-Key": "1"}])
def test_a_claim_does_not_replace_an_api_key(headers: dict[str, str]) -> None:
    client = Client()
    links = send(client, **headers)
    assert "request_broker_claim" in client.cookies
    for shown in ({}, {"X-Api-Key": "2"}, {**headers, "X-Api-Key": "2"}):
        assert exits(client, links, **shown) == {404}
    assert 404 not in exits(client, links, **headers)


def test_a_claim_replaces_an_anonymous_session() -> None:
    client = with_a_session()
    links = send(client, **EDGE)
    client.cookies["sessionid"] = "another"
    assert exits(client, links) == {404}
    assert 404 not in exits(client, links, **EDGE)


def test_a_users_session_is_sufficient() -> None:
    client = ann()
    links = send(client, **EDGE, **{"X-Api-Key": "1"})
    client.get("/log-out/")
    assert 404 not in exits(client, links)


def test_owners_and_idempotency_keys_survive_a_key_rotation() -> None:
    """A repeated key is a repeated payment, also on the day of the rotation."""
    with override_settings(SECRET_KEY="old"):
        first = Client().post("/pay/", headers={"X-Api-Key": "1", "Idempotency-Key": "k"})
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]):
        again = Client().post("/pay/", headers={"X-Api-Key": "1", "Idempotency-Key": "k"})
    assert (first.status_code, again.status_code) == (202, 201)
    assert DispatchRecord.objects.count() == 1


def test_a_client_that_sent_nothing_needs_only_the_url() -> None:
    assert 404 not in exits(Client(), send(Client()))


def banned(account: User) -> None:
    User.objects.filter(pk=account.pk).update(last_name="banned")


def with_a_new_password(account: User) -> None:
    account.set_password("new")
    account.save()


FATES: dict[str, Callable[[User], object]] = {
    "deactivated": lambda account: User.objects.filter(pk=account.pk).update(is_active=False),
    "deleted": lambda account: User.objects.filter(pk=account.pk).delete(),
    "banned": banned,
}


@override_settings(AUTHENTICATION_BACKENDS=[f"{__name__}.Banning"])
@pytest.mark.parametrize("logged_out", [False, True])
@pytest.mark.parametrize("fate", FATES)
def test_the_cookie_of_a_deleted_account_is_worthless(fate: str, logged_out: bool) -> None:
    client = ann()
    links, key = send(client), client.cookies["sessionid"].value
    if logged_out:
        client.logout()
        client.cookies["sessionid"] = key
    FATES[fate](User.objects.get(username="ann"))
    assert exits(client, links) == {404}


def test_a_browser_that_changed_the_password_gets_the_answer() -> None:
    client = ann()
    links = send(client)
    with_a_new_password(User.objects.get(username="ann"))
    assert 404 not in exits(client, links)


@override_settings(AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.AllowAllUsersModelBackend"])
def test_an_inactive_account_is_an_owner_if_inactive_users_may_log_in() -> None:
    client = ann()
    User.objects.update(is_active=False)
    links = send(client)
    assert client.get(links["response"]).status_code == 201
    assert 404 not in exits(client, links)


def test_a_session_that_logs_in_keeps_what_it_sent_before() -> None:
    client = with_a_session()
    links = send(client)
    client.force_login(User.objects.create_user("ann"))
    assert 404 not in exits(client, links)


def test_a_poll_after_a_logout_keeps_the_cookie_that_identifies_the_owner() -> None:
    client = ann()
    accepted = client.post("/log-out/")
    assert "sessionid" not in client.get(accepted.json()["links"]["self"]).cookies
    response = client.get(accepted.json()["links"]["response"])
    assert (response.status_code, response.cookies["sessionid"].value) == (200, "")


def test_a_waiting_poll_keeps_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session has ended before the poll, and the dispatch is not done yet."""
    monkeypatch.setattr("broker_django.admission.handover.run_eagerly", lambda *_args, **_kwargs: None)
    client = ann()
    links = send(client)
    client.session.flush()
    for name in ("self", "response"):
        assert "sessionid" not in client.get(links[name], {"wait": "1"}).cookies


def test_another_host_is_another_site() -> None:
    with override_settings(ALLOWED_HOSTS=["a.example", "b.example"]):
        client = logged_in("ann", headers={"host": "a.example"})
        links = send(client)
        assert exits(client, links, host="b.example") == {404}
        assert 404 not in exits(client, links)


def test_a_key_on_another_host_is_another_key() -> None:
    with override_settings(ALLOWED_HOSTS=["a.example", "b.example"]):
        for host in ("a.example", "b.example", "a.example"):
            Client().post("/pay/", headers={"host": host, "Idempotency-Key": "k"})
    assert DispatchRecord.objects.count() == 2


def test_another_tenant_on_the_same_host_is_another_site() -> None:
    with override_settings(
        REQUEST_BROKER={"TENANT": "tests.site.tenants.of_header", "RULES": [{"when": "true", "queue": "bulk"}]}
    ):
        client = ann()
        links = send(client, **{"X-Tenant": "a"})
        assert exits(client, links, **{"X-Tenant": "b"}) == {404}
        assert 404 not in exits(client, links, **{"X-Tenant": "a"})
        for tenant in "aba":
            client.post("/pay/", headers={"X-Tenant": tenant, "Idempotency-Key": "k"})
    assert sorted(DispatchRecord.objects.values_list("tenant", flat=True)) == ["a", "a", "b"]


def test_a_claim_is_sent_only_to_the_urls_of_its_dispatch() -> None:
    accepted = Client().post("/pay/", secure=True)
    claim = accepted.cookies[ownership.CLAIM]
    assert accepted.json()["links"]["self"].endswith(claim["path"])
    assert (claim["httponly"], claim["secure"], claim["samesite"]) == (True, True, "Lax")
    assert ownership.CLAIM not in ann().post("/pay/").cookies
    with_key = [Client().post("/pay/", headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [ownership.CLAIM in response.cookies for response in with_key] == [True, False]


def test_a_credential_is_stored_as_a_digest() -> None:
    nobody, cookie, header = (
        credentials.credential_for(RequestFactory().get("/", headers=headers), None)
        for headers in ({}, {"cookie": "sessionid=abc"}, {"authorization": "abc"})
    )
    assert nobody == ""
    assert cookie.startswith("session:")
    assert header.startswith("authorization:")
    assert "abc" not in cookie + header


def test_a_new_session_cookie_replaces_the_sent_one_as_credential() -> None:
    request, response = RequestFactory().get("/", headers={"cookie": "sessionid=old"}), HttpResponse()
    response.set_cookie("sessionid", "new")
    later = RequestFactory().get("/", headers={"cookie": "sessionid=new"})
    assert credentials.credential_for(request, None, response.cookies) == credentials.credential_for(later, None)


def test_credentials_survive_a_key_rotation() -> None:
    request = RequestFactory().get("/", headers={"authorization": "abc"})
    with override_settings(SECRET_KEY="old"):
        credential = credentials.credential_for(request, None)
    assert not credentials.shows_again(request, credential)
    with override_settings(SECRET_KEY_FALLBACKS=["old"]):
        assert credentials.shows_again(request, credential)


TENANTS = {"TENANT": "tests.site.tenants.of_header", "RULES": [{"when": "true", "queue": "bulk"}]}


def test_code_names_the_owner_of_its_dispatch(django_capture_on_commit_callbacks: Any) -> None:
    ann = User.objects.create_user("ann")
    given = {"queue": "bulk", "user": ann, "headers": {"X-Tenant": "a"}}
    with override_settings(REQUEST_BROKER=TENANTS):
        with pytest.raises(MessageError, match="tenant="):
            broker_django.dispatch("/echo/", **given)
        with django_capture_on_commit_callbacks(execute=True):
            right, wrong = (broker_django.dispatch("/echo/", tenant=name, **given) for name in "ab")
    right, wrong = (DispatchRecord.objects.get(pk=each.id) for each in (right, wrong))
    assert (right.state, right.tenant) == ("succeeded", "a")
    assert "another tenant than 'b'" in wrong.error


@pytest.mark.parametrize(
    ("before", "after"), [({}, {"TENANT": TENANTS["TENANT"]}), ({"TENANT": TENANTS["TENANT"]}, {})]
)
def test_dispatches_without_a_tenant_have_no_owner_once_tenants_are_configured(before: Any, after: Any) -> None:
    rules, fields = {"RULES": TENANTS["RULES"]}, {"X-Tenant": "a", "Idempotency-Key": "k"}
    client = ann()
    with override_settings(REQUEST_BROKER={**rules, **before}):
        links = client.post("/pay/", headers=fields).json()["links"]
        assert 404 not in exits(client, links, **{"X-Tenant": "a"})
    with override_settings(REQUEST_BROKER={**rules, **after}):
        assert exits(client, links, **{"X-Tenant": "a"}) == {404}
        client.post("/pay/", headers=fields)
    assert DispatchRecord.objects.count() == 2


def test_a_replay_for_another_tenant_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another tenant had got the host meanwhile."""
    tenants = iter("ab")
    monkeypatch.setattr("tests.site.tenants.of_header", lambda _request: next(tenants))
    ownership._tenant_function.cache_clear()
    with override_settings(REQUEST_BROKER=TENANTS):
        ann().post("/pay/", headers={"X-Tenant": "a"})
    ownership._tenant_function.cache_clear()
    record = DispatchRecord.objects.get()
    assert record.response_status != 201
    assert "another tenant than 'a'" in record.error


def refused_again() -> Client:
    """With the session of a password that was changed meanwhile."""
    client = logged_in("carl")
    User.objects.filter(username="carl").update(password=client.cookies["sessionid"].value)
    return client


def ended() -> Client:
    client = bob()
    client.session.delete()
    return client


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("asks", [Client, bob, ended, refused_again])
def test_another_owners_dispatch_looks_like_an_unknown_one(
    asks: Callable[[], Client], settings: Any, always: bool
) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST = always
    of_ann, of_a_key = send(ann()), send(Client(), Authorization="Bearer a")
    of_another_host, deleted = send(Client(SERVER_NAME="another.testserver")), send(Client())
    DispatchRecord.objects.latest("accepted_at").delete()
    never = {name: url.replace(url.split("/tasks/")[1].split("/")[0], "0" * 60) for name, url in of_ann.items()}
    for name in ("self", "response", "events", "cancel"):
        method = Client.delete if name == "cancel" else Client.get
        answers = []
        for links in (of_ann, of_a_key, of_another_host, deleted, never):
            answer = method(asks(), links[name])
            cookies = sorted((cookie.key, cookie["max-age"]) for cookie in answer.cookies.values())
            answers.append((answer.status_code, answer.content, sorted(answer.items()), cookies))
        assert answers == [answers[0]] * 5
        assert answers[0][0] == 404


def fails_elsewhere(request: HttpRequest) -> str:
    """A function that reads an attribute that only some middleware sets."""
    return str(request.headers["X-Tenant"])


def test_a_poll_without_a_known_tenant_finds_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ownership._log_once.cache_clear()
    with override_settings(REQUEST_BROKER={**TENANTS, "TENANT": f"{__name__}.fails_elsewhere"}):
        client = ann()
        links = send(client, **{"X-Tenant": "a"})
        assert exits(client, links) == {404}
        assert 404 not in exits(client, links, **{"X-Tenant": "a"})
    [logged] = [each for each in caplog.records if each.name == "broker_django.identity.ownership"]
    assert "fails_elsewhere' of REQUEST_BROKER['TENANT'] has failed: KeyError" in logged.getMessage()


def an_object(_request: HttpRequest) -> Any:
    return User(username="acme")


def test_a_tenant_must_be_a_name_and_not_an_object(caplog: pytest.LogCaptureFixture) -> None:
    """Its text may differ in each process, so no client would own the dispatch."""
    ownership._log_once.cache_clear()
    with override_settings(REQUEST_BROKER={**TENANTS, "TENANT": f"{__name__}.an_object"}):
        assert ann().post("/pay/").status_code >= 500
    assert "must return a string, a number or None, not a User" in caplog.text


def test_a_request_without_a_known_tenant_is_not_accepted() -> None:
    with override_settings(REQUEST_BROKER={**TENANTS, "TENANT": f"{__name__}.fails_elsewhere"}):
        refused = ann().post("/pay/")
        assert (refused.status_code, refused.json()["type"]) == (500, "urn:request-broker:problem:tenant-unknown")
        with pytest.raises(TenantUnknownError):
            broker_django.dispatch(RequestFactory().get("/echo/"), queue="bulk")
    assert not DispatchRecord.objects.exists()


def test_anonymous_users_of_several_sites_are_different() -> None:
    request, places = RequestFactory().get("/"), ({}, {"tenant": "b"}, {"host": "b.example"})
    of_user = {holding.guest(request, DispatchRecord(user="1", **place)).client for place in places}
    of_address = {holding.guest(request, DispatchRecord(**place)).client for place in places}
    assert (len(of_user), len(of_address)) == (3, 1)
