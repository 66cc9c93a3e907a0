"""Start, migrate, check, queue, replay and poll in this process. The exit status shows any error."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.db import close_old_connections, connection
from django.test import AsyncClient, Client

import broker_django
import workers
from broker_django.models import DispatchRecord
from broker_django.results import DatabaseBackend
from workers.celery import app

if TYPE_CHECKING:
    from collections.abc import Callable

CONTRIB = ("admin", "auth", "contenttypes", "messages", "sessions")


def imported() -> list[str]:
    """Returns imported modules of apps that the project neither installs nor uses."""
    return sorted(
        name
        for absent in CONTRIB
        if not apps.is_installed(f"django.contrib.{absent}") and absent not in os.environ.get("USES", "").split()
        for name in sys.modules
        if name == f"django.contrib.{absent}" or name.startswith(f"django.contrib.{absent}.")
    )


def import_all() -> None:
    """Import every module, as a worker or a command might, except those that Django loads with their app."""
    for package in (broker_django, workers):
        root = Path(package.__path__[0])
        for file in root.rglob("*.py"):
            name = ".".join((package.__name__, *file.relative_to(root).with_suffix("").parts))
            if not name.startswith(("broker_django.admin", "broker_django.development.static_files")):
                importlib.import_module(name.removesuffix(".__init__"))


def output_of(*command: str) -> str:
    out = io.StringIO()
    call_command(*command, stdout=out, stderr=out)
    return out.getvalue()


def send(client: Any, method: str, url: str, headers: dict[str, Any]) -> Any:
    headers = dict(headers)
    data = {"file": SimpleUploadedFile("a.csv", headers.pop("file"))} if "file" in headers else {}
    return getattr(client, method.lower())(url, data, headers=headers)


def requests(send: Callable[..., Any]) -> None:
    user = {"X-User": os.environ["AS_USER"]} if "AS_USER" in os.environ else {}
    accepted = send("POST", "/queued/", user)
    assert accepted.status_code == 202, accepted.content
    links = json.loads(accepted.content)["links"]
    record = DispatchRecord.objects.order_by("-accepted_at").first()
    assert (record.state, record.user) == ("succeeded", os.environ.get("OWNER", "")), (record.error, record.user)
    answer = send("GET", links["response"], user)
    assert answer.status_code == 200 and json.loads(answer.content)["replayed"], answer.content
    assert json.loads(answer.content)["user"] == os.environ.get("OWNER", "None")
    assert send("GET", links["self"], {}).status_code == (404 if record.user else 200)
    assert send("DELETE", links["self"], user).status_code == 409
    assert json.loads(send("POST", "/held/", user).content)["replayed"]
    assert json.loads(send("POST", "/held/", {**user, "file": b"1234"}).content)["files"] == [4]
    assert send("GET", "/by-rule/", {}).status_code == 202
    assert send("GET", "/broker/health/", {}).status_code == 200


def main() -> None:
    assert isinstance(app.backend, DatabaseBackend)
    output_of("migrate", "--verbosity=0")
    output_of("check", "--fail-level=WARNING")
    if "AS_USER" in os.environ and apps.is_installed("tests.bare.accounts"):
        with connection.schema_editor() as editor:
            editor.create_model(apps.get_model("accounts.Account"))
        apps.get_model("accounts.Account").objects.create(id=os.environ["OWNER"], email=os.environ["AS_USER"])
    assert not imported(), imported()

    requests(lambda *given: send(Client(), *given))
    assert not imported(), imported()
    requests(lambda *given: asyncio.run(send(AsyncClient(), *given)))
    assert "Queued on bulk" in output_of("broker_explain", "POST", "/queued/")
    assert "Queued on bulk" in output_of("broker_explain", "GET", "/by-rule/")
    assert "succeeded" in output_of("broker_dispatches", "list")
    assert "succeeded" in output_of("broker_dispatches", "list", "--state=succeeded")
    output_of("broker_dispatches", "list", "--groups")
    output_of("broker_housekeeping")
    import_all()
    if apps.is_installed("django.contrib.admin"):
        from django.contrib import admin

        assert admin.site.is_registered(DispatchRecord)
    assert not imported(), imported()
    close_old_connections()
    sys.stdout.write(f"fine with {settings.INSTALLED_APPS}")
