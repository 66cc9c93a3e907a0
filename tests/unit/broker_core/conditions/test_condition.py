from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.conditions import (
    FUNCTIONS,
    MAX_LENGTH,
    MOST_ENTRIES,
    VARIABLES,
    Condition,
    Conditions,
    Evaluation,
    context,
)
from broker_core.conditions.condition import _log_once
from broker_core.errors import InvalidConditionError

WORDS = """request user now . path headers groups == && ! ? : ( ) [ ] { } , " ' r" b' // 1 1u x all( map( has( in \\"""
TOKENS = st.sampled_from([*WORDS.split(), "true", "null", "startsWith(", "\n", "'" * 3])
VALUES = {
    "request.method": "POST",
    "request.path": "/pay",
    "request.headers": {"x-y": "1"},
    "user.groups": ["staff"],
    "now": datetime(2030, 1, 1, tzinfo=UTC),
}
NEVER = (ValueError, TypeError, LookupError, RuntimeError, ArithmeticError)


def holds(text):
    return Condition(text).holds(context(VALUES))


@given(st.text(max_size=60) | st.lists(TOKENS, max_size=14).map(" ".join) | st.lists(TOKENS, max_size=14).map("".join))
def test_any_text_compiles_or_is_refused_and_then_is_true_false_or_without_answer(text):
    try:
        condition = Condition(text)
    except InvalidConditionError as error:
        assert error.reason
        assert 0 <= error.position <= len(text) + 2
        return
    known = {f"{name}.{member}" for name, members in VARIABLES.items() for member in members} | {"now"}
    assert condition.names <= known
    with contextlib.suppress(*NEVER):
        assert condition.holds(context(VALUES)) in (True, False)


@pytest.mark.parametrize(
    ("text", "nested", "expected"),
    [
        ('request.path == "/pay" && request . method == "POST"', False, True),
        ('"request.path" == "request.path" && user.groups == ["staff"]', False, True),
        ('"request.path" == "request_path"', False, False),
        ('has(request.headers.a) || request.path == "/"', False, False),
        ("has(request.headers)", True, True),
        ('["/pay", "/b"].exists(request_path, request.path != request_path)', True, True),
        ('["/pay"].exists(request_path, request.path != request_path)', True, False),
    ],
)
def test_plain_variables_replace_members_if_that_changes_nothing(text, nested, expected):
    condition = Condition(text)
    assert condition.nested is nested
    assert condition.holds(context(VALUES, nested=nested)) is expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("true", set()),
        ('request.path == "/pay"', {"request.path"}),
        ("request . path\n==\n'/pay'", {"request.path"}),
        ('request.headers["x-y"] == "1" && now > timestamp("2020-01-01T00:00:00Z")', {"request.headers", "now"}),
        ("has(request.headers.a) || user.is_staff", {"request.headers", "user.is_staff"}),
        ('request.path.startsWith("/") && now.getFullYear() > 2000', {"request.path", "now"}),
        ('user.groups.exists(group, group == "staff")', {"user.groups"}),
        ("{request.path: 1}.size() == 1", {"request.path"}),
        ("[request.path,user.id]==[]", {"request.path", "user.id"}),
    ],
)
def test_a_condition_lists_the_values_it_reads(text, names):
    assert Condition(text).names == names


@pytest.mark.parametrize(
    "text",
    [
        'request.path == "user.id"',
        "request.path == 'it\\'s user.id'",
        'request.path == """a"user.id"""',
        "request.path == '''a'user.id'''",
        'request.path == r"\\" || request.path == "user.id"',
        'bytes(request.path) == br"\\" || b"user.id" == b""',
        "request.path == '/' // user.id",
        "request.path == '/' // isn't user.id\n || request.path == 'b'",
        '{"user": 1}.user == request.path.size()',
        '{"user": 1} . user == request.path.size()',
        'request.path == "// not a comment" || request.path == "b"',
    ],
)
def test_comments_strings_and_members_of_other_values_read_nothing(text):
    assert Condition(text).names == {"request.path"}


