from __future__ import annotations

import functools

import pytest
from asgiref.sync import iscoroutinefunction
from django.http import HttpResponse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import RedirectView
from rest_framework.decorators import action, api_view
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from broker_core.policies import Annotation, Mode
from broker_django.decorators import (
    annotation_of,
    priority,
    queue,
    require_idempotency_key,
    requires_idempotency_key,
    run_now,
)

BULK = Annotation("bulk", Mode.QUEUE)
PAYMENT = Annotation("payment", Mode.PREFER)
NOW = Annotation(None, Mode.SYNC)


def view(request):
    return HttpResponse()


def fresh():
    return functools.wraps(view)(lambda request: HttpResponse())


def test_each_decorator_leaves_its_note():
    assert annotation_of(queue("bulk", wait=2)(fresh()), "GET") == Annotation("bulk", Mode.QUEUE, 2)
    assert annotation_of(priority("payment")(fresh()), "GET") == PAYMENT
    assert annotation_of(run_now(fresh()), "GET") == NOW
    assert annotation_of(fresh(), "GET") is None


def test_the_view_stays_the_same_function():
    original = fresh()
    assert queue("bulk")(original) is original


def test_a_coroutine_stays_one():
    @queue("bulk")
    async def coroutine(request):
        return HttpResponse()

    assert iscoroutinefunction(coroutine)
    assert annotation_of(coroutine, "GET") == BULK


@pytest.mark.parametrize("other", [csrf_exempt, never_cache])
def test_a_note_is_read_under_and_over_other_decorators(other):
    assert annotation_of(other(queue("bulk")(fresh())), "GET") == BULK
    assert annotation_of(queue("bulk")(other(fresh())), "GET") == BULK


def test_the_outermost_note_counts():
    assert annotation_of(run_now(queue("bulk")(fresh())), "GET") == NOW


def test_a_class_its_dispatch_and_the_result_of_as_view_can_be_noted():
    @queue("bulk")
    class Noted(View):
        def get(self, request):
            return HttpResponse()

    @method_decorator(queue("bulk"), name="dispatch")
    class ByDispatch(View):
        pass

    for noted in (Noted.as_view(), ByDispatch.as_view(), queue("bulk")(RedirectView.as_view(url="/"))):
        assert annotation_of(noted, "GET") == BULK


def test_a_handler_overrules_its_view_and_a_view_its_class():
    @queue("bulk")
    class Mixed(View):
        @run_now
        def get(self, request):
            return HttpResponse()

        @method_decorator(priority("payment"))
        def put(self, request):
            return HttpResponse()

    for noted, rest in ((Mixed.as_view(), BULK), (priority("payment")(Mixed.as_view()), PAYMENT)):
        assert annotation_of(noted, "GET") == NOW
        assert annotation_of(noted, "PUT") == PAYMENT
        assert annotation_of(noted, "POST") == rest


def test_a_subclass_inherits_a_note_until_it_says_otherwise():
    @queue("bulk")
    class Parent(View):
        @run_now
        def get(self, request):
            return HttpResponse()

    class Child(Parent):
        def get(self, request):
            return HttpResponse()

    assert annotation_of(Child.as_view(), "GET") == BULK
    assert annotation_of(run_now(type("Grandchild", (Child,), {})).as_view(), "POST") == NOW
    assert annotation_of(Child.as_view(), "POST") == BULK


def test_head_is_answered_by_get_unless_there_is_a_head():
    class OnlyGet(View):
        @queue("bulk")
        def get(self, request):
            return HttpResponse()

    class Both(OnlyGet):
        @run_now
        def head(self, request):
            return HttpResponse()

    assert annotation_of(OnlyGet.as_view(), "HEAD") == BULK
    assert annotation_of(Both.as_view(), "HEAD") == NOW
    assert annotation_of(OnlyGet.as_view(), "OPTIONS") is None


def test_views_of_rest_framework_are_read_alike():
    @queue("bulk")
    class Rest(APIView):
        @run_now
        def get(self, request):
            return HttpResponse()

    class Set(ViewSet):
        @queue("bulk")
        def list(self, request):
            return HttpResponse()

        @action(detail=False, methods=["post"])
        @priority("payment")
        def pay(self, request):
            return HttpResponse()

    @queue("bulk")
    @api_view(["POST"])
    def function(request):
        return HttpResponse()

    assert annotation_of(Rest.as_view(), "GET") == NOW
    assert annotation_of(Rest.as_view(), "POST") == BULK
    assert annotation_of(Set.as_view({"get": "list"}), "GET") == BULK
    assert annotation_of(Set.as_view({"get": "list"}), "HEAD") == BULK
    assert annotation_of(Set.as_view({"post": "pay"}), "POST") == PAYMENT
    assert annotation_of(Set.as_view({"post": "pay"}), "GET") is None
    assert annotation_of(function, "POST") == BULK


@pytest.mark.parametrize("other", [queue("bulk"), priority("payment"), csrf_exempt, never_cache])
def test_a_key_is_required_under_and_over_other_decorators(other):
    assert requires_idempotency_key(other(require_idempotency_key(fresh())), "POST")
    assert requires_idempotency_key(require_idempotency_key(other(fresh())), "POST")
    assert annotation_of(require_idempotency_key(queue("bulk")(fresh())), "POST") == BULK
    assert not requires_idempotency_key(other(fresh()), "POST")


def test_a_key_is_required_by_a_handler_a_view_or_a_class():
    class ByHandler(View):
        @require_idempotency_key
        def post(self, request):
            return HttpResponse()

        @method_decorator(require_idempotency_key)
        def put(self, request):
            return HttpResponse()

    @require_idempotency_key
    class ByClass(View):
        @queue("bulk")
        def post(self, request):
            return HttpResponse()

    @method_decorator(require_idempotency_key, name="dispatch")
    class ByDispatch(View):
        pass

    by_handler = ByHandler.as_view()
    assert requires_idempotency_key(by_handler, "POST") and requires_idempotency_key(by_handler, "PUT")
    assert not requires_idempotency_key(by_handler, "PATCH")
    for noted in (ByClass, ByDispatch, type("Child", (ByClass,), {})):
        assert requires_idempotency_key(noted.as_view(), "POST")
    assert requires_idempotency_key(require_idempotency_key(View.as_view()), "POST")


def test_a_key_is_required_by_views_of_rest_framework():
    class Set(ViewSet):
        @require_idempotency_key
        def create(self, request):
            return HttpResponse()

        @action(detail=False, methods=["post"])
        @require_idempotency_key
        def pay(self, request):
            return HttpResponse()

    @require_idempotency_key
    class Rest(APIView):
        pass

    @require_idempotency_key
    @api_view(["POST"])
    def function(request):
        return HttpResponse()

    assert requires_idempotency_key(Set.as_view({"post": "create"}), "POST")
    assert requires_idempotency_key(Set.as_view({"post": "pay"}), "POST")
    assert not requires_idempotency_key(Set.as_view({"put": "update"}), "PUT")
    assert requires_idempotency_key(Rest.as_view(), "PATCH")
    assert requires_idempotency_key(function, "POST")


@pytest.mark.parametrize("method", ["", "GET", "__init__", "as_view", "BREW", "Ünknown"])
def test_any_method_and_any_callable_is_read(method):
    for noted in (view, View.as_view(), functools.partial(view), print, object()):
        assert annotation_of(noted, method) is None
        assert not requires_idempotency_key(noted, method)
