"""Users and credentials are restored from their frozen form, and values that cannot be frozen are refused."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import json
import os
import subprocess
import sys
import threading
import types
import uuid
from collections import OrderedDict, defaultdict, deque
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from broker_django.identity.freezing import freeze
from broker_django.identity.instances import NotFrozenError
from broker_django.identity.thawing import thaw

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


class Subject(str):  # noqa: SLOT000 - as projects write it
    pass


class Slim(str):
    __slots__ = ()


class Count(int):
    pass


class Claims(dict):
    def items(self):
        return [("sub", "somebody else")]


class Open(dict):
    def __init__(self, **given):
        super().__init__(given)
        self.__dict__ = self


class Ordered(OrderedDict):
    pass


class Scopes(list):
    pass


class Groups(frozenset):
    pass


class Moment(datetime.datetime):
    pass


class Amount(decimal.Decimal):
    pass


class Serial(uuid.UUID):
    pass


class Pair(NamedTuple):
    sub: str
    scopes: list


class Role(str, enum.Enum):  # noqa: UP042 - as projects write it
    ADMIN = "admin"
    USER = "user"


class Rank(enum.Enum):
    FIRST = object()


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Mangled:
    __slots__ = ("__sub",)

    def __init__(self, sub):
        self.__sub = sub

    @property
    def sub(self):
        return self.__sub


class Inheriting(Mangled):
    """Its slot is another one of the same written name."""

    __slots__ = ("__sub",)

    def __init__(self, sub, own):
        super().__init__(sub)
        self.__sub = own

    @property
    def own(self):
        return self.__sub


class Covered:
    """Its attribute lies behind a property that cannot be set."""

    def __init__(self, name):
        vars(self)["name"] = name

    @property
    def name(self):
        return vars(self)["name"]


class Particular:
    def __new__(cls, name):
        return super().__new__(cls)

    def __init__(self, name):
        self.name = name


class Queue(deque):
    pass


class Default(defaultdict):
    pass


class Failure(Exception):
    pass


class Here(threading.local):
    pass


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
def test_values_are_restored(value):
    thawed = again(value)
    assert thawed == value
    assert type(thawed) is type(value)


def test_a_row_is_read_again():
    user = User.objects.create(username="ada")
    User.objects.update(username="lovelace")
    assert again(user).username == "lovelace"
    assert again(SimpleLazyObject(lambda: user)) == user
    frozen = freeze(user)
    User.objects.all().delete()
    assert thaw(frozen) is None


def test_an_unsaved_user_of_the_model_is_restored():
    service = User(username="service")
    service.scopes = ["read"]
    thawed = again(service)
    assert (type(thawed), thawed.username, thawed.scopes, thawed.pk) == (User, "service", ["read"], None)
    assert thawed._state.adding
    assert not User.objects.exists()


def test_a_set_is_frozen_alike_in_every_process():
    program = "from broker_django.identity.freezing import freeze; print(freeze({'read', 'write', 'admin', 'refund'}))"
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


@pytest.mark.parametrize(
    "value",
    [
        Subject("ada"),
        Slim("ada"),
        Count(7),
        Scopes(["read", ("a", 1)]),
        Groups(["a", "b"]),
        Moment(2026, 1, 2, 3, 4, 5, 6, datetime.UTC),
        Amount("1.50"),
        Serial(int=7),
        Pair("ada", ["read"]),
        Ordered([("b", 1), ("a", 2)]),
        OrderedDict([("b", 1), ("a", 2)]),
        types.MappingProxyType({"sub": "ada"}),
        types.SimpleNamespace(sub="ada"),
        Role.ADMIN,
        Rank.FIRST,
        Right.READ,
        Right.READ | Right.WRITE,
        deque([1, ("a",)]),
        bytearray(b"\x00\xff"),
        range(1, 9, 2),
        1 - 2j,
        datetime.UTC,
        datetime.timezone(datetime.timedelta(hours=-3, minutes=-30)),
        ZoneInfo("Europe/Berlin"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_subclasses_are_restored(value):
    thawed = again(value)
    assert (type(thawed), thawed, repr(thawed)) == (type(value), value, repr(value))
    assert vars(thawed) == vars(value) if hasattr(value, "__dict__") else True


def test_a_lazy_string_becomes_a_string():
    assert again(Plain(said=gettext_lazy("Yes"))).said == "Yes"


def test_the_content_of_a_dict_is_kept_if_its_class_overrides_methods():
    claims = Claims(sub="ada")
    claims.issuer = "here"
    thawed = again(claims)
    assert (type(thawed), thawed["sub"], thawed.issuer) == (Claims, "ada", "here")
    opened = again(Open(sub="ada"))
    opened.sub = "bob"
    assert opened["sub"] == "bob"


def test_members_of_enumerations_are_identical():
    assert again(Plain(role=Role.USER)).role is Role.USER
    assert again(Rank.FIRST) is Rank.FIRST


def test_attributes_and_slots_are_restored_to_their_place():
    assert again(Mangled("ada")).sub == "ada"
    both = again(Inheriting("ada", "mine"))
    assert (both.sub, both.own) == ("ada", "mine")
    assert again(Covered("ada")).name == "ada"
    assert again(Particular("ada")).name == "ada"


@pytest.mark.parametrize("kind", [Subject, lambda name: Claims(sub=name), Mangled, lambda name: Pair(name, [])])
def test_two_users_are_not_frozen_alike(kind):
    assert freeze(Plain(user=kind("ada"))) != freeze(Plain(user=kind("bob")))


def test_a_deleted_row_is_restored_if_it_was_frozen_with_its_fields():
    user = User.objects.create(username="ada", last_name="Lovelace")
    frozen = json.loads(json.dumps(freeze(Plain(user=user), whole_rows=True)))
    User.objects.update(last_name="Byron")
    assert thaw(frozen).user.last_name == "Byron"
    User.objects.all().delete()
    thawed = thaw(frozen).user
    assert (thawed, thawed.last_name, thawed.date_joined) == (user, "Lovelace", user.date_joined)
    assert not thawed._state.adding


@pytest.mark.parametrize("fold", [0, 1])
def test_a_datetime_keeps_its_time_zone(fold):
    zone = ZoneInfo("Europe/Berlin")
    moment = datetime.datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=fold)
    thawed = again(moment)
    assert (thawed.tzinfo, thawed.fold, thawed.utcoffset()) == (zone, fold, moment.utcoffset())


def nested(depth):
    return [] if not depth else [nested(depth - 1)]


class Local:
    def __init__(self):
        class Hidden:
            pass

        self.hidden = Hidden()


@pytest.mark.parametrize(
    "value",
    [
        threading.Lock(),
        lambda: None,
        Local(),
        nested(50),
        list(range(10_000)),
        {1: object()},
        Queue("ab"),
        Default(list),
        Failure("x"),
        Here(),
        Subject,
        functools.partial(str, 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_cannot_be_frozen_are_refused(value):
    with pytest.raises(NotFrozenError):
        freeze(value)


def test_values_that_contain_themselves_are_refused():
    value = []
    value.append(value)
    with pytest.raises(NotFrozenError):
        freeze(value)


@pytest.mark.parametrize(
    "frozen", [["object", "nowhere.Class", {}], ["row", "nowhere.Model", "1", "default"], ["uuid", "x"]]
)
def test_a_value_that_the_code_no_longer_supports_is_an_error(frozen):
    with pytest.raises((LookupError, ValueError)):
        thaw(frozen)


def test_all_named_types_are_tested():
    for value in (uuid.uuid4(), decimal.Decimal("1.50"), datetime.timedelta(seconds=1.5), b"\x00\xff"):
        assert again(value) == value
