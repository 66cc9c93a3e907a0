"""The examples of docs/how-to/dispatch-from-code.md run."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import redirect
from django.urls import include, path

from broker_django.ledger import responses
from broker_django.models import DispatchRecord

if TYPE_CHECKING:
    from django.test import Client
    from pytest_django.fixtures import DjangoCaptureOnCommitCallbacks, SettingsWrapper

DOCUMENT = Path(__file__).parents[3] / "docs" / "how-to" / "dispatch-from-code.md"
EXAMPLES = [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)]


def seen(request: HttpRequest) -> JsonResponse:
    """Protected against CSRF, as views are."""
    files = {name: file.read().decode() for name, file in request.FILES.items()}
    form = request.content_type == "multipart/form-data"
    body = "" if form else request.body.decode()
    asked = {"query": request.GET.dict(), "post": request.POST.dict(), "files": files, "body": body}
    return JsonResponse({**asked, "user": request.user.username, "language": request.LANGUAGE_CODE})


@pytest.fixture
def namespace(settings: SettingsWrapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Returns the names that the examples use without defining them."""
    settings.ALLOWED_HOSTS = ["example.org", "testserver"]
    settings.SECURE_SSL_REDIRECT = True

    def import_view(request: HttpRequest) -> Any:
        return found["import_file"](request)

    urls = ModuleType("documented")
    urls.urlpatterns = [  # type: ignore[attr-defined]
        path("broker/", include("broker_django.urls")),
        path("reports/", seen),
        path("imports/", seen),
        path("import/", import_view),
    ]
    settings.ROOT_URLCONF = urls
    (tmp_path / "sales.csv").write_text("1;2")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {
        "user": User.objects.create_user("ada"),
        "JsonResponse": JsonResponse,
        "redirect": redirect,
        "transaction": transaction,
        "do_import": lambda file: {"imported": file.read().decode()},
        "Upload": SimpleNamespace(objects=SimpleNamespace(create=lambda dispatch: dispatch)),
    }
    exec("import broker_django", found)
    return found


def answers() -> list[dict[str, Any]]:
    found = []
    for record in DispatchRecord.objects.order_by("accepted_at"):
        assert (record.state, record.response_status) == ("succeeded", 200), (record.response_status, record.error)
        response = responses.fetch(record)
        assert response is not None
        found.append(json.loads(response.body))
    return found


def test_every_example_runs(
    namespace: dict[str, Any], django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks, client: Client
) -> None:
    assert len(EXAMPLES) == 4
    with django_capture_on_commit_callbacks(execute=True):
        for example in EXAMPLES:
            exec(example, namespace)
    report, uploaded, asked, absolute, message = answers()
    assert (report["body"], report["user"]) == ('{"month": "2026-10"}', "ada")
    assert (uploaded["post"], uploaded["files"], uploaded["user"]) == ({"year": "2026"}, {"file": "1;2"}, "ada")
    assert (asked["query"], asked["language"], asked["user"]) == ({"month": "2026-10"}, "de", "")
    assert absolute["query"] == {"month": "2026-10"}
    assert (message["body"], message["user"]) == ('{"month": "2026-10"}', "ada")


def test_the_view_of_the_example_hands_its_request_over(
    namespace: dict[str, Any], django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks, client: Client
) -> None:
    for example in EXAMPLES:
        if "def import_file" in example:
            exec(example, namespace)
    client.force_login(namespace["user"])
    with django_capture_on_commit_callbacks(execute=True):
        sent = client.post("/import/", {"file": SimpleUploadedFile("sales.csv", b"1;2")}, secure=True)
    status = client.get(sent["Location"], secure=True).json()
    assert status["state"] == "succeeded"
    assert client.get(status["links"]["response"], secure=True).json() == {"imported": "1;2"}