@pytest.mark.parametrize(
    "text",
    [
        'request.path == r"\\" || request.method == "POST"',
        "request.path == '' // isn't\n || request.method == 'POST'",
        '"\\"" == "" || request.method == "POST"',
    ],
)
def test_values_after_a_string_or_a_comment_are_read(text):
    assert "request.method" in Condition(text).names
    assert holds(text)


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("request.pth == ''", "request.pth does not exist", 1),
        ("'a' == request", "request alone is not a value", 8),
        ("request['path'] == ''", "request alone is not a value", 1),
        ("request.path(1)", "unknown function 'path'|request alone is not a value", 1),
        ("usr.id == 1", "unknown variable 'usr'", 1),
        ("true && x", "unknown variable 'x'", 9),
        ("'x' == x", "unknown variable 'x'", 8),
        ("request.path.startswith('/')", "unknown function 'startswith'", 14),
        ("nothing()", "unknown function 'nothing'", 1),
        ("[1].all(x, [2].all(y, y > x))", "contain another", 15),
        ("[1] . // why\n all (x, [2].map(y, y) == [])", "contain another", 26),
        ("[1].map(x, x).map(x, x) == []", "only one map", 14),
        ("['a'].map(b, b + b).map(b, b + b).map(b, b + b) == []", "only one map", 20),
        ("[1].filter(x, true).filter(x, true) == []", "only one filter", 20),
        ("request.query.map(k, request.query) == []", "not use all of it", 22),
        ("request.query.all(k, request . headers == {})", "not use all of it", 22),
        ("user.groups.exists(g, [user.groups] == [])", "not use all of it", 24),
        ("[1].map(x, [x, x]) == []", "larger", 12),
        ("[1].map(x, {x: x}) == []", "larger", 12),
        ("['a'].map(b, b + b + b) == []", "one sum", 20),
        ("[1].all(x, " + "request.path + " * 9 + "'' == '')", "one sum", 40),
        ("request.query.map(k, request.full_path + request.path) == []", "read the request by its element only", 22),
        ("request.query.map(k, request.full_path) == []", "read the request by its element only", 22),
        ("request.query.map(k, true ? user . username : k) == []", "read the request by its element only", 29),
        ("request.query.map(k, request.headers['a']) == []", "read the request by its element only", 22),
        ("request.query.map(k, request.headers.a) == []", "read the request by its element only", 22),
        ("request.cookies.exists(k, k in [request.path])", "into a list or a map", 33),
        ("request.cookies.exists(k, k in ['a', [request.path] == [], 'b'])", "into a list or a map", 39),
        ("request.cookies.all(k, [k, 'a' + request . full_path] != [k])", "into a list or a map", 34),
        ("request.cookies.filter(k, {request.path: 1} == {}) == []", "into a list or a map", 28),
        ("request.cookies.all(k, {'a': {'b': request.path}} == {})", "into a list or a map", 36),
        ("user.groups.map(g, g in[user.username]) == []", "into a list or a map", 25),
        ("request.query.map(k, 'a').exists(x, x in [request.query[x]])", "into a list or a map", 43),
        ("[1].all(x, true ? [now] == [] : false)", "into a list or a map", 20),
        (r"request.query.exists(k, k.matches('\\w{20}$'))", "matches", 27),
        ("request.query.exists(k, request.path . matches // why\n ('a'))", "matches", 40),
        ("'a'.matches(request.path)", "string literal", 13),
        ("'a'.matches('a' + 'b')", "string literal", 13),
        ("'a'.matches(b'a')", "string literal", 13),
        ("'a'.matches()", "string literal", 13),
        ("true && 'a'.matches('[')", "unclosed character class", 21),
        ("'a'.matches('(?=a)')", "look-around", 13),
        (r"'a'.matches(r'(\w{100}){40}')", "large", 13),
        (r"'a'.matches(r'\w{20}')", "large", 13),
        (r"'a'.matches('" + r"\\pL" * 20 + "')", "large", 13),
        ("'a'.matches('" + "(" * 100 + "a" + ")" * 100 + "{99999}')", "large", 13),
        (r"'a'.matches('\\w{6}') || 'a'.matches('\\w{6}')", "large", 38),
        ("'a'.matches('(?P<n>a)') || 'a'.matches('(?P<n>a)')", "duplicate capture group", 40),
        ("[1].all(x, string(bytes(request.path)) != '')", "bytes", 19),
        ("true &&", "mismatched input", 8),
        ("a" * (MAX_LENGTH + 1), f"at most {MAX_LENGTH}", 0),
        ("\ud800", "surrogates", 0),
        ("", "mismatched input", 1),
    ],
)
def test_a_condition_that_cannot_mean_anything_is_refused(text, reason, position):
    with pytest.raises(InvalidConditionError, match=reason) as caught:
        Condition(text)
    assert caught.value.position == position
    assert str(caught.value).startswith(f"column {position}: ") == bool(position)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("true &&", "mismatched input '<EOF>'"),
        ("1 +* 2", "extraneous input '*'"),
        ("now now", "extraneous input 'now' expecting <EOF>"),
    ],
)
def test_a_refusal_does_not_list_the_grammar(text, reason):
    with pytest.raises(InvalidConditionError) as caught:
        Condition(text)
    assert caught.value.reason == reason


