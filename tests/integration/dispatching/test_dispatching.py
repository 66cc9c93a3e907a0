"""Dispatches made by code, inside and outside of transactions."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import connection, transaction
from django.test import RequestFactory

import broker_django
from broker_core.errors import BodyTooLargeError, ConfigurationError, MessageError, UnavailableError
from broker_core.message import RequestMessage
from broker_django.conf import conf
from broker_django.context import REPLAY_KEY, Replay
from broker_django.ledger import ledger
from broker_django.messaging.sealing import open_request
from broker_django.models import DispatchRecord
from tests.site.models import Execution

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.test import Client
    from pytest_django.fixtures import DjangoCaptureOnCommitCallbacks, SettingsWrapper

    from broker_core.dispatches import Dispatch


@pytest.fixture
def request_(db: None) -> HttpRequest:
    request = RequestFactory().post(
        "/pay/?a=b", {"amount": "7"}, headers={"Traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    )
    request.user = User.objects.create_user("ada")
    return request


def message_of(dispatch: Dispatch) -> RequestMessage:
    sealed = ledger.sealed(dispatch.id)
    assert sealed is not None
    return RequestMessage.decode(open_request(sealed.content, str(dispatch.id), dispatch.queue))


def test_a_request_is_recorded_as_it_is(request_: HttpRequest, settings: SettingsWrapper) -> None:
    settings.REQUEST_BROKER = {"QUEUES": {"bulk": {"expires": 60}}}
    record = broker_django.dispatch(request_, queue="bulk")
    message = message_of(record)
    assert (message.method, message.environ["PATH_INFO"], message.environ["QUERY_STRING"]) == ("POST", "/pay/", "a=b")
    assert message.user == record.user == str(request_.user.pk)
    assert b'name="amount"' in message.body
    assert (record.queue, record.reason, record.trace_id, record.state) == ("bulk", "code", "ab" * 16, "queued")
    assert record.expires_at is not None
    assert (record.expires_at - record.accepted_at).total_seconds() == 60


def test_a_message_is_dispatched_too_and_runs_when_it_is_committed(
    db: None, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    ada = User.objects.create_user("ada")
    message = RequestMessage(
        {"REQUEST_METHOD": "POST", "PATH_INFO": "/pay/", "SERVER_NAME": "testserver"}, user=str(ada.pk)
    )
    with django_capture_on_commit_callbacks(execute=True):
        record = broker_django.dispatch(message, queue="payment")
        assert DispatchRecord.objects.get().state == "queued", "its id is known at once"
    found = ledger.find(record.id)
    assert found is not None
    assert (found.state, found.route, found.response_status) == ("succeeded", "/pay/", 201)
    assert Execution.objects.get().dispatch == str(found.id)


def test_a_dispatch_of_a_rolled_back_transaction_does_not_exist(
    request_: HttpRequest, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with (
        django_capture_on_commit_callbacks(execute=True) as callbacks,
        pytest.raises(RuntimeError),
        transaction.atomic(),
    ):
        broker_django.dispatch(request_, queue="bulk")
        raise RuntimeError
    assert not DispatchRecord.objects.exists()
    assert callbacks == []


def test_only_the_owner_can_follow_it(request_: HttpRequest, client: Client) -> None:
    record = broker_django.dispatch(request_, queue="bulk")
    url = broker_django.status_url(request_, record)
    assert client.get(url).status_code == 404
    client.force_login(request_.user)  # type: ignore[arg-type]
    assert client.get(url).json()["id"] == str(record.id)


def test_requests_that_cannot_be_dispatched_are_refused(request_: HttpRequest, settings: SettingsWrapper) -> None:
    with pytest.raises(ConfigurationError, match="no queue 'fast'"):
        broker_django.dispatch(request_, queue="fast")
    settings.REQUEST_BROKER = {"MAX_BODY_SIZE": 10}
    with pytest.raises(BodyTooLargeError):
        broker_django.dispatch(request_, queue="bulk")
    with pytest.raises(BodyTooLargeError):
        broker_django.dispatch(RequestMessage({"REQUEST_METHOD": "POST", "PATH_INFO": "/"}, b"x" * 11), queue="bulk")
    settings.REQUEST_BROKER = {}
    streamed = RequestFactory().post("/pay/", {"amount": "7"})
    streamed.user = AnonymousUser()
    streamed.read()
    with pytest.raises(MessageError, match="already read"):
        broker_django.dispatch(streamed, queue="bulk")
    with pytest.raises(MessageError, match="needs REQUEST_METHOD"):
        broker_django.dispatch(RequestMessage({}), queue="bulk")
    replayed = RequestFactory().post("/pay/")
    replayed.META[REPLAY_KEY] = Replay(uuid.uuid4(), "bulk", 1, None)
    with pytest.raises(MessageError, match="forever"):
        broker_django.dispatch(replayed, queue="bulk")
    assert not DispatchRecord.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_ledger_that_cannot_be_written_is_an_error(request_: HttpRequest) -> None:
    def refuse(_execute: Any, _sql: str, _params: Any, _many: bool, _context: Any) -> Any:
        from django.db import OperationalError

        raise OperationalError("the disk is full")

    with connection.execute_wrapper(refuse), pytest.raises(UnavailableError):
        broker_django.dispatch(request_, queue="bulk")
    assert conf.queues
