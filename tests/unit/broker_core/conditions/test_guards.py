from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.conditions import Condition, context
from broker_core.conditions.guards import Guard, GuardIndex, ruled_out
from broker_core.errors import InvalidConditionError

VALUES = {
    "request.path": "/pay",
    "request.full_path": "/pay?a",
    "request.method": "POST",
    "request.scheme": "https",
    "request.host": "",
    "request.content_type": "a && b",
    "request.headers": {"a": "b"},
    "request.size": 5,
}
OPERANDS = st.sampled_from(
    [
        'request.path == "/pay"',
        'request.path == "/"',
        'request.path.startsWith("/p")',
        'request.path.startsWith( "x" )',
        'request . path == "/"',
        'request.path == r"/"',
        'request.content_type == "a && b"',
        'request.content_type == "a || b"',
        'request.method=="POST"',
        'request.method != "POST"',
        'request.host == "" ',
        "request.size > 1",
        "request.headers.nope == '1'",
        '"request.path == \\"/\\""==""',
        "true",
        "[1].all(x, x == 1)",
        'request.path == "/" // && true\n',
        "// || isn't\n true",
    ]
)
CONDITIONS = st.recursive(
    OPERANDS,
    lambda inner: (
        st.tuples(inner, st.sampled_from([" && ", "||", "&&", " == ", " ? true : "]), inner).map("".join)
        | inner.map("({})".format)
        | inner.map("!{}".format)
    ),
    max_leaves=6,
)


@given(CONDITIONS)
def test_a_condition_that_a_guard_rules_out_never_holds(text):
    try:
        condition = Condition(text)
    except InvalidConditionError:
        return
    if ruled_out(condition.guards, VALUES):
        try:
            assert not condition.holds(context(VALUES))
        except (ValueError, TypeError, LookupError, RuntimeError, ArithmeticError):
            return  # no answer is no match either


@pytest.mark.parametrize(
    ("text", "guards"),
    [
        ('request.path.startsWith("/a")', [Guard("request.path", "/a", prefix=True)]),
        ('request.method == "GET"&&request.size > 1', [Guard("request.method", "GET", prefix=False)]),
        (
            'request.path == "/" && (request.path == "/" || request.method == "GET")',
            [Guard("request.path", "/", False)],
        ),
        ('request.path == "/" || request.method == "GET"', []),
        ('!request.path.startsWith("/")', []),
        ('request.path == "/" ? true : false', []),
        ('request.path == "/" // always', []),
        ('request.path == "\\n"', []),
        ("true", []),
    ],
)
def test_the_guards_of_a_condition(text, guards):
    assert list(Condition(text).guards) == guards


@given(st.lists(CONDITIONS, max_size=5))
def test_an_index_rules_out_only_false_conditions(texts):
    try:
        conditions = [Condition(text) for text in texts]
    except InvalidConditionError:
        return
    sieve = GuardIndex(condition.guards for condition in conditions)
    if sieve.excludes(VALUES):
        assert all(ruled_out(condition.guards, VALUES) for condition in conditions)


def test_an_index_is_fast():
    out = Condition('request.path.startsWith("/nowhere/") && request.method == "POST"').guards
    assert GuardIndex([out, out]).excludes(VALUES)
    assert not GuardIndex([out, ()]).excludes(VALUES)
    assert not GuardIndex([]).excludes(VALUES)
