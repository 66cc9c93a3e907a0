from __future__ import annotations

import json
import uuid
from datetime import timedelta

import pytest
from celery import Celery, states
from django.db import InternalError, connection
from django.utils import timezone
from django_celery_results.models import GroupResult, TaskResult
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_core.dispatches import Outcome
from broker_core.message import ResponseMessage
from broker_core.policies import QueuePolicy
from broker_django.ledger import ledger, responses, results
from broker_django.messaging import celery_app
from broker_django.messaging.celery_app import get_app
from broker_django.messaging.sealing import seal_response
from broker_django.models import DispatchRecord
from broker_django.results import DatabaseBackend

pytestmark = pytest.mark.django_db

RESPONSE = ResponseMessage(201, "Created", (("X-A", "b"),), ("a=1",), b"\x00paid")
STATES = st.sampled_from([states.STARTED, states.RETRY, states.SUCCESS, states.FAILURE, states.REVOKED])


@pytest.fixture
def backend():
    return DatabaseBackend(app=get_app())


def store(backend, task_id, status, value):
    result = ValueError(value) if status in {states.FAILURE, states.RETRY, states.REVOKED} else {"value": value}
    backend.store_result(task_id, result, status, traceback="trace" if status == states.FAILURE else None)


def kept(dispatch_id, **result):
    get_app().backend.store_result(str(dispatch_id), result, states.SUCCESS)


def test_a_result_is_stored_and_found(backend):
    store(backend, "a", states.STARTED, 1)
    assert backend.get_task_meta("a")["status"] == states.STARTED
    assert TaskResult.objects.get(task_id="a").date_started
    store(backend, "a", states.SUCCESS, 2)
    assert backend.get_task_meta("a", cache=False)["result"] == {"value": 2}
    assert TaskResult.objects.get(task_id="a").date_started


@pytest.mark.parametrize("late", [states.STARTED, states.RETRY, states.SUCCESS, states.FAILURE])
@pytest.mark.parametrize("terminal", [states.SUCCESS, states.FAILURE])
def test_a_terminal_state_stays(backend, terminal, late):
    store(backend, "a", terminal, "first")
    before = TaskResult.objects.values().get(task_id="a")
    store(backend, "a", late, "late")
    assert TaskResult.objects.values().get(task_id="a") == before


@pytest.mark.parametrize("late", [states.STARTED, states.RETRY, states.SUCCESS, states.FAILURE])
def test_a_final_state_replaces_revoked(backend, late):
    """Any worker may store REVOKED, even while another worker runs the task."""
    store(backend, "a", states.REVOKED, "revoked")
    store(backend, "a", late, "late")
    assert backend.get_task_meta("a")["status"] == (late if late in results.ENDED else states.REVOKED)


@settings(max_examples=30)
@given(st.lists(STATES, min_size=1, max_size=6))
def test_in_any_order_the_first_final_state_stays(reported):
    backend, task_id = DatabaseBackend(app=get_app()), str(uuid.uuid4())
    for number, status in enumerate(reported):
        store(backend, task_id, status, number)
    ended = [status for status in reported if status in results.ENDED]
    revoked = [status for status in reported if status == states.REVOKED]
    assert TaskResult.objects.get(task_id=task_id).status == [*ended, *revoked, reported[-1]][0]


def test_a_store_is_one_statement_or_two(backend, django_assert_num_queries):
    with django_assert_num_queries(1):
        store(backend, "a", states.STARTED, 1)
    with django_assert_num_queries(2):
        store(backend, "a", states.SUCCESS, 1)


def test_expired_results_are_deleted_in_chunks(backend, monkeypatch, django_assert_max_num_queries):
    monkeypatch.setattr(results, "CHUNK", 4)
    backend.expires = timedelta(days=1)
    for number in range(13):
        TaskResult.objects.create(task_id=str(number))
        GroupResult.objects.create(group_id=str(number))
    long_ago = timezone.now() - timedelta(days=2)
    TaskResult.objects.exclude(task_id__in=["3", "12"]).update(date_done=long_ago)
    GroupResult.objects.exclude(group_id="5").update(date_done=long_ago)
    with django_assert_max_num_queries(60) as queries:
        backend.cleanup()
    assert set(TaskResult.objects.values_list("task_id", flat=True)) == {"3", "12"}
    assert set(GroupResult.objects.values_list("group_id", flat=True)) == {"5"}
    assert sum("DELETE" in query["sql"] for query in queries) == 6


