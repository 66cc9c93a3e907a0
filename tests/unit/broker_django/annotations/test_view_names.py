"""Views by the names under which a worker with other code knows them, or not."""

from __future__ import annotations

import functools
import json
import os
import sys
from enum import Enum, auto

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.contrib.auth.views import LoginView
from django.utils.functional import SimpleLazyObject
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import DeleteView, RedirectView, TemplateView
from ninja import NinjaAPI
from rest_framework.decorators import action, api_view
from rest_framework.permissions import IsAdminUser
from rest_framework.viewsets import ViewSet

from broker_django.annotations.view_names import view_name
from tests.containers import ROOT
from tests.processes import finished


def fail():
    raise AssertionError("evaluated")


class Older(View):
    def get(self, request): ...


class Newer(Older):
    def post(self, request): ...


Newer.__name__ = Newer.__qualname__ = "Older"  # the same class, a release later


class Orders(ViewSet):
    def retrieve(self, request, pk): ...

    @action(detail=False)
    def export(self, request): ...


@api_view(["POST"])
def keep(request): ...


@api_view(["POST"])
def erase(request): ...


api = NinjaAPI(urls_namespace="names")


@api.get("/thing")
def thing(request): ...


@api.post("/thing")
def make_thing(request): ...


@api.get("/another")
def another(request): ...


def ninja_view(path):
    return next(each.callback for each in api.urls[0] if str(each.pattern) == path)


def model_pages(model):
    return admin.site.get_model_admin(model).get_urls()[0].callback


def made(kind, *, counted=0):
    """A factory of views."""
    calls = counted

    def view(request):
        nonlocal calls
        calls += 1
        return kind

    return view


def undecorated(function):
    """A decorator that does not say what it decorates."""

    def call(request):
        return function(request)

    return call


def handle(kind, request): ...


class Pages:
    @classmethod
    def handle(cls, request): ...

    def __init__(self, kind="", lazy=None):
        self.kind, self.lazy = kind, lazy

    def __call__(self, request): ...

    def show(self, request): ...


class Payments(Pages): ...


class Refunds(Pages): ...


class Kind(Enum):
    PAY = auto()
    REFUND = auto()


def class_of(kind):
    class Made(View):
        def post(self, request):
            return kind

    return Made


def api_of(kind):
    @api_view(["POST"])
    def view(request):
        return kind

    return view


