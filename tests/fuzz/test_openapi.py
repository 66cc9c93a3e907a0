"""The endpoints match the published OpenAPI document for any request that schemathesis sends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.wsgi import get_wsgi_application
from django.test import Client, override_settings
from django.utils import timezone
from django_celery_results.models import TaskResult
from hypothesis import strategies as st

from broker_core.dispatches import State
from broker_django.models import DispatchRecord
from broker_django.tracking import views
from tests.fuzz.examples import fuzz
from tests.servers import absent

try:
    import schemathesis
    from schemathesis import checks
    from schemathesis.specs.openapi import checks as openapi_checks
except ImportError:
    schemathesis = None

STATUS, RESPONSE, EVENTS = "/tasks/{token}/", "/tasks/{token}/response/", "/tasks/{token}/events/"
OF_DISPATCHES = [(STATUS, "GET"), (STATUS, "DELETE"), (RESPONSE, "GET"), (EVENTS, "GET")]
OF_THE_SITE = [("/health/", "GET"), ("/openapi.json", "GET")]

EXPECTED = {
    "queued": (200, 202, 202, 200),
    "running": (200, None, 202, 200),
    "succeeded": (200, 409, 201, 200),
    "failed": (200, 409, 500, 200),
    "lost": (200, 409, 410, 200),
    "dropped": (200, 409, 410, 200),
    "cancelled": (200, 202, 410, 200),
    "expired": (200, 409, 410, 200),
}
"""The statuses of the operations of `OF_DISPATCHES`; None if the queue's policy decides."""


def here(**options: Any) -> Client:
    """Returns a client with schemathesis' host, because a dispatch is found only on its own host."""
    return Client(SERVER_NAME="localhost", **options)


class Dispatches:
    """One dispatch in each state. Each is reset before a request."""

    def __init__(self, locations: dict[str, str]) -> None:
        self.tokens = {name: location.rstrip("/").rpartition("/")[2] for name, location in locations.items()}
        self._rows = {name: self._row(location) for name, location in locations.items()}

    def _row(self, location: str) -> dict[str, Any]:
        pk = here().get(location).json()["id"]
        return DispatchRecord.objects.values().get(pk=pk)

    def put_back(self, token: str) -> None:
        for name, known in self.tokens.items():
            if known == token:
                values = dict(self._rows[name])
                DispatchRecord.objects.filter(pk=values.pop("id")).update(**values)

    def stored_status(self, token: object) -> int | None:
        """Returns the status of the view, which may be any."""
        return next(
            (self._rows[name]["response_status"] for name, known in self.tokens.items() if known == token), None
        )


def _accept(path: str) -> str:
    response = here(raise_request_exception=False).post(path)
    assert response.status_code == 202
    return response["Location"]


def _change(location: str, **values: Any) -> str:
    DispatchRecord.objects.filter(pk=here().get(location).json()["id"]).update(**values)
    return location


@pytest.fixture
def dispatches(db: None, monkeypatch: pytest.MonkeyPatch) -> Dispatches:
    rules = [{"when": 'request.path == "/broken/"', "queue": "bulk"}]
    with override_settings(REQUEST_BROKER={"RULES": rules}):
        locations = {"succeeded": _accept("/pay/"), "failed": _accept("/broken/"), "dropped": _accept("/pay/")}
    TaskResult.objects.filter(task_id=here().get(locations["dropped"]).json()["id"]).delete()
    with monkeypatch.context() as patch:
        patch.setattr("broker_django.admission.handover.run_eagerly", lambda *_args, **_kwargs: None)
        waiting = {name: _accept("/pay/") for name in ("queued", "running", "lost", "cancelled", "expired")}
    now = timezone.now()
    _change(waiting["running"], state=State.RUNNING, attempts=1, started_at=now)
    _change(waiting["lost"], state=State.FAILED, attempts=1, started_at=now, finished_at=now, error="WorkerLostError")
    _change(waiting["expired"], expires_at=now - timedelta(seconds=1))
    here().delete(waiting["cancelled"])
    return Dispatches({**locations, **waiting})


@pytest.fixture
def schema(db: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    if schemathesis is None:
        absent("schemathesis is not installed")
    monkeypatch.setattr(views, "EVENTS_LIFETIME", 0.005)
    return schemathesis.openapi.from_wsgi("/broker/openapi.json", get_wsgi_application())


def conforms(case: Any, dispatches: Dispatches, **options: Any) -> int:
    """Send a request and check the response against the document. Returns its status."""
    token = case.path_parameters.get("token")
    dispatches.put_back(token)
    response = case.call(**options)
    asked = [
        openapi_checks.status_code_conformance,
        openapi_checks.content_type_conformance,
        openapi_checks.response_headers_conformance,
        openapi_checks.response_schema_conformance,
    ]
    if case.operation.path != RESPONSE or response.status_code != dispatches.stored_status(token):
        asked.append(checks.not_a_server_error)
    case.validate_response(response, checks=asked)
    return int(response.status_code)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_dispatch_in_each_state(schema: Any, dispatches: Dispatches, name: str) -> None:
    for (path, method), expected in zip(OF_DISPATCHES, EXPECTED[name], strict=True):
        case = schema[path][method].Case(path_parameters={"token": dispatches.tokens[name]})
        assert conforms(case, dispatches) in ({202, 409} if expected is None else {expected}), (path, method)


@pytest.mark.parametrize(("path", "method"), OF_DISPATCHES)
def test_missing_dispatches_and_forbidden_methods(schema: Any, dispatches: Dispatches, path: str, method: str) -> None:
    operation = schema[path][method]
    assert conforms(operation.Case(path_parameters={"token": "unknown"}), dispatches) == 404
    assert conforms(operation.Case(path_parameters={"token": "x"}, method="PUT"), dispatches) == 405
    assert conforms(operation.Case(path_parameters={"token": "x"}), dispatches, headers={"Host": "a b"}) == 400


@pytest.mark.parametrize(("path", "method"), OF_DISPATCHES)
@fuzz(data=st.data())
def test_operations_on_dispatches(
    schema: Any, dispatches: Dispatches, path: str, method: str, data: st.DataObject
) -> None:
    case = data.draw(schema[path][method].as_strategy())
    tokens = st.sampled_from(list(dispatches.tokens.values()))
    case.path_parameters["token"] = data.draw(st.just(case.path_parameters["token"]) | tokens)
    conforms(case, dispatches)


@pytest.mark.parametrize(("path", "method"), OF_THE_SITE)
@fuzz(data=st.data())
def test_operations_on_the_site(
    schema: Any, dispatches: Dispatches, path: str, method: str, data: st.DataObject
) -> None:
    assert conforms(data.draw(schema[path][method].as_strategy()), dispatches) == 200
