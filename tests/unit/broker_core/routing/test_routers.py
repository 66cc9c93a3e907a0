from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.errors import ConfigurationError
from broker_core.routing import (
    Action,
    Destination,
    Match,
    Router,
    RoutingTable,
    check_url,
    condition_of,
    destination_url,
    methods_of,
    same_url,
    verdicts,
)
from broker_core.routing.sources import Source


def router(code="r", source="/a/", action="302", when="", destinations=(("/b/", 1),), **fields):
    made = tuple(Destination(f"{code}-{number}", url, weight) for number, (url, weight) in enumerate(destinations))
    return Router(code, Source.parse(source), Action(action), made, condition=condition_of(when), **fields)


def values(**known):
    given_values = {"request.path": "/a/", "request.method": "GET", "user.is_staff": False, **known}
    return lambda names: {name: given_values[name] for name in names}


def find(*routers, path="/a/", method="GET", **known):
    match = RoutingTable(routers).find(path, method, values(**known))
    return match and match.router.code


def test_the_lowest_rank_comes_first():
    assert find(router("late", rank=2), router("early", source="/*", rank=1)) == "early"


def test_the_more_specific_comes_first_among_equals():
    exact, pattern = router("exact"), router("pattern", source="/<slug:x>/")
    long, short = router("long", source="/a/*"), router("short", source="/*")
    everything = [short, long, pattern, exact]
    for expected in ("exact", "pattern", "long", "short"):
        random.shuffle(everything)
        assert find(*everything) == expected
        everything.remove(next(one for one in everything if one.code == expected))


@pytest.mark.parametrize("destinations", [(), (("/b/", 0),), (("/b/", 0), ("/c/", 0))])
def test_a_router_without_weight_is_passed_over(destinations):
    assert find(router("drained", destinations=destinations), router("next", rank=2)) == "next"


def test_a_router_with_a_false_condition_is_skipped():
    staff = router("staff", when="user.is_staff")
    assert find(staff, router("next", rank=2)) == "next"
    assert find(staff, router("next", rank=2), **{"user.is_staff": True}) == "staff"


@pytest.mark.parametrize("when", ["", " ", "*", '"*"', "'*'", "true"])
def test_conditions_that_always_hold(when):
    assert find(router("always", when=when)) == "always"


def test_a_condition_without_an_answer_does_not_match():
    broken = router("broken", when='request.headers["x-none"] == "1"')
    assert find(broken, **{"request.headers": {}}) is None


@pytest.mark.parametrize(
    ("action", "methods", "taken"),
    [
        ("302", "", "GET HEAD OPTIONS"),
        ("302", "POST", "POST"),
        ("proxy", "", "GET POST DELETE PROPFIND"),
        ("queue", "", "GET POST"),
        ("queue", "post, put", "POST PUT"),
    ],
)
def test_methods(action, methods, taken):
    one = router(action=action, methods=methods_of(methods))
    for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PROPFIND"):
        allowed = method in taken.split() or (action != "302" and not methods)
        assert (find(one, method=method) is not None) == allowed


def test_invalid_methods():
    with pytest.raises(ConfigurationError, match="not an HTTP method"):
        methods_of("GET, P:ST")


def test_values_are_computed_only_if_a_condition_reads_them():
    asked = []

    def recording(names):
        asked.append(names)
        return values()(names)

    table = RoutingTable([router(), router("other", source="/b/", when="user.is_staff"), router("always", rank=9)])
    assert table.find("/a/", "GET", recording)
    assert table.find("/nothing/", "GET", recording) is None
    assert asked == []
    assert table.find("/b/", "GET", recording) is None
    assert asked == [frozenset({"user.is_staff"})]


def test_every_verdict_says_why():
    table = RoutingTable(
        [
            router("drained", destinations=[("/b/", 0)], rank=1),
            router("posts", methods=frozenset({"POST"}), rank=2),
            router("staff", when="user.is_staff", rank=3),
            router("broken", when="user.is_staff > 1", rank=4),
            router("winner", rank=5),
        ]
    )
    reasons = {match.router.code: why for match, why in verdicts(table.candidates("/a/"), "GET", values())}
    assert reasons["drained"] == "it has no active destination with a weight"
    assert reasons["posts"] == "GET is not among its methods"
    assert reasons["staff"] == "its condition is false"
    assert reasons["broken"].startswith("its condition could not be evaluated")
    assert reasons["winner"] == ""


def test_a_table_knows_whether_it_reads_the_user():
    assert not RoutingTable([router()]).reads_user
    assert RoutingTable([router(when="user.is_staff")]).reads_user
    assert not RoutingTable([])