DIFFERENT = {
    "classes that a view was given": [
        (DeleteView.as_view(model=User), "POST"),
        (DeleteView.as_view(model=Group), "POST"),
        (DeleteView.as_view(queryset=Group.objects.all()), "POST"),
    ],
    "anything that a view was given": [
        (DeleteView.as_view(model=User, extra_context=given), "POST") for given in ({"a": 1}, {"a": 2}, [1], Kind.PAY)
    ],
    "much that a view was given": [(TemplateView.as_view(extra_context={"a": "x" * 300 + end}), "GET") for end in "ab"],
    "partials": [
        (functools.partial(handle, "pay"), "POST"),
        (functools.partial(handle, "refund"), "POST"),
        (functools.partial(handle, kind="refund"), "POST"),
        (csrf_exempt(functools.partial(handle, "both")), "POST"),
        (functools.partial(handle, Kind.PAY), "POST"),
        (functools.partial(handle, Kind.REFUND), "POST"),
    ],
    "inherited class methods": [(Payments.handle, "POST"), (Refunds.handle, "POST"), (Pages.handle, "POST")],
    "callable objects": [(Pages("pay"), "POST"), (Pages("refund"), "POST"), (csrf_exempt(Pages("both")), "POST")],
    "methods of objects": [(Pages("pay").show, "POST"), (Pages("refund").show, "POST"), (Refunds("pay").show, "POST")],
    "what a factory made": [(made("pay"), "POST"), (made("refund"), "POST"), (made(Pages), "POST"), (made(7), "POST")],
    "what a factory made of another's": [(made(made("pay")), "POST"), (made(made("refund")), "POST")],
    "what a factory made, decorated": [(csrf_exempt(made("pay")), "POST"), (csrf_exempt(made("refund")), "POST")],
    "decorators that do not tell": [(undecorated(keep), "POST"), (undecorated(handle), "POST")],
    "classes of a factory": [(class_of("pay").as_view(), "POST"), (class_of("refund").as_view(), "POST")],
    "functions for REST of a factory": [(api_of("pay"), "POST"), (api_of("refund"), "POST")],
    "lambdas": [
        (lambda r: "pay", "POST"),
        (lambda r: "refund", "POST"),
        (lambda r: 1, "GET"),
        (lambda r: r.user, "GET"),
    ],
    "api_view": [(keep, "POST"), (erase, "POST")],
    "actions of a view set": [
        (Orders.as_view({"get": "retrieve"}), "GET"),
        (Orders.as_view({"get": "export"}), "GET"),
    ],
    "operations of django-ninja": [
        (ninja_view("thing"), "GET"),
        (ninja_view("thing"), "POST"),
        (ninja_view("another"), "GET"),
    ],
    "templates": [
        (TemplateView.as_view(template_name="a.html"), "GET"),
        (TemplateView.as_view(template_name="b.html"), "GET"),
    ],
    "redirects": [(RedirectView.as_view(url="/a/"), "GET"), (RedirectView.as_view(url="/b/"), "GET")],
    "pages of the admin": [(model_pages(User), "GET"), (model_pages(Group), "GET")],
    "a method that was added": [(Older.as_view(), "POST"), (Newer.as_view(), "POST")],
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_view_that_answers_differently_has_another_name(name):
    names = [view_name(view, method) for view, method in DIFFERENT[name]]
    assert len(set(names)) == len(names), names


def test_a_view_keeps_its_name():
    assert view_name(keep, "POST") == f"{__name__}.keep.post"
    assert view_name(Older.as_view(), "GET") == view_name(Newer.as_view(), "GET") == f"{__name__}.Older.get"
    assert view_name(Older.as_view(), "HEAD") == f"{__name__}.Older.get"
    assert view_name(ninja_view("thing"), "GET") == f"{__name__}.thing"
    assert view_name(functools.partial(ninja_view, "x"), "GET").startswith(f"{__name__}.ninja_view#")
    assert view_name(csrf_exempt(handle), "GET") == f"{__name__}.handle"
    assert view_name(Payments.handle, "GET").startswith(f"{__name__}.Pages.handle of {__name__}.Payments")
    assert view_name(DeleteView.as_view(model=User), "POST") == (
        "django.views.generic.edit.DeleteView.post(model=django.contrib.auth.models.User)"
    )


SAME = {
    "a view that counts its calls": [made("pay"), made("pay", counted=3)],
    "an object that loads something late": [Pages("pay"), Pages("pay", lazy=object())],
    "who may use it": [
        Orders.as_view({"get": "export"}, permission_classes=[IsAdminUser], description="Exports."),
        Orders.as_view({"get": "export"}),
    ],
    "an object without a text of its own": [functools.partial(handle, object()), functools.partial(handle, object())],
    "what a lazy object would find": [functools.partial(handle, SimpleLazyObject(fail)) for _ in range(2)],
    "lambdas": [lambda r: r.user.pk, lambda r: r.user.pk],
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_view_has_one_name(name):
    assert len({view_name(view, "GET") for view in SAME[name]}) == 1


NAMES_OF_ANOTHER_PROCESS = """
import json
import django

django.setup()
from tests.unit.broker_django.annotations.test_view_names import DIFFERENT, view_name

print(json.dumps([view_name(*each) for group in DIFFERENT.values() for each in group]))
"""


def test_names_are_the_same_in_every_process():
    mine = [view_name(*each) for group in DIFFERENT.values() for each in group]
    for seed in ("1", "2"):
        variables = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        variables["DJANGO_SETTINGS_MODULE"] = "tests.settings"
        assert json.loads(finished([sys.executable, "-c", NAMES_OF_ANOTHER_PROCESS], variables).stdout) == mine


def test_a_name_is_short_and_has_no_value_that_a_function_was_made_with():
    names = [view_name(view, "POST") for view in (made("secret"), functools.partial(handle, "secret"), Pages("secret"))]
    assert all("secret" not in name for name in names)
    assert len(view_name(TemplateView.as_view(extra_context={"a": "x" * 3000}), "GET")) < 250
    assert view_name(LoginView.as_view(), "POST") == "django.contrib.auth.views.LoginView.post"


def test_a_module_that_was_started_goes_by_the_name_under_which_it_is_imported(monkeypatch):
    def view(request): ...

    monkeypatch.setattr(view, "__module__", "__main__")
    import __main__

    monkeypatch.setattr(__main__, "__spec__", None)
    monkeypatch.setattr(__main__, "__file__", "/srv/shop/app.py", raising=False)
    assert view_name(view, "GET").startswith("app.")
