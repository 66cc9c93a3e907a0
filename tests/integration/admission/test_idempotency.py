"""Requests with an Idempotency-Key."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.files.storage import storages
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import OperationalError, transaction
from django.test import AsyncClient, Client, override_settings
from django.utils import timezone
from rest_framework.authtoken.models import Token

from broker_core.errors import ReducedCapacityError
from broker_django.admission import capacity
from broker_django.ledger import ledger
from broker_django.ledger.retention import keep_house
from broker_django.messaging.celery_app import get_app
from broker_django.models import DispatchRecord
from tests.site.models import Execution

if TYPE_CHECKING:
    from broker_core.dispatches import Dispatch, SealedRequest

KEY = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
EVERYTHING = {"RULES": [{"when": "true", "queue": "bulk"}]}


def pay(client: Client, amount: str = "5", **headers: str) -> Any:
    return client.post("/pay/", {"amount": amount}, headers={**KEY, **headers})


def refused(response: Any, status: int, slug: str) -> None:
    assert (response.status_code, response["Content-Type"]) == (status, "application/problem+json")
    assert response.json()["type"] == f"urn:request-broker:problem:{slug}"


def ids() -> list[str]:
    return [str(pk) for pk in DispatchRecord.objects.order_by("accepted_at").values_list("pk", flat=True)]


# The same request again


def test_a_repetition_gets_the_stored_response(client: Client) -> None:
    first = pay(client)
    again = pay(client)
    assert (first.status_code, again.status_code) == (202, 201)
    stored = client.get(first.json()["links"]["response"])
    assert (again.content, {**again.headers, "Cache-Control": "private, no-store"}) == (stored.content, stored.headers)
    assert ids() == [first.json()["id"]]
    assert Execution.objects.count() == 1


def test_it_works_under_asgi(async_client: AsyncClient) -> None:
    post = async_to_sync(async_client.post)
    first, again = (post("/pay/", {"amount": "5"}, headers=KEY) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 201)
    assert again.json()["broker"]["id"] == first.json()["id"]
    assert Execution.objects.count() == 1


def test_a_key_without_quotes_is_the_same_key(client: Client) -> None:
    pay(client)
    assert pay(client, **{"Idempotency-Key": KEY["Idempotency-Key"].strip('"')}).status_code == 201


def test_a_failed_dispatch_is_not_run_again(client: Client) -> None:
    client.raise_request_exception = False
    with override_settings(REQUEST_BROKER=EVERYTHING):
        first = client.put("/broken/", headers=KEY)
        assert first.status_code == 202
        assert client.put("/broken/", headers=KEY).status_code == 500
    assert ids() == [first.json()["id"]]


def test_a_repetition_of_a_waiting_request_gets_the_same_202_and_publishes_nothing(
    client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    app = get_app()
    app.conf.task_always_eager = False
    try:
        with django_capture_on_commit_callbacks() as callbacks:
            first, again = pay(client), pay(client)
    finally:
        app.conf.task_always_eager = True
    assert len(callbacks) == 2, "one event and one publication"
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    for name in ("Location", "Retry-After", "Cache-Control"):
        assert again[name] == first[name]


def test_a_repetition_of_a_running_request_is_a_409_with_the_status(client: Client) -> None:
    first = pay(client)
    DispatchRecord.objects.update(state="running", finished_at=None, response_status=None)
    again = pay(client)
    refused(again, 409, "idempotency-key-in-flight")
    assert (again["Location"], again["Retry-After"]) == (first["Location"], "1")
    assert client.get(again["Location"]).json()["state"] == "running"


@pytest.mark.parametrize("state", ["cancelled", "expired", "failed"])
def test_a_repetition_of_a_request_without_a_response_gets_its_status(client: Client, state: str) -> None:
    first = pay(client)
    DispatchRecord.objects.update(state=state, response_status=None)
    again = pay(client)
    assert (again.status_code, again["Location"]) == (202, first["Location"])
    assert (again.json()["state"], again.json()["done"]) == (state, True)
    assert "Retry-After" not in again
    assert Execution.objects.count() == 1


def test_a_repetition_whose_response_was_dropped_gets_its_status(client: Client) -> None:
    first = pay(client)
    DispatchRecord.objects.update(finished_at=timezone.now() - timedelta(days=2))
    again = pay(client)
    assert (again.status_code, again["Location"], again.json()["done"]) == (202, first["Location"], True)


def test_a_repetition_expires_an_outdated_dispatch(client: Client) -> None:
    pay(client)
    past = timezone.now() - timedelta(seconds=1)
    DispatchRecord.objects.update(state="queued", response_status=None, expires_at=past)
    assert pay(client).json()["state"] == "expired"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_repetition_may_wait_as_the_first_could(
    client: Client, async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    post = async_to_sync(async_client.post) if asynchronous else client.post
    post("/pay/", {"amount": "5"}, headers=KEY)
    find, looks = ledger.find, []
    DispatchRecord.objects.update(state="queued", published_at=None)

    def look(dispatch_id: Any) -> Dispatch | None:
        if looks:
            DispatchRecord.objects.update(state="succeeded")
        looks.append(dispatch_id)
        return find(dispatch_id)

    monkeypatch.setattr(ledger, "find", look)
    assert post("/pay/", {"amount": "5"}, headers={**KEY, "Prefer": "wait=20"}).status_code == 201
    assert len(looks) == 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_repetition_within_a_transaction_is_not_held(
    client: Client, async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    """Neither is the first request: its dispatch may be published only at the end of that transaction."""
    post = async_to_sync(async_client.post) if asynchronous else client.post
    looks: list[Any] = []
    monkeypatch.setattr(ledger, "find", looks.append)
    app = get_app()
    app.conf.task_always_eager = False
    try:
        with transaction.atomic():
            answers = [post("/pay/", {"amount": "5"}, headers={**KEY, "Prefer": "wait=2"}) for _ in range(2)]
    finally:
        app.conf.task_always_eager = True
    assert [answer.status_code for answer in answers] == [202, 202]
    assert not any("wait" in answer.get("Preference-Applied", "") for answer in answers)
    assert looks == []


def test_after_its_wait_a_repetition_gets_the_current_state(client: Client) -> None:
    pay(client)
    DispatchRecord.objects.update(state="running", response_status=None)
    with override_settings(REQUEST_BROKER={"MAX_WAIT": 0.05}):
        refused(pay(client, Prefer="wait=20"), 409, "idempotency-key-in-flight")


def test_a_held_client_gets_the_same_response_first_and_again(client: Client) -> None:
    first, again = pay(client, Prefer="wait=5"), pay(client, Prefer="wait=5")
    assert (first.status_code, again.status_code) == (201, 201)
    assert (again.content, again.headers) == (first.content, first.headers)


def test_a_repetition_does_not_break_an_outer_transaction(client: Client) -> None:
    with transaction.atomic():
        pay(client)
        pay(client)
        assert DispatchRecord.objects.count() == 1


# Another request


@pytest.mark.parametrize(
    ("method", "path", "data", "content_type"),
    [
        ("POST", "/pay/", "b", "text/plain"),
        ("POST", "/pay/?again", "a", "text/plain"),
        ("POST", "/pay/", "a", "text/csv"),
        ("PUT", "/pay/", "a", "text/plain"),
    ],
)
@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
def test_another_request_is_refused(
    client: Client, state: str, method: str, path: str, data: str, content_type: str
) -> None:
    client.post("/pay/", "a", content_type="text/plain", headers=KEY)
    DispatchRecord.objects.update(state=state)
    response = client.generic(method, path, data, content_type, headers={**KEY, "Prefer": "wait=20"})
    refused(response, 422, "idempotency-key-reused")
    assert "Location" not in response
    assert DispatchRecord.objects.count() == 1


def test_a_form_is_the_same_with_another_boundary(client: Client) -> None:
    def upload(boundary: str, content: bytes) -> Any:
        body = f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'.encode()
        body += content + f"\r\n--{boundary}--\r\n".encode()
        return client.post("/pay/", body, content_type=f"multipart/form-data; boundary={boundary}", headers=KEY)

    assert upload("one", b"x").status_code == 202
    assert upload("another", b"x").status_code == 201
    refused(upload("one", b"y"), 422, "idempotency-key-reused")


def test_an_upload_may_be_repeated(client: Client) -> None:
    for status in (202, 201):
        data = {"file": SimpleUploadedFile("a", b"content")}
        assert client.post("/pay/", data, headers=KEY).status_code == status


def test_another_route_and_another_key_are_another_dispatch(client: Client) -> None:
    with override_settings(REQUEST_BROKER=EVERYTHING):
        answers = [pay(client), client.post("/body/", {"amount": "5"}, headers=KEY)]
    answers.append(client.post("/pay/", {"amount": "5"}, headers={"Idempotency-Key": '"another"'}))
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert len(set(ids())) == 3


def test_two_urls_of_a_route_share_its_keys(client: Client) -> None:
    with override_settings(REQUEST_BROKER=EVERYTHING):
        assert client.post("/echo/a/", headers=KEY).status_code == 202
        refused(client.post("/echo/b/", headers=KEY), 422, "idempotency-key-reused")


# Whose key it is


def test_each_user_has_keys_of_their_own(client: Client) -> None:
    other = Client()
    client.force_login(User.objects.create_user("ann"))
    other.force_login(User.objects.create_user("bob"))
    answers = [pay(client, "5"), pay(other, "7"), pay(Client(), "9")]
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert pay(client, "5").json()["paid"] == "5"
    assert pay(other, "7").json()["paid"] == "7"
    refused(pay(other, "5"), 422, "idempotency-key-reused")


def test_a_user_has_the_same_keys_in_each_session(client: Client) -> None:
    user, other = User.objects.create_user("ann"), Client()
    client.force_login(user)
    other.force_login(user)
    pay(client)
    assert pay(other).status_code == 201
    assert DispatchRecord.objects.count() == 1


def test_anonymous_clients_are_distinguished_by_their_credentials() -> None:
    answers = [pay(Client(), Authorization=credential) for credential in ("Basic YTpi", "Basic Yzpk")]
    assert [answer.status_code for answer in answers] == [202, 202]
    sessions = [Client(), Client()]
    for one in sessions:
        session = one.session
        session["visited"] = True
        session.save()
    assert [pay(one).status_code for one in sessions] == [202, 202]
    assert [pay(one).status_code for one in sessions] == [201, 201]
    assert DispatchRecord.objects.count() == 4


def test_an_anonymous_client_that_lost_its_answer_may_repeat_without_the_cookie_it_had() -> None:
    with override_settings(MIDDLEWARE=begins_a_session()):
        first, again = pay(Client()), pay(Client())
    assert settings.SESSION_COOKIE_NAME in first.cookies
    assert (first.status_code, again.status_code) == (202, 201)


def begins_a_session() -> list[str]:
    return [*settings.MIDDLEWARE[:-1], "tests.integration.middleware.BeginsSession", settings.MIDDLEWARE[-1]]


def test_the_user_whom_the_view_authenticates_is_the_scope(client: Client) -> None:
    def post(name: str) -> Any:
        return client.post("/rest/", {"a": "1"}, headers={**KEY, "Authorization": f"Token {tokens[name]}"})

    cache.clear()  # which has what throttles have counted
    tokens = {name: Token.objects.create(user=User.objects.create_user(name)).key for name in ("ann", "bob")}
    assert [post(name).status_code for name in ("ann", "bob")] == [202, 202]
    assert post("ann").json()["user"] == "ann"
    assert client.post("/rest/", {"a": "1"}, headers=KEY).status_code == 401


# Sessions


@pytest.mark.parametrize("save_every_request", [False, True])
def test_a_repeated_login_is_one_login_and_its_cookies_are_for_the_browser_that_sent_it(
    client: Client, save_every_request: bool
) -> None:
    User.objects.create_user("ann", password="secret")
    form, queued = {"username": "ann", "password": "secret"}, {"REQUEST_BROKER": EVERYTHING}
    name = settings.SESSION_COOKIE_NAME
    session = client.session
    session["cart"] = [1]
    session.save()
    client.cookies[name] = before = session.session_key
    with override_settings(**queued, SESSION_SAVE_EVERY_REQUEST=save_every_request):
        first = client.post("/log-in/", form, headers={**KEY, "Prefer": "wait=5"})
        renewed = first.cookies[name].value
        client.cookies[name] = before
        again = client.post("/log-in/", form, headers=KEY)
    assert again.content == b"in"
    assert again.cookies[name].value == renewed != before
    assert client.get("/echo/").json()["user"] == "ann"


def test_a_repeated_login_of_an_unknown_client_gets_no_cookies(client: Client) -> None:
    User.objects.create_user("ann", password="secret")
    form = {"username": "ann", "password": "secret"}
    with override_settings(REQUEST_BROKER=EVERYTHING):
        first = client.post("/log-in/", form, headers={**KEY, "Prefer": "wait=5"})
        again = [Client().post("/log-in/", form, headers=KEY) for _ in range(2)]
        guess = Client().post("/log-in/", {**form, "password": "guess"}, headers=KEY)
    assert settings.SESSION_COOKIE_NAME in first.cookies
    assert [answer.content for answer in again] == [b"in", b"in"]
    assert not any(answer.cookies for answer in again)
    refused(guess, 422, "idempotency-key-reused")
    assert not guess.cookies


def test_a_repetition_does_not_change_the_session(client: Client) -> None:
    client.force_login(User.objects.create_user("ann"))
    with override_settings(REQUEST_BROKER=EVERYTHING):
        counted = [client.post("/count/", headers={**KEY, "Prefer": "wait=5"}).content for _ in range(3)]
    assert counted == [b"1", b"1", b"1"]
    assert client.get("/count/").content == b"2"


# Required, malformed, left alone


def test_a_view_may_require_a_key(client: Client) -> None:
    refused(client.post("/charge/"), 400, "idempotency-key-missing")
    assert not DispatchRecord.objects.exists()
    assert client.post("/charge/", headers=KEY).status_code == 202
    assert client.get("/charge/").status_code == 202


def test_a_queue_may_require_a_key(client: Client) -> None:
    required = {"QUEUES": {"payment": {"require_idempotency_key": True}}}
    with override_settings(REQUEST_BROKER=required):
        refused(client.post("/pay/"), 400, "idempotency-key-missing")
        assert pay(client).status_code == 202
        assert client.get("/pay/").status_code == 202
        assert client.post("/preferably/").status_code == 200
        refused(client.post("/preferably/", headers={"Prefer": "respond-async"}), 400, "idempotency-key-missing")
        assert client.post("/by-handler/").status_code == 202


@pytest.mark.parametrize("field", ["", '""', "two words", '"open', "k" * 256, '"a","b"', "ä"])
def test_a_malformed_key_is_refused(client: Client, field: str) -> None:
    refused(client.post("/pay/", headers={"Idempotency-Key": field}), 400, "invalid-idempotency-key")
    assert not DispatchRecord.objects.exists()


@pytest.mark.parametrize(("method", "path"), [("get", "/report/2020/"), ("get", "/pay/"), ("options", "/pay/")])
def test_safe_methods_ignore_the_key(client: Client, method: str, path: str) -> None:
    for key in ("a", "a", ""):
        assert getattr(client, method)(path, headers={"Idempotency-Key": key}).status_code == 202
    assert DispatchRecord.objects.filter(idempotency_key=None, fingerprint="").count() == 3


def test_views_that_run_now_are_left_alone(client: Client) -> None:
    for path in ("/immediately/", "/preferably/", "/echo/"):
        for key in ("a", "a", ""):
            assert client.post(path, headers={"Idempotency-Key": key}).status_code == 200


def test_a_request_with_a_key_is_not_run_unrecorded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request: SealedRequest) -> Any:
        raise OperationalError("database is locked")

    monkeypatch.setattr(ledger, "accept", fail)
    with override_settings(REQUEST_BROKER={"QUEUES": {"payment": {"on_outage": "run_now"}}}):
        assert client.post("/pay/").status_code == 201
        refused(pay(client), 503, "unavailable")


def test_a_queue_that_is_full_still_answers_repetitions(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(queue: str) -> None:
        raise ReducedCapacityError(f"the queue {queue} is full", 7)

    pay(client)
    monkeypatch.setattr(capacity.gauges, "check", refuse)
    assert pay(client).status_code == 201
    refused(pay(client, "6"), 422, "idempotency-key-reused")
    for headers in ({}, {"Idempotency-Key": "another"}):
        response = client.post("/pay/", {"amount": "5"}, headers=headers)
        assert (response.status_code, response["Retry-After"]) == (503, "7")
    assert DispatchRecord.objects.count() == 1


def test_a_repetition_leaves_no_file_of_its_large_body(client: Client) -> None:
    memory = {"default": {"BACKEND": "django.core.files.storage.InMemoryStorage"}}
    with override_settings(REQUEST_BROKER={"MAX_INLINE_SIZE": 100}, STORAGES={**settings.STORAGES, **memory}):
        first = pay(client).json()
        DispatchRecord.objects.update(state="running")
        refused(pay(client), 409, "idempotency-key-in-flight")
        (left,) = storages["default"].listdir("request_broker")[1]  # no test commits
        assert left.startswith(first["id"])


def test_a_key_is_free_again_when_the_ledger_forgets_its_dispatch(client: Client) -> None:
    pay(client, "5")
    DispatchRecord.objects.update(accepted_at=timezone.now() - timedelta(days=8), finished_at=timezone.now())
    list(keep_house())
    refused(pay(client, "6"), 422, "idempotency-key-reused")
    DispatchRecord.objects.update(finished_at=timezone.now() - timedelta(days=8))
    list(keep_house())
    assert pay(client, "6").status_code == 202


def test_a_dispatch_that_is_deleted_meanwhile_frees_its_key(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(idempotency_key: str) -> None:
        DispatchRecord.objects.all().delete()

    pay(client)
    before = ids()
    monkeypatch.setattr(ledger, "find_by_key", gone)
    assert pay(client).status_code == 202
    assert len(ids()) == 1 and ids() != before


def test_requests_without_a_key_cost_no_query_more(client: Client, django_assert_num_queries: Any) -> None:
    app = get_app()
    app.conf.task_always_eager = False
    try:
        with django_assert_num_queries(1):
            client.post("/pay/")
        with django_assert_num_queries(1):
            pay(client)
        with django_assert_num_queries(2):
            pay(client)
    finally:
        app.conf.task_always_eager = True


def test_the_key_itself_is_not_stored(client: Client) -> None:
    pay(client)
    record = DispatchRecord.objects.get()
    assert len(record.idempotency_key or "") == len(record.fingerprint) == 64
    values = [str(getattr(record, field.attname)) for field in record._meta.concrete_fields]
    assert not any("8e03978e" in value for value in values)
