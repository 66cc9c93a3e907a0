from __future__ import annotations

import functools
import inspect
import itertools
import linecache
import typing

import pytest
from asgiref.sync import iscoroutinefunction
from django.contrib.auth.decorators import login_not_required, login_required
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import RedirectView
from rest_framework.decorators import action, api_view
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from broker_core.policies import Annotation, Mode
from broker_django.annotations.annotating import _definitions
from broker_django.annotations.drf import speaks_first
from broker_django.annotations.view_annotations import annotation_of, requires_idempotency_key
from broker_django.annotations.view_names import view_name
from broker_django.decorators import priority, queue, require_idempotency_key, run_now

BULK = Annotation("bulk", Mode.QUEUE)
PAYMENT = Annotation("payment", Mode.PREFER)
NOW = Annotation(None, Mode.SYNC)


def view(request):
    return HttpResponse()


def fresh():
    return functools.wraps(view)(lambda request: HttpResponse())


def test_each_decorator_annotates_the_view():
    assert annotation_of(queue("bulk", wait=2)(fresh()), "GET") == Annotation("bulk", Mode.QUEUE, 2)
    assert annotation_of(priority("payment")(fresh()), "GET") == PAYMENT
    assert annotation_of(run_now(fresh()), "GET") == NOW
    assert annotation_of(fresh(), "GET") is None


def test_a_decorator_does_not_change_the_original_view():
    class Callable:
        def __call__(self, request):
            return HttpResponse()

        def method(self, request):
            return HttpResponse()

    async def coroutine(request):
        return HttpResponse()

    class Report(View):
        def get(self, request):
            return HttpResponse()

    instance = Callable()
    functions = [fresh(), coroutine, functools.partial(fresh()), instance, instance.method, Report.as_view()]
    for original in (*functions, Report):
        for decorate in (queue("bulk"), priority("payment"), run_now, require_idempotency_key):
            noted = decorate(original)
            for each in (original, Report.as_view()):
                place = each.as_view() if each is Report else each
                assert annotation_of(place, "GET") is None
                assert not requires_idempotency_key(place, "GET")
            place = noted.as_view() if original is Report else noted
            assert annotation_of(place, "GET") or requires_idempotency_key(place, "GET")
            assert iscoroutinefunction(noted) == iscoroutinefunction(original)


def test_attributes_of_other_decorators_and_view_classes_are_kept():
    class Exempt:
        csrf_exempt = True

        def __init__(self):
            self.login_required = False

        def __call__(self, request):
            return HttpResponse(b"called")

    noted = queue("bulk")(non_atomic_requests(login_not_required(csrf_exempt(fresh()))))
    assert noted.csrf_exempt and not noted.login_required and noted._non_atomic_requests
    noted = never_cache(queue("bulk")(Exempt()))
    assert annotation_of(noted, "GET") == BULK
    assert not noted.login_required
    noted = queue("bulk")(Exempt())
    assert noted.csrf_exempt and noted(None).content == b"called"
    noted = queue("bulk")(type("Set", (ViewSet,), {"list": fresh()}).as_view({"get": "list"}, detail=False))
    assert noted.csrf_exempt and noted.actions == {"get": "list"} and noted.initkwargs == {"detail": False}
    assert noted.cls.__name__ == "Set"
    assert queue("bulk")(RedirectView.as_view(url="/")).view_class is RedirectView


def test_signature_and_name_are_kept():
    def typed(request: HttpRequest, pk: int, *, draft: bool = False) -> HttpResponse:
        """Documented."""
        return HttpResponse(f"{pk} {draft}")

    noted = queue("bulk")(typed)
    assert inspect.signature(noted) == inspect.signature(typed)
    assert (noted.__name__, noted.__module__, noted.__doc__) == ("typed", __name__, "Documented.")
    assert typing.get_type_hints(noted) == typing.get_type_hints(typed)
    assert noted(None, 1).content == b"1 False"


def test_a_worker_knows_a_decorated_view_by_the_name_of_the_view():
    class Callable:
        def __call__(self, request):
            return HttpResponse()

    class Report(RedirectView):
        pass

    for original in (view, functools.partial(view), Callable(), Callable().__call__, Report.as_view()):
        assert view_name(queue("bulk")(original), "GET") == view_name(original, "GET")
    assert view_name(queue("bulk")(Report).as_view(), "GET") == view_name(Report.as_view(), "GET")


@pytest.mark.parametrize("thing", ["bulk", 3, None, property(view)])
def test_only_callables_are_views(thing):
    with pytest.raises(TypeError, match="is not a view"):
        queue("bulk")(thing)


