"""The OpenAPI document matches the code."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from django.test import Client, override_settings
from django.urls import include, path
from django.utils import timezone

import broker_django
from broker_core.dispatches import PATH_LENGTH, Dispatch, State
from broker_django.tracking.answers import status_document
from broker_django.urls import TokenConverter
from broker_django.urls import urlpatterns as own_patterns

urlpatterns = [path("", include("broker_django.urls"))]

FILE = Path(broker_django.__file__).parent / "tracking" / "openapi.json"


@pytest.fixture
def document(client: Client) -> dict[str, Any]:
    response = client.get("/broker/openapi.json")
    assert (response.status_code, response["Content-Type"]) == (200, "application/vnd.oai.openapi+json")
    fetched: dict[str, Any] = response.json()
    return fetched


def schema(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


def status_of(client: Client) -> dict[str, Any]:
    accepted: dict[str, Any] = client.post("/pay/").json()
    document: dict[str, Any] = client.get(accepted["links"]["self"]).json()
    return document


def test_the_document_is_the_file_with_its_mount_point(document: dict[str, Any]) -> None:
    assert document == {**json.loads(FILE.read_bytes()), "servers": [{"url": "/broker"}]}


@pytest.mark.parametrize(("script_name", "server"), [("", "/"), ("/shop", "/shop")])
@override_settings(ROOT_URLCONF=__name__)
def test_the_server_is_the_mount_point_of_the_site(client: Client, script_name: str, server: str) -> None:
    document = client.get("/openapi.json", SCRIPT_NAME=script_name).json()
    assert document["servers"] == [{"url": server}]


def test_every_route_is_documented_and_no_other(document: dict[str, Any]) -> None:
    routes = {"/" + re.sub(r"<\w+:(\w+)>", r"{\1}", str(pattern.pattern)) for pattern in own_patterns}
    assert set(document["paths"]) == routes


def test_a_status_document_matches_the_schema(client: Client, document: dict[str, Any]) -> None:
    found = status_of(client)
    for name, part in [("Status", found), ("Response", found["response"]), ("Links", found["links"])]:
        described = schema(document, name)
        assert list(part) == list(described["properties"]) == described["required"], name


def test_the_schema_covers_a_dispatch_that_has_not_begun(document: dict[str, Any]) -> None:
    dispatch = Dispatch(uuid.uuid4(), "bulk", timezone.now())
    assert list(status_document(dispatch, "https://example.org/")) == schema(document, "Status")["required"]


def test_the_states_are_those_of_a_dispatch(document: dict[str, Any]) -> None:
    assert schema(document, "State")["enum"] == list(State)


def test_a_problem_matches_the_schema(client: Client, document: dict[str, Any]) -> None:
    problem = client.get("/broker/tasks/unknown/").json()
    assert set(problem) == set(schema(document, "Problem")["properties"])


def test_limits_are_those_of_the_code(document: dict[str, Any]) -> None:
    assert schema(document, "Status")["properties"]["path"]["maxLength"] == PATH_LENGTH
    assert document["components"]["parameters"]["Token"]["schema"]["pattern"] == f"^{TokenConverter.regex}$"


@pytest.mark.parametrize("path", ["/tasks/{token}/", "/tasks/{token}/response/", "/tasks/{token}/events/"])
def test_the_methods_are_those_that_are_allowed(client: Client, document: dict[str, Any], path: str) -> None:
    refused = client.put("/broker" + path.replace("{token}", "x"))
    allowed = {method.lower() for method in refused["Allow"].split(", ")} - {"head"}
    assert refused.status_code == 405
    assert set(document["paths"][path]) - {"parameters"} == allowed
