from __future__ import annotations

import sys
from datetime import datetime

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.http import HttpResponse
from django.test import AsyncRequestFactory, RequestFactory, override_settings
from hypothesis import given
from hypothesis import strategies as st

from broker_core.conditions import VARIABLES
from broker_core.http.preferences import Preferences
from broker_django.classification import classify, preferences_of, reads_user
from broker_django.decorators import queue, run_now
from broker_django.request_values import values

ALL = frozenset(f"{name}.{member}" for name, members in VARIABLES.items() for member in members) | {"now"}
REQUEST_NAMES = frozenset(name for name in ALL if name.startswith("request."))
get = RequestFactory().get


def view(request):
    return HttpResponse()


def rules(*entries):
    return override_settings(REQUEST_BROKER={"RULES": list(entries)})


@pytest.mark.django_db
def test_every_variable_has_a_value_for_a_user():
    request = RequestFactory(headers={"host": "shop.example", "x-color": "red"}).post(
        "/orders/?a=1&a=2", {"x": "y"}, secure=True, REMOTE_ADDR="10.1.2.3"
    )
    request.COOKIES["taste"] = "sweet"
    request.user = User.objects.create_user("ada", is_staff=True)
    request.user.groups.add(Group.objects.create(name="buyers"))
    found = values(request, ALL)
    assert set(found) == ALL
    assert found["request.headers"]["x-color"] == "red"
    assert isinstance(found["now"], datetime)
    assert found["now"].tzinfo is not None
    assert {name: found[name] for name in ALL - {"request.headers", "now"}} == {
        "request.method": "POST",
        "request.path": "/orders/",
        "request.full_path": "/orders/?a=1&a=2",
        "request.query": {"a": "2"},
        "request.cookies": {"taste": "sweet"},
        "request.content_type": "multipart/form-data",
        "request.size": len(request.body),
        "request.scheme": "https",
        "request.host": "shop.example",
        "request.remote_addr": "10.1.2.3",
        "user.id": str(request.user.pk),
        "user.username": "ada",
        "user.is_authenticated": True,
        "user.is_staff": True,
        "user.is_superuser": False,
        "user.groups": ["buyers"],
    }


@pytest.mark.parametrize("user", [None, AnonymousUser()])
def test_every_variable_has_a_value_for_anonymous_users(user):
    request = get("/")
    if user is not None:
        request.user = user
    found = values(request, frozenset(name for name in ALL if name.startswith("user.")))
    assert found == {
        "user.id": "",
        "user.username": "",
        "user.is_authenticated": False,
        "user.is_staff": False,
        "user.is_superuser": False,
        "user.groups": [],
    }


@pytest.mark.parametrize(
    ("declared", "size"),
    [("12", 12), ("", 0), ("-1", 0), ("+1", 0), ("1e3", 0), ("²", 0), ("٣", 0), (" 1", 0), ("0" * 30 + "7", 7)]
    + [("9" * digits, sys.maxsize) for digits in (19, 30, 5000)],
)
def test_a_size_is_the_declared_length_if_that_is_a_number(declared, size):
    assert values(get("/", CONTENT_LENGTH=declared), frozenset({"request.size"})) == {"request.size": size}


@override_settings(ALLOWED_HOSTS=["shop.example"])
def test_a_host_that_is_not_allowed_is_empty():
    assert values(get("/", HTTP_HOST="evil.example"), frozenset({"request.host"})) == {"request.host": ""}


@override_settings(DATA_UPLOAD_MAX_NUMBER_FIELDS=2)
def test_a_query_that_django_refuses_has_no_value_and_its_rule_does_not_match():
    request = get("/?" + "&".join("abc"))
    assert values(request, frozenset({"request.query", "request.path"})) == {"request.path": "/"}
    with rules({"when": "size(request.query) > 0", "queue": "payment"}, {"when": "true", "queue": "bulk"}):
        assert classify(request, view).queue == "bulk"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.binary(max_size=30))
def test_any_request_has_values_that_conditions_take(path, raw):
    text = raw.decode("latin-1")
    extra = {"HTTP_X": text, "HTTP_COOKIE": text, "QUERY_STRING": text, "HTTP_HOST": text, "CONTENT_TYPE": text}
    with rules(
        {"when": "request.path == 'x' || " + " || ".join(f"{name} == 1" for name in REQUEST_NAMES), "queue": "bulk"}
    ):
        for factory in (RequestFactory(), AsyncRequestFactory()):
            request = factory.get("/")
            request.META.update(extra)
            request.path = request.path_info = "/" + path
            classify(request, view)
            assert set(values(request, REQUEST_NAMES)) == REQUEST_NAMES


def test_a_decorator_overrules_rules():
    with rules({"when": "true", "queue": "bulk"}):
        assert classify(get("/"), view).queue == "bulk"
        assert classify(get("/"), run_now(lambda request: None)) is None
        assert classify(get("/"), queue("payment")(lambda request: None)).queue == "payment"


def test_a_user_is_read_only_if_a_rule_reads_it():
    with rules({"when": "request.path == '/'", "queue": "bulk"}):
        assert not reads_user(get("/"), view)
    with rules({"when": "user.is_staff", "queue": "bulk"}):
        assert reads_user(get("/"), view)
        assert not reads_user(get("/"), run_now(lambda request: None))


def test_preferences_are_those_of_the_header_field():
    assert preferences_of(get("/", headers={"prefer": "respond-async, wait=3"})) == Preferences(True, 3)
    assert preferences_of(get("/")) == Preferences()