@pytest.mark.parametrize("text", ["(" * 1900, "[" * 900 + "]" * 900, "!" * 1900 + "true", "-" * 1900 + "1 < 0"])
def test_depth_never_ends_the_process(text):
    with contextlib.suppress(InvalidConditionError, *NEVER):
        holds(text)


PIECES = r"( ) [ ] { } \ | * + ? . ^ $ # a 1 , - \w \pL (?i) (?x) (?P<n> {9} {999}"
PATTERNS = st.lists(st.sampled_from([*PIECES.split(), " ", "\n"])).map("".join)


@given(PATTERNS, PATTERNS)
def test_any_pattern_is_answered_or_refused(one, other):
    try:
        condition = Condition(f"'a'.matches({json.dumps(one)}) || 'b'.matches({json.dumps(other)})")
    except InvalidConditionError as error:
        assert error.position in (13, 30 + len(json.dumps(one)))
        return
    assert condition.holds(context({})) in (True, False)


@pytest.mark.parametrize(
    "text",
    [
        r"'ann@example.org'.matches('^\\w+@\\w+\\.\\w+$')",
        r"'/orders/1/'.matches(r'^/orders/\d+/$') && 'A'.matches('(?i)^a$')",
        "'aaaaaaaa-1111'.matches(// a comment\n" + "'" * 3 + "^[0-9a-f]{8}-[0-9]{4}$" + "'" * 3 + ")",
        r"'a)'.matches('(?x) a \\) # a')",
        "'a'.matches('a') && 'a'.matches('b') == false && 'a'.matches('[ab]') && 'a'.matches('.') && 'a'.matches('')",
        "{'matches': 1}.matches == 1 && [1].exists(x, x == 1) && 'a'.matches('a')",
    ],
)
def test_a_pattern_is_a_small_one_in_quotes(text):
    assert holds(text)


def test_comprehensions_in_a_row_are_not_nested():
    assert holds("[1, 2].map(x, x + 1).filter(x, x > 2).size() == 1 && [1].all(x, x == 1)")


@pytest.mark.parametrize(
    "text",
    [
        "user.groups.exists(g, !(g in request.headers))",
        "request.headers.all(k, request.headers[k] == '' || request.headers.size() < 1000)",
        "request.headers.map(k, request.headers [k] + k).filter(x, x == 'a').size() == 0",
        "request.headers.map(k, k in user.groups, k + '!').size() == 0",
        "request.headers.all(k, request.headers[k] in ['1', k] && [k] != [] && {k: 1} != {} && request.path != k)",
        "request.headers.exists(k, k == 'x-y') && request.path in [request.path, request.method]",
    ],
)
def test_a_comprehension_reads_a_collection(text):
    assert holds(text)