def test_one_destination_by_weight():
    one = router(destinations=[("/b/", 3), ("/c/", 1), ("/d/", 0)])
    picked = [one.pick(str(visitor)).url for visitor in range(4_000)]
    assert picked.count("/b/") / len(picked) == pytest.approx(0.75, abs=0.03)
    assert "/d/" not in picked
    assert one.shares() == {"r-0": 0.75, "r-1": 0.25, "r-2": 0.0}


def url(destination, query="", append="", carry=True, **captures):
    match = Match(router("code"), captures)
    return destination_url(match, Destination("d", destination, 1, carry, append), query)


@pytest.mark.parametrize(
    ("destination", "query", "append", "expected"),
    [
        ("/b/", "", "", "/b/"),
        ("/b/", "x=1", "", "/b/?x=1"),
        ("/b/", "x=%C3%A4&y&x=2", "", "/b/?x=%C3%A4&y&x=2"),
        ("/b/?x=9", "x=1&y=2&x=3", "", "/b/?x=9&y=2"),
        ("/b/?z=9", "x=1", "", "/b/?x=1&z=9"),
        ("/b/?x=9&x=8", "x=1", "x=7", "/b/?x=7"),
        ("/b/", "x=1", "utm={router_code}&x={nothing}", "/b/?x={nothing}&utm=code"),
        ("/b/#there", "x=1", "", "/b/?x=1#there"),
        ("https://other.example/b/?y=1", "x=1", "", "https://other.example/b/?x=1&y=1"),
        ("/größe/100%/", "", "", "/gr%C3%B6%C3%9Fe/100%25/"),
        ("/a%20b/", "", "", "/a%20b/"),
        ("/b/?q=a b", "", "", "/b/?q=a+b"),
        ("/b/{other}/{}/{0}/", "", "", "/b/{other}/{}/{0}/"),
    ],
)
def test_the_target_of_a_destination(destination, query, append, expected):
    assert url(destination, query, append) == expected


def test_the_query_is_dropped_if_the_destination_says_so():
    assert url("/b/?y=1", "x=1", "z=2", carry=False) == "/b/?y=1&z=2"


@pytest.mark.parametrize(
    ("destination", "captured", "expected"),
    [
        ("/new/{x}/", "42", "/new/42/"),
        ("/new/{x}", "a b/ü", "/new/a%20b/%C3%BC"),
        ("/new/{x}", "a?b#c%", "/new/a%3Fb%23c%25"),
        ("/?q={x}", "a&b=c d", "/?q=a%26b%3Dc+d"),
        ("/{x}", "/evil.example/", "/%2Fevil.example/"),
        ("https://other.example/{x}", "@evil.example", "https://other.example/@evil.example"),
        ("/{x}", "{router_code}", "/{router_code}"),
    ],
)
def test_captured_values_cannot_change_the_url_around_them(destination, captured, expected):
    assert url(destination, x=captured).replace("%7B", "{").replace("%7D", "}") == expected


@given(st.text(max_size=30), st.text(max_size=20), st.text(max_size=20))
def test_no_captured_value_leads_off_the_site(captured, query, append):
    found = url("/{x}", query, append, x=captured)
    assert found.startswith("/")
    assert not found.startswith(("//", "/\\"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/a/", "/a/", True),
        ("/a/?x=1&y=2", "/a/?y=2&x=1", True),
        ("/%C3%A4/", "/ä/", True),
        ("/a/?x=1", "/a/", False),
        ("/a/", "/b/", False),
        ("https://other.example/a/", "/a/", False),
    ],
)
def test_the_very_same_url(one, other, same):
    assert same_url(one, other) is same


@pytest.mark.parametrize(
    ("destination", "action"),
    [
        ("/b/", "302"),
        ("/b/?x=1#y", "307"),
        ("https://friend.example/b", "301"),
        ("/b/", "proxy"),
        ("/b/{pk}/", "proxy"),
        ("bulk", "queue"),
    ],
)
def test_allowed_targets_of_a_destination(destination, action):
    check_url(destination, Action(action), {"bulk"}, "friend.example".__eq__)


@pytest.mark.parametrize(
    ("destination", "action", "reason"),
    [
        ("", "302", "slash"),
        ("b/", "302", "slash"),
        ("javascript:alert(1)", "302", "http"),
        ("/a\n/", "302", "control"),
        ("/\\evil.example", "302", "control"),
        ("//evil.example/", "302", "http"),
        ("https://evil.example/", "302", "ALLOWED_REDIRECT_HOSTS"),
        ("https://[/", "302", "invalid URL"),
        ("ftp://friend.example/", "302", "http"),
        ("https://friend.example/", "proxy", "path of this project"),
        ("//friend.example/", "proxy", "path of this project"),
        ("slow", "queue", "no queue"),
        ("/b/", "queue", "no queue"),
    ],
)
def test_forbidden_targets_of_a_destination(destination, action, reason):
    with pytest.raises(ConfigurationError, match=reason):
        check_url(destination, Action(action), {"bulk"}, "friend.example".__eq__)
