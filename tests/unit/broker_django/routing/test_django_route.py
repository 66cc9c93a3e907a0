from __future__ import annotations

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.template import Context, Template
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from broker_core.conditions import Condition, context
from broker_django.request_values import values
from broker_django.routing.django_route import UntranslatableError, to_cel

OPERANDS = [
    "request.user.is_authenticated",
    "user.is_staff",
    "request.user.id == 7",
    "request.user.pk != 7",
    'request.user.username == "ada"',
    "request.user.username",
    'request.method == "GET"',
    'request.path == "/a/ü/"',
    '"ü" in request.path',
    'request.GET.x == "1"',
    'request.GET.x != "1"',
    "request.GET.x",
    "request.GET",
    '"x" in request.GET',
    '"y" not in request.GET',
    'request.GET.y|default:"none" == "none"',
    "request.GET.x|length > 0",
    'request.COOKIES.seen == "yes"',
    'request.META.HTTP_X_TENANT == "a"',
    "request.META.HTTP_X_TENANT",
    'request.META.REMOTE_ADDR == "127.0.0.1"',
    "request.is_secure",
    'request.get_host == "testserver"',
    "True",
    "1 == 1",
    "2 < 1",
    '"text"',
    "''",
]
CONDITIONS = st.recursive(
    st.sampled_from(OPERANDS),
    lambda inner: st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join) | inner.map("not {}".format),
    max_leaves=5,
)


def requests():
    factory = RequestFactory()
    plain = factory.get("/")
    plain.user = AnonymousUser()
    full = factory.get("/a/ü/?x=1", headers={"x-tenant": "a"}, HTTP_COOKIE="seen=yes", secure=True)
    full.user = User(pk=7, username="ada", is_staff=True)
    other = factory.post("/b/?x=&y=2", headers={"x-tenant": ""})
    other.user = User(pk=8, username="bob", is_staff=False)
    return [plain, full, other]


def in_cel(text, request):
    condition = Condition(to_cel(text))
    return condition.holds(context(values(request, condition.names), nested=condition.nested))


def in_template(text, request):
    template = Template(f"{{% if {text} %}}True{{% endif %}}")
    return template.render(Context({"request": request, "user": request.user})) == "True"


@pytest.mark.parametrize("text", OPERANDS)
def test_a_condition_means_the_same(text):
    for request in requests():
        assert in_cel(text, request) is in_template(text, request)


@given(CONDITIONS)
def test_combined_conditions_mean_the_same(text):
    for request in requests():
        assert in_cel(text, request) is in_template(text, request)


@pytest.mark.parametrize(
    "text",
    [
        "request.session.cart",
        "request.user.profile.is_gold",
        "request.GET.x|lower",
        "request.user is None",
        "request.GET.x == 1",
        "request.user.id < 5",
        "request.GET == request.COOKIES",
        "perms.shop.view",
        "1.5 == 1.5",
        "and and",
        "request.path ==",
        "request.path|nosuchfilter",
        "",
        "%}{% evil %}",
    ],
)
def test_a_condition_without_an_equivalent_is_refused(text):
    with pytest.raises(UntranslatableError):
        to_cel(text)