def test_nothing_is_deleted_if_results_never_expire(backend):
    backend.expires = None
    TaskResult.objects.create(task_id="a")
    TaskResult.objects.update(date_done=timezone.now() - timedelta(days=999))
    backend.cleanup()
    assert TaskResult.objects.exists()


@pytest.fixture(params=["broker_django.results:DatabaseBackend", "django-db"])
def configured(request, own_app):
    """An app whose results are in the database, under either name of the backend."""
    app = Celery("results", backend=request.param, set_as_current=False)
    celery_app.use(app)
    return app


def running(now):
    fields = {"queue": "bulk", "method": "GET", "path": "/", "route": "/", "sealed": b"sealed"}
    return DispatchRecord.objects.create(
        **fields, state="running", attempts=1, accepted_at=now, started_at=now, due_at=now
    )


POLICY = QueuePolicy()
OUTCOME = Outcome(201, "text/plain", 5)


def test_outcome_and_response_are_recorded_together(configured, django_assert_max_num_queries):
    record = running(timezone.now())
    sealed = seal_response(RESPONSE, str(record.pk), 1)
    with django_assert_max_num_queries(4):  # a savepoint, an UPDATE and an INSERT
        assert ledger.conclude(record.pk, 1, POLICY, OUTCOME, sealed)
    record.refresh_from_db()
    assert (record.state, responses.fetch(record)) == ("succeeded", RESPONSE)
    assert configured.AsyncResult(str(record.pk)).get(timeout=1)["status"] == 201


def test_no_outcome_is_recorded_if_the_response_cannot_be_stored(configured, monkeypatch):
    record = running(timezone.now())

    def refuse(execute, sql, *args):
        if "celery_results" in sql:
            raise InternalError("cannot execute INSERT in a read-only transaction")
        return execute(sql, *args)

    with connection.execute_wrapper(refuse), pytest.raises(InternalError):
        ledger.conclude(record.pk, 1, POLICY, OUTCOME, seal_response(RESPONSE, str(record.pk), 1))
    record.refresh_from_db()
    assert (record.state, TaskResult.objects.count()) == ("running", 0)


def test_a_stored_response_is_fetched():
    dispatch_id = uuid.uuid4()
    assert responses.fetch(DispatchRecord(pk=dispatch_id)) is None
    kept(dispatch_id, sealed=seal_response(RESPONSE, str(dispatch_id), 0))
    assert responses.fetch(DispatchRecord(pk=dispatch_id)) == RESPONSE


def test_the_response_of_another_dispatch_is_refused(caplog):
    one, other = uuid.uuid4(), uuid.uuid4()
    kept(one, sealed=seal_response(RESPONSE, str(other), 0))
    assert responses.fetch(DispatchRecord(pk=one)) is None
    assert str(one) in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"sealed": "bm90IHNlYWxlZA=="}),
        json.dumps({"sealed": "é"}),
        json.dumps({"sealed": 7}),
        json.dumps(["sealed"]),
        "null",
        "{ not JSON",
        "",
    ],
)
def test_a_stored_response_that_was_tampered_with_is_refused(text):
    dispatch_id = uuid.uuid4()
    kept(dispatch_id, sealed=seal_response(RESPONSE, str(dispatch_id), 0))
    TaskResult.objects.update(result=text)
    assert responses.fetch(DispatchRecord(pk=dispatch_id)) is None


@pytest.mark.parametrize(
    ("content_type", "text"),
    [("application/x-python-serialize", "gASVBQAAAAAAAACMAXiULg=="), ("application/unheard-of", "x")],
)
def test_a_stored_response_of_another_type_is_refused(content_type, text):
    dispatch_id = uuid.uuid4()
    kept(dispatch_id, sealed=seal_response(RESPONSE, str(dispatch_id), 0))
    TaskResult.objects.update(content_type=content_type, result=text)
    assert responses.fetch(DispatchRecord(pk=dispatch_id)) is None
