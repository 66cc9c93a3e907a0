"""Views by the names under which a worker with other code knows them, or not."""

from __future__ import annotations

import functools

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.contrib.auth.views import LoginView
from django.views import View
from django.views.generic import RedirectView, TemplateView
from ninja import NinjaAPI
from rest_framework.decorators import action, api_view
from rest_framework.viewsets import ViewSet

from broker_django.view_names import view_name


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


DIFFERENT = {
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
def test_what_answers_otherwise_has_another_name(name):
    names = [view_name(view, method) for view, method in DIFFERENT[name]]
    assert len(set(names)) == len(names), names


def test_a_view_keeps_its_name():
    assert view_name(keep, "POST") == f"{__name__}.keep.post"
    assert view_name(Older.as_view(), "GET") == view_name(Newer.as_view(), "GET") == f"{__name__}.Older.get"
    assert view_name(Older.as_view(), "HEAD") == f"{__name__}.Older.get"
    assert view_name(ninja_view("thing"), "GET") == f"{__name__}.thing"
    assert view_name(functools.partial(ninja_view, "x"), "GET") == f"{__name__}.ninja_view"
    assert view_name(LoginView.as_view(), "POST") == "django.contrib.auth.views.LoginView.post"


def test_a_module_that_was_started_goes_by_the_name_under_which_it_is_imported(monkeypatch):
    def view(request): ...

    monkeypatch.setattr(view, "__module__", "__main__")
    import __main__

    monkeypatch.setattr(__main__, "__spec__", None)
    monkeypatch.setattr(__main__, "__file__", "/srv/shop/app.py", raising=False)
    assert view_name(view, "GET").startswith("app.")
