from __future__ import annotations

import asyncio
from importlib import import_module

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from broker_django.identity.merged_sessions import merged

pytestmark = pytest.mark.django_db

KEYS = st.sampled_from("abcd")
DATA = st.dictionaries(KEYS, st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2))
ENGINES = ["db", "cache", "cached_db", "file"]


@pytest.fixture(params=ENGINES)
def store(request, settings, tmp_path):
    settings.SESSION_FILE_PATH = str(tmp_path)
    return import_module(f"django.contrib.sessions.backends.{request.param}").SessionStore


def saved(store, data):
    session = store()
    session.update(data)
    session.create() if not data else session.save()
    return session


def keys_of(store, session):
    return dict(store(session.session_key).items())


@given(before=DATA, mine=DATA, other=DATA)
def test_changes_are_merged_into_what_another_request_saved(store, before, mine, other):
    begun = saved(store, before)
    late = merged(begun)
    assert dict(late.items()) == before
    another = store(begun.session_key)
    another.clear()
    another.update(other)
    another.save()
    late.clear()
    late.update(mine)
    late.save()
    touched = {key for key in "abcd" if mine.get(key) != before.get(key)}
    expected = {key: mine[key] for key in touched if key in mine}
    expected |= {key: value for key, value in other.items() if key not in touched}
    assert keys_of(store, begun) == expected


def test_changes_in_place_are_detected(store):
    begun = saved(store, {"cart": ["a"]})
    late = merged(begun)
    late["cart"].append("b")
    late.save()
    assert keys_of(store, begun) == {"cart": ["a", "b"]}


def test_a_session_with_a_new_key_or_an_ended_one_is_saved_unmerged(store):
    late = merged(saved(store, {"a": 1}))
    late["b"] = 2
    late.cycle_key()
    late.save()
    assert keys_of(store, late) == {"a": 1, "b": 2}
    late.flush()
    late["c"] = 3
    late.save()
    assert keys_of(store, late) == {"c": 3}


def renewed(session):
    session.cycle_key()


def ended(session):
    session.flush()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("end", [renewed, ended])
@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("in_thread", [True, False])
def test_a_session_that_another_request_replaced_or_ended_is_not_saved(store, end, loaded, in_thread):
    key = saved(store, {"a": 1}).session_key
    late = merged(store(key))
    if loaded:
        late["seen"] = 1
    end(store(key))
    late["seen"] = 2
    asyncio.run(late.asave()) if in_thread else late.save()
    assert late.ended
    assert late.session_key == key
    assert not store().exists(key)


def test_a_session_that_ends_while_it_is_saved_is_not_saved(store, monkeypatch):
    session = saved(store, {"a": 1})
    late = merged(session)
    late["seen"] = 1
    monkeypatch.setattr(type(late), "_merge", lambda _self: store(session.session_key).flush())
    late.save()
    assert late.ended
    assert not store().exists(session.session_key)


def test_a_login_after_the_session_has_ended_starts_another(store):
    session = saved(store, {"a": 1})
    late = merged(session)
    session.flush()
    late["b"] = 2
    late.cycle_key()
    late.save()
    assert not late.ended
    assert keys_of(store, late) == {"b": 2}


def test_a_session_without_changes_is_not_saved_if_only_changes_are(store):
    late = merged(saved(store, {"a": 1}), only_changes=True)
    begun = store(late.session_key)
    assert late["a"] == 1
    begun["a"] = 2
    begun.save()
    late.save()
    late["b"] = 3
    late.save()
    assert keys_of(store, late) == {"a": 2, "b": 3}


def test_signed_cookies_are_in_no_store_and_never_end():
    store = import_module("django.contrib.sessions.backends.signed_cookies").SessionStore
    late = merged(saved(store, {"a": 1}))
    late["b"] = 2
    late.save()
    assert not late.ended
    assert keys_of(store, late) == {"a": 1, "b": 2}


@pytest.mark.parametrize("engine", ["db", "cached_db"])
def test_no_other_write_happens_between_the_read_of_a_row_and_the_write(engine):
    store = import_module(f"django.contrib.sessions.backends.{engine}").SessionStore
    late = merged(saved(store, {"a": 1}))
    late["b"] = 2
    with CaptureQueriesContext(connection) as queries:
        late.save()
    verbs = [query["sql"].split()[0] for query in queries if "django_session" in query["sql"]]
    assert verbs[0] == "UPDATE", "which locks the row, before it is read"
    assert keys_of(store, late) == {"a": 1, "b": 2}


def test_an_unchanged_session_is_not_written(store):
    late = merged(saved(store, {"a": 1}), only_changes=True)
    assert late["a"] == 1
    with CaptureQueriesContext(connection) as queries:
        late.save()
    assert not [query for query in queries if query["sql"].startswith("UPDATE")]


def test_a_session_keeps_attributes_set_by_its_middleware(store):
    class Described(store):
        def __init__(self, key, device):
            super().__init__(key)
            self.device = device

    begun = saved(lambda: Described(None, "Fox"), {"cart": 1})
    late = merged(merged(begun))
    late["cart"] = 2
    late.save()
    assert (late.device, type(late).__qualname__) == ("Fox", Described.__qualname__)
    assert Described(begun.session_key, "Fox")["cart"] == 2
    assert begun["cart"] == 1