@pytest.mark.parametrize("text", ["1", "'true'", "null", "[true]", "request.path"])
def test_only_true_holds(text):
    assert holds(text) is False


@pytest.mark.parametrize("text", ["request.headers.nope == ''", "1 / 0 == 1", "user.id == 'a'", "request.path < 1"])
def test_a_condition_without_an_answer_raises(text):
    with pytest.raises(NEVER):
        holds(text)


def why_not(text, values):
    condition = Condition(text)
    return Evaluation(Conditions([condition]), lambda names: {name: values[name] for name in names}).why_not(condition)


@pytest.mark.parametrize(
    "text",
    [
        "'a' in request.cookies",
        "!('a' in request.cookies)",
        "!has(request.cookies.a)",
        "request.cookies.size() > 0",
        "request.cookies.all(k, true)",
        "request.cookies.filter(k, true).size() > 0",
        "['a'].exists(request_path, !(request_path in request.cookies))",
        "request.path == '' || !('a' in request.cookies)",
    ],
)
def test_a_condition_that_reads_a_large_collection_has_no_answer(text):
    """Neither a membership nor its negation has an answer."""
    enough = {"request.cookies": dict.fromkeys(map(str, range(MOST_ENTRIES)), ""), "request.path": "/"}
    too_many = {**enough, "request.cookies": {**enough["request.cookies"], "one more": ""}}
    assert "no answer" not in why_not(text, enough)
    assert f"request.cookies has more than {MOST_ENTRIES} entries" in why_not(text, too_many)
    with pytest.raises(NEVER):
        Condition(text).holds(context(too_many))


def test_a_condition_that_does_not_depend_on_a_large_collection_has_an_answer():
    too_many = {"user.groups": ["staff"] * (MOST_ENTRIES + 1), "request.path": "/"}
    assert why_not("request.path == '/' || 'staff' in user.groups", too_many) == ""
    assert "could not be evaluated" in why_not("'staff' in user.groups", too_many)


def test_a_collection_that_is_too_large_is_logged_once(caplog):
    _log_once.cache_clear()
    too_many = {"request.headers": dict.fromkeys(map(str, range(MOST_ENTRIES + 1)), "")}
    for text in ("'a' in request.headers", "'b' in request.headers", "'a' in request.headers"):
        why_not(text, too_many)
    assert len([line for line in caplog.messages if "request.headers" in line]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "size('a') == 1 && 'ab'.contains('a') && 'ab'.startsWith('a') && 'ab'.endsWith('b') && 'ab'.matches('^a')",
        "int('1') == 1 && uint('1') == 1u && double('1') == 1.0 && string(1) == '1' && bytes('a') == b'a'",
        "timestamp('2030-01-01T00:00:00Z') == now && duration('1s') > duration('0s') && dyn(1) == 1",
        "now.getFullYear() == 2030 && now.getMonth() == 0 && now.getDayOfYear() == 0 && now.getDayOfMonth() == 0",
        "now.getDate() == 1 && now.getDayOfWeek() == 2 && now.getHours() == 0 && now.getMinutes() == 0",
        "now.getSeconds() == 0 && now.getMilliseconds() == 0 && type(1) == type(2)",
    ],
)
def test_every_function_that_is_known_is_there(text):
    assert holds(text)
    assert {name for name in Condition(text)._program.functions() if name.isalpha()} <= FUNCTIONS


def test_the_names_of_several_conditions_are_joined():
    joined = Conditions([Condition("user.is_staff"), Condition("request.path == ''")])
    assert joined.names == {"user.is_staff", "request.path"}
    assert Conditions([]).names == frozenset()
