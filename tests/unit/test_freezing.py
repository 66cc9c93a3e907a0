"""Users and credentials are thawed as they were frozen, and what cannot travel is refused."""

from __future__ import annotations

import datetime
import decimal
import json
import os
import subprocess
import sys
import threading
import uuid

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.utils.functional import SimpleLazyObject
from hypothesis import given
from hypothesis import strategies as st

from broker_django.freezing import NotFrozenError, freeze, thaw

pytestmark = pytest.mark.django_db


class Plain:
    def __init__(self, **state):
        self.__dict__.update(state)

    def __eq__(self, other):
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None


class Slotted:
    __slots__ = ("token", "unset")

    def __init__(self, token):
        self.token = token


def again(value):
    return thaw(json.loads(json.dumps(freeze(value))))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.uuids()
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC)) | st.dates() | st.times()
    | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=4)
    | st.frozensets(st.integers(), max_size=4) | st.builds(lambda each: Plain(each=each), inner),
    max_leaves=12,
)  # fmt: skip


@given(values)
def test_a_value_is_what_it_was(value):
    thawed = again(value)
    assert thawed == value
    assert type(thawed) is type(value)


def test_a_row_is_as_it_is_now():
    user = User.objects.create(username="ada")
    User.objects.update(username="lovelace")
    assert again(user).username == "lovelace"
    assert again(SimpleLazyObject(lambda: user)) == user
    frozen = freeze(user)
    User.objects.all().delete()
    assert thaw(frozen) is None


def test_a_user_of_the_model_who_was_never_saved_is_as_it_was():
    service = User(username="service")
    service.scopes = ["read"]
    thawed = again(service)
    assert (type(thawed), thawed.username, thawed.scopes, thawed.pk) == (User, "service", ["read"], None)
    assert thawed._state.adding
    assert not User.objects.exists()


def test_a_set_is_frozen_alike_in_every_process():
    program = "from broker_django.freezing import freeze; print(freeze({'read', 'write', 'admin', 'refund'}))"
    frozen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "1234"
    }
    assert len(frozen) == 1


def test_objects_keep_their_class_and_their_attributes():
    slotted = again(Slotted("abc"))
    assert (type(slotted), slotted.token, hasattr(slotted, "unset")) == (Slotted, "abc", False)
    assert type(again(AnonymousUser())) is AnonymousUser


def nested(depth):
    return [] if not depth else [nested(depth - 1)]


class Local:
    def __init__(self):
        class Hidden:
            pass

        self.hidden = Hidden()


@pytest.mark.parametrize(
    "value",
    [threading.Lock(), lambda: None, Local(), nested(50), list(range(10_000)), {1: object()}],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_travel_is_refused(value):
    with pytest.raises(NotFrozenError):
        freeze(value)


def test_what_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(NotFrozenError):
        freeze(value)


@pytest.mark.parametrize(
    "frozen", [["object", "nowhere.Class", {}], ["row", "nowhere.Model", "1", "default"], ["uuid", "x"]]
)
def test_what_is_not_known_any_more_is_an_error(frozen):
    with pytest.raises((LookupError, ValueError)):
        thaw(frozen)


def test_kinds_of_values_that_are_named():
    for value in (uuid.uuid4(), decimal.Decimal("1.50"), datetime.timedelta(seconds=1.5), b"\x00\xff"):
        assert again(value) == value