def test_a_proxy_of_a_function_is_not_replaced_by_the_function():
    class Proxy:
        """As `wrapt` makes them: it says that it is a function, and is bound like one."""

        def __init__(self, function):
            self.function = function

        @property
        def __class__(self):
            return type(self.function)

        def __getattr__(self, name):
            return getattr(self.function, name)

        def __call__(self, *args):
            return HttpResponse(b"proxied " + self.function(*args).content)

        def __get__(self, instance, owner=None):
            return functools.partial(self, instance) if instance is not None else self

    class Report(View):
        @queue("bulk")
        @Proxy
        def get(self, request):
            return HttpResponse(type(self).__name__)

    assert annotation_of(Report.as_view(), "GET") == BULK
    assert Report.as_view()(RequestFactory().get("/")).content == b"proxied Report"


class Base(View):
    def get(self, request):
        return HttpResponse(["base"])


def with_both(view):
    """A project's own decorator of classes."""
    return require_idempotency_key(queue("bulk")(view))


@queue("bulk")
class OfTheModule(Base):
    def get(self, request):
        return HttpResponse([super(OfTheModule, self).get(request).content, b" explicit"])  # noqa: UP008 - on purpose


def test_super_of_a_decorated_class_is_its_base():
    @priority("payment")
    @queue("bulk")
    class Explicit(Base):
        def get(self, request):
            return HttpResponse([super(Explicit, self).get(request).content, b" explicit"])  # noqa: UP008 - on purpose

    @with_both
    class Implicit(Base):
        def get(self, request):
            return HttpResponse([super().get(request).content, b" implicit"])

    class Child(Explicit):
        def get(self, request):
            return HttpResponse([super(Child, self).get(request).content, b" child"])  # noqa: UP008 - on purpose

    for view_class, text in (
        (OfTheModule, b"base explicit"),
        (Explicit, b"base explicit"),
        (Implicit, b"base implicit"),
        (Child, b"base explicit child"),
        (run_now(OfTheModule), b"base explicit"),
        (run_now(Explicit), b"base explicit"),
        (run_now(Implicit), b"base implicit"),
        (run_now(Child), b"base explicit child"),
    ):
        assert view_class.as_view()(RequestFactory().get("/")).content == text
    assert annotation_of(OfTheModule.as_view(), "GET") == annotation_of(Implicit.as_view(), "GET") == BULK
    assert annotation_of(Explicit.as_view(), "GET") == annotation_of(Child.as_view(), "GET") == PAYMENT
    assert annotation_of(run_now(Child).as_view(), "GET") == NOW


def test_a_class_with_other_references_is_subclassed_and_one_being_defined_is_not():
    registered = []

    class Known(Base):
        def __init_subclass__(cls):
            registered.append(cls)

    @queue("bulk")
    class New(Known):
        pass

    assert registered == [New]
    queued = queue("bulk")(New)
    assert issubclass(queued, New) and queued is not New
    assert (queued.__name__, queued.__module__, queued.__qualname__) == (New.__name__, __name__, New.__qualname__)

    def by_another_name(anything):
        return run_now(anything)

    assert annotation_of(by_another_name(Known).as_view(), "GET") == NOW
    assert annotation_of(by_another_name(Base).as_view(), "GET") == NOW
    assert annotation_of(Known.as_view(), "GET") is annotation_of(Base.as_view(), "GET") is None


class Crud(View):
    def get(self, request):
        return HttpResponse("crud")


MADE = {name: type(f"{name}View", (Crud,), {}) for name in "AB"}
LATER = queue("bulk")(MADE["A"])
LISTED = []


def listed(cls):
    LISTED.append(cls)
    return cls.as_view()


@listed
class Report(Crud):
    pass


LATER_REPORT = queue("bulk")(LISTED[0])


@pytest.mark.parametrize(("noted", "plain"), [(LATER, MADE["A"]), (LATER_REPORT, LISTED[0])])
def test_a_class_that_only_a_container_refers_to_is_subclassed(noted, plain):
    assert annotation_of(noted.as_view(), "GET") == BULK
    assert annotation_of(plain.as_view(), "GET") is None


WITHOUT_SOURCE = """
def keep(cls):
    kept.append(cls)
    return cls


@queue("bulk")
@keep
class Typed(View):
    pass
"""


def test_a_class_without_a_source_keeps_its_identity_in_its_own_statement(monkeypatch):
    of_other_code = (len("run()"), None, ["run()\n"], "<string>")  # as Python 3.13 stores what `python -c` runs
    monkeypatch.setitem(linecache.cache, "<string>", of_other_code)
    _definitions.cache_clear()
    scope = {"View": View, "queue": queue, "__name__": "typed", "kept": []}
    exec(WITHOUT_SOURCE, scope)
    assert scope["Typed"] is scope["kept"][0]


