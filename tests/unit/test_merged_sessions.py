from __future__ import annotations

from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_django.merged_sessions import merged

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
def test_what_was_changed_is_laid_over_what_another_request_saved(store, before, mine, other):
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


def test_what_is_changed_in_place_is_seen(store):
    begun = saved(store, {"cart": ["a"]})
    late = merged(begun)
    late["cart"].append("b")
    late.save()
    assert keys_of(store, begun) == {"cart": ["a", "b"]}


def test_a_session_that_was_renewed_or_ended_is_saved_as_it_is(store):
    late = merged(saved(store, {"a": 1}))
    late["b"] = 2
    late.cycle_key()
    late.save()
    assert keys_of(store, late) == {"a": 1, "b": 2}
    late.flush()
    late["c"] = 3
    late.save()
    assert keys_of(store, late) == {"c": 3}
