from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_core.errors import ConfigurationError
from broker_core.routing.sources import CONVERTERS, Kind, Source, SourceIndex


def index(*texts, converters=CONVERTERS):
    built = SourceIndex()
    for text in texts:
        built.add(Source.parse(text, converters), text)
    return built


@pytest.mark.parametrize(
    ("text", "kind", "names"),
    [
        ("/", Kind.EXACT, ()),
        ("/orders/", Kind.EXACT, ()),
        ("/größe/100%/v1.2/", Kind.EXACT, ()),
        ("/a*", Kind.EXACT, ()),
        ("/*", Kind.PREFIX, ("rest",)),
        ("/api/*", Kind.PREFIX, ("rest",)),
        ("/orders/<int:pk>/", Kind.PATTERN, ("pk",)),
        ("/<year>-<slug:name>/", Kind.PATTERN, ("year", "name")),
        ("/files/<path:file>", Kind.PATTERN, ("file",)),
    ],
)
def test_the_kinds_of_sources(text, kind, names):
    source = Source.parse(text)
    assert (source.text, source.kind, source.names) == (text, kind, names)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must begin with a slash"),
        ("orders/", "must begin with a slash"),
        ("/" + "a" * 255, "at most 255"),
        ("/a\nb/", "control"),
        ("/<int:pk/", "must be written"),
        ("/<number:pk>/", "no path converter 'number'"),
        ("/<int:1>/", "not a valid name"),
        ("/<int:>/", "not a valid name"),
        ("/<a>/<int:a>/", "twice"),
        ("/<path:a>/<a>/", "twice"),
        ("/<int:pk>/*", "path:name"),
    ],
)
def test_invalid_sources(text, reason):
    with pytest.raises(ConfigurationError, match=reason):
        Source.parse(text)


@pytest.mark.parametrize(
    ("text", "path", "captured"),
    [
        ("/orders/", "/orders/", {}),
        ("/orders/", "/orders", None),
        ("/orders/", "/orders/1/", None),
        ("/größe/", "/größe/", {}),
        ("/100%/", "/100%/", {}),
        ("/v1.2/", "/v1x2/", None),
        ("/api/*", "/api/", {"rest": ""}),
        ("/api/*", "/api/v1/users/", {"rest": "v1/users/"}),
        ("/api/*", "/api", None),
        ("/api/*", "/apis/", None),
        ("/*", "/anything", {"rest": "anything"}),
        ("/orders/<int:pk>/", "/orders/42/", {"pk": "42"}),
        ("/orders/<int:pk>/", "/orders/x/", None),
        ("/orders/<int:pk>/", "/orders/42/items/", None),
        ("/orders/<int:pk>/", "/orders//", None),
        ("/<int:year>-<slug:name>/", "/2026-my-post/", {"year": "2026", "name": "my-post"}),
        ("/files/<path:file>", "/files/a/b.txt", {"file": "a/b.txt"}),
        ("/files/<path:file>/raw", "/files/a/b.txt/raw", {"file": "a/b.txt"}),
        ("/files/<path:file>/raw", "/files/a/b.txt", None),
        ("/<int:a>/<path:b>/<int:c>/", "/1/x/y/2/", {"a": "1", "b": "x/y", "c": "2"}),
        ("/<slug:a>.html", "/a-b.html", {"a": "a-b"}),
        ("/<slug:a>.html", "/a-bxhtml", None),
    ],
)
def test_paths_that_a_source_matches(text, path, captured):
    assert index(text).find(path) == ([] if captured is None else [(text, captured)])


@pytest.mark.parametrize(
    "text", ["/<slug:a>-<slug:b>-<slug:c>/", "/f/<path:a>-<path:b>-<slug:c>.x", "/<path:a>/<int:b>/<int:c>/"]
)
def test_parameters_that_could_take_long_to_match_are_refused(text):
    with pytest.raises(ConfigurationError, match="at most 2 parameters"):
        Source.parse(text)


def test_regular_expressions_are_not_asked_about_endless_text():
    built = index("/<slug:a>-<slug:b>.x", "/f/<path:a>-<path:b>.x", "/f/*")
    assert built.find("/" + "-" * 1_001) == []
    assert [text for text, _ in built.find("/f/" + "-" * 100_000)] == ["/f/*"]


def test_literal_text_at_both_ends_tells_patterns_apart():
    texts = ["/shop/p<int:id>/", "/shop/q<int:id>/", "/shop/<int:id>p/", "/files/<path:p>/raw", "/files/<path:p>/text"]
    built = index(*texts)
    assert built.find("/shop/p1/") == [("/shop/p<int:id>/", {"id": "1"})]
    assert built.find("/shop/1p/") == [("/shop/<int:id>p/", {"id": "1"})]
    assert built.find("/shop/p/") == []
    assert built.find("/files/a/b/text") == [("/files/<path:p>/text", {"p": "a/b"})]


def test_every_source_that_matches_is_found():
    texts = ["/shop/new/", "/shop/<slug:name>/", "/shop/<int:pk>/", "/shop/*", "/*", "/<path:all>", "/other/"]
    found = index(*texts).find("/shop/new/")
    assert {text for text, _ in found} == {"/shop/new/", "/shop/<slug:name>/", "/shop/*", "/*", "/<path:all>"}


def test_converters_of_the_project_may_match_slashes_and_have_groups():
    built = index("/<pair:both>/end/", converters={**CONVERTERS, "pair": "(a|b)/([(]c)"})
    assert built.find("/b/(c/end/") == [("/<pair:both>/end/", {"both": "b/(c"})]


segments = st.sampled_from(["a", "b", "<int:x>", "a<int:x>", "<slug:y>", "<slug:y>b", "1", "22"])
sources = st.builds(
    lambda parts, end: "/" + "/".join(parts) + end, st.lists(segments, max_size=4), st.sampled_from(["", "/", "/*"])
)
paths = st.lists(st.sampled_from(["a", "b", "1", "22", "a1", "c-d", "db", ""]), max_size=5).map(
    lambda p: "/" + "/".join(p)
)


@given(st.lists(sources, max_size=12, unique=True), paths)
def test_the_index_finds_the_same_as_single_expressions(texts, path):
    def matches(text):
        expression = text.replace("*", ".*").replace("<int:x>", "[0-9]+").replace("<slug:y>", "[-a-zA-Z0-9_]+")
        return re.fullmatch(expression, path)

    valid = [text for text in texts if not ("<" in text and "*" in text)]
    valid = [text for text in valid if text.count("<int:x>") < 2 and text.count("<slug:y>") < 2]
    assert sorted(text for text, _ in index(*valid).find(path)) == sorted(filter(matches, valid))


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_breaks_it(text, path):
    try:
        built = index(text)
    except ConfigurationError:
        return
    built.find(path)