def test_decorators_of_the_broker_stack_in_any_order():
    orders = list(itertools.permutations([queue("bulk"), require_idempotency_key, csrf_exempt, never_cache]))
    for order in orders:
        for target in (fresh(), functools.partial(fresh()), type("Report", (Base,), {}), Base().get):
            decorated = functools.reduce(lambda view, decorate: decorate(view), order, _function_of(target))
            assert annotation_of(decorated, "POST") == BULK
            assert requires_idempotency_key(decorated, "POST")
            assert decorated.csrf_exempt


def _function_of(target):
    return target.as_view() if isinstance(target, type) else target


def test_a_partial_of_an_annotated_view_has_its_annotation():
    assert annotation_of(functools.partial(queue("bulk")(fresh()), page=2), "GET") == BULK
    assert annotation_of(run_now(functools.partial(queue("bulk")(fresh()))), "GET") == NOW


def test_static_and_class_methods_are_handlers_too():
    class Report(View):
        @queue("bulk")
        @staticmethod
        def get(request):
            return HttpResponse("static")

        @priority("payment")
        @classmethod
        def post(cls, request):
            return HttpResponse(cls.__name__)

    assert annotation_of(Report.as_view(), "GET") == BULK
    assert annotation_of(Report.as_view(), "POST") == PAYMENT
    assert Report.as_view()(RequestFactory().get("/")).content == b"static"
    assert Report.as_view()(RequestFactory().post("/")).content == b"Report"


def test_an_annotated_handler_affects_only_its_class():
    class Parent(Base):
        pass

    class Child(Base):
        get = queue("bulk")(Base.get)

    assert annotation_of(Child.as_view(), "GET") == BULK
    assert annotation_of(Parent.as_view(), "GET") is None


def test_asynchronous_class_based_views_stay_asynchronous():
    @queue("bulk")
    class Report(View):
        @priority("payment")
        async def get(self, request):
            return HttpResponse()

        @method_decorator(run_now)
        async def post(self, request):
            return HttpResponse()

    for view_class in (Report, queue("bulk")(Report)):
        assert iscoroutinefunction(view_class.as_view())
        assert iscoroutinefunction(run_now(view_class.as_view()))
        assert annotation_of(view_class.as_view(), "GET") == PAYMENT
        assert annotation_of(view_class.as_view(), "POST") == NOW


@pytest.mark.parametrize("order", ["under", "over"])
def test_functions_and_actions_of_rest_framework_are_annotated_below_and_above_their_decorators(order):
    def both(outer, inner):
        return lambda function: outer(inner(function)) if order == "under" else inner(outer(function))

    @both(api_view(["GET", "POST"]), queue("bulk"))
    def function(request):
        return HttpResponse()

    class Set(ViewSet):
        @both(action(detail=False, methods=["post"]), queue("bulk"))
        def pay(self, request):
            return HttpResponse()

        @pay.mapping.delete
        @both(run_now, require_idempotency_key)
        def refund(self, request):
            return HttpResponse()

    assert annotation_of(function, "POST") == annotation_of(function, "GET") == BULK
    assert annotation_of(csrf_exempt(function), "GET") == BULK
    assert speaks_first(function) and speaks_first(run_now(function))
    assert {"post": "pay", "delete": "refund"} in [route.mapping for route in SimpleRouter().get_routes(Set)]
    pay = Set.as_view({"post": "pay", "delete": "refund"})
    assert annotation_of(pay, "POST") == BULK
    assert annotation_of(pay, "DELETE") == NOW and requires_idempotency_key(pay, "DELETE")
    assert speaks_first(queue("bulk")(pay)) and speaks_first(csrf_exempt(run_now(pay)))
    assert not speaks_first(queue("bulk")(login_required(pay)))


def test_a_coroutine_stays_a_coroutine():
    @queue("bulk")
    async def coroutine(request):
        return HttpResponse()

    assert iscoroutinefunction(coroutine)
    assert annotation_of(coroutine, "GET") == BULK


@pytest.mark.parametrize("other", [csrf_exempt, never_cache])
def test_an_annotation_is_found_below_and_above_other_decorators(other):
    assert annotation_of(other(queue("bulk")(fresh())), "GET") == BULK
    assert annotation_of(queue("bulk")(other(fresh())), "GET") == BULK


def test_the_outermost_annotation_counts():
    assert annotation_of(run_now(queue("bulk")(fresh())), "GET") == NOW


def test_a_class_its_dispatch_and_the_result_of_as_view_can_be_annotated():
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


def test_a_subclass_inherits_an_annotation_unless_it_overrides_it():
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
def test_a_key_is_required_below_and_above_other_decorators(other):
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
def test_annotations_are_read_for_any_method_and_any_callable(method):
    for noted in (view, View.as_view(), functools.partial(view), print, object()):
        assert annotation_of(noted, method) is None
        assert not requires_idempotency_key(noted, method)
