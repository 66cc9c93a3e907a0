"""The DISPATCHER of docs/how-to/route-requests.md decides what the page says."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client, override_settings

from broker_django.dispatcher import Dispatcher
from tests import documents
from tests.documents import ROOT

PAGE = ROOT / "docs" / "how-to" / "route-requests.md"


class Faulty(Dispatcher):
    def classify(self, request, view):
        raise RuntimeError("the dispatcher of the project")


@pytest.fixture
def documented(monkeypatch):
    [code] = [block.code for block in documents.blocks(PAGE) if block.code.startswith("# mysite/dispatching.py")]
    module = ModuleType("documented_dispatching")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    rules = [{"when": 'request.path == "/echo/" && request.query["by"] == "rule"', "queue": "realtime"}]
    with override_settings(
        REQUEST_BROKER={"DISPATCHER": f"{module.__name__}.LargeUploads", "RULES": rules, "MAX_INLINE_SIZE": 10_000_000}
    ):
        yield


def upload(client, size, path="/echo/"):
    return client.post(path, {"file": SimpleUploadedFile("sales.csv", b"1" * size)})


@pytest.mark.usefixtures("documented")
def test_large_uploads_are_queued_and_all_else_is_decided_as_usual(client):
    assert upload(client, 5_000_001).json()["queue"] == "bulk"
    assert upload(client, 1_000).status_code == 200
    assert upload(client, 1_000, "/echo/?by=rule").json()["queue"] == "realtime"
    assert client.post("/echo/", b"1" * 5_000_001, content_type="text/csv").status_code == 200
    assert client.post("/pay/").json()["queue"] == "payment"


def test_a_dispatcher_that_raises_is_a_500():
    client = Client(raise_request_exception=False)
    with override_settings(REQUEST_BROKER={"DISPATCHER": f"{__name__}.Faulty"}):
        assert client.get("/echo/").status_code == 500
