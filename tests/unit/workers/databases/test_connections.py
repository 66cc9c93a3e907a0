"""How a worker cleans its database connections between tasks."""

from __future__ import annotations

import threading
from copy import deepcopy
from functools import partial

import pytest
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.transaction import atomic

from tests import servers
from tests.settings import database
from workers.databases.connections import clean, drop_unfit, replace_all, watch
from workers.databases.database_settings import database_settings


def passed(execute, *arguments):
    return execute(*arguments)


def refuse(*_):
    raise RuntimeError


@pytest.fixture
def worker(tmp_path, monkeypatch, django_db_blocker):
    """Calls a function in a thread with watched connections, one of them to a separate database."""
    monkeypatch.setitem(connections.settings, "spare", {**connections.settings["default"]})
    connections.settings["spare"].update(database({"DATABASE_PATH": str(tmp_path / "spare")}))
    monkeypatch.setattr(database_settings, "_kept", {})
    monkeypatch.setattr(database_settings, "_all", None)
    raised = []

    def run(function):
        try:
            watch()
            function()
        except BaseException as error:
            raised.append(error)
        finally:
            replace_all()

    def call(function):
        thread = threading.Thread(target=run, args=[function])
        thread.start()
        thread.join()
        for error in raised:
            raise error

    with django_db_blocker.unblock():
        yield call
    for name in ("fresh", "before"):
        connection_created.disconnect(dispatch_uid=f"request_broker.{name}")


def spare():
    connections["spare"].ensure_connection()
    return connections["spare"]


def test_an_unchanged_connection_is_kept(worker):
    def views():
        connection = spare()
        raw = connection.connection
        for _ in range(3):
            clean()
            drop_unfit()
            assert spare() is connection
        assert servers.DATABASE == "mariadb" or connection.connection is raw

    worker(views)


def test_changes_of_a_wrapper_by_receivers_are_kept(worker):
    def instrument(connection, **_):
        if passed not in connection.execute_wrappers:
            connection.execute_wrappers.append(passed)

    def views():
        connection = spare()
        clean()
        assert spare() is connection
        connection.close()
        assert spare() is connection
        clean()
        assert (spare(), connection.execute_wrappers) == (connection, [passed])

    connection_created.connect(instrument)
    try:
        worker(views)
    finally:
        connection_created.disconnect(instrument)


def before_it_is_opened():
    connections["spare"].execute_wrappers.append(refuse)
    spare()


def while_it_is_open():
    spare().execute_wrappers.append(refuse)


def after_it_was_closed():
    spare().close()
    connections["spare"].execute_wrappers.append(refuse)


def after_it_was_closed_and_then_opened():
    after_it_was_closed()
    spare()


def in_a_transaction():
    atomic("spare").__enter__()
    connections["spare"].close()


def in_place_of_a_method():
    spare().cursor = refuse


@pytest.mark.parametrize(
    "leave",
    [
        before_it_is_opened,
        while_it_is_open,
        after_it_was_closed,
        after_it_was_closed_and_then_opened,
        in_a_transaction,
        in_place_of_a_method,
    ],
)
@pytest.mark.parametrize("after", [clean, replace_all])
def test_a_wrapper_that_a_view_changed_is_not_used_again(worker, leave, after):
    def views():
        leave()
        after()
        with spare().cursor() as cursor:
            cursor.execute("SELECT 1")

    worker(views)


def no_settings():
    connections["spare"].settings_dict.clear()


def another(name, value):
    connections["spare"].settings_dict[name] = value


@pytest.mark.parametrize(
    "leave",
    [
        partial(another, "NAME", "nowhere"),
        partial(another, "OPTIONS", {"nonsense": 1}),
        partial(another, "AUTOCOMMIT", False),
        partial(another, "UNKNOWN", 1),
        lambda: connections["spare"].settings_dict["OPTIONS"].update(nonsense=1),
        no_settings,
        lambda: connections.settings.pop("spare"),
        lambda: connections.settings.update(spare={}),
        lambda: setattr(connections, "settings", None),
        lambda: setattr(connections["spare"], "settings_dict", {}),
        lambda: connections.__setitem__("spare", connections["default"]),
        lambda: connections.__setitem__("spare", object()),
    ],
)
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("after", [clean, replace_all, drop_unfit])
def test_database_settings_that_a_view_changed_are_restored(worker, leave, opened, after):
    def views():
        if opened:
            spare()
        settings, values = connections.settings["spare"], deepcopy(connections.settings["spare"])
        leave()
        after()
        assert connections.settings["spare"] is settings
        assert settings == values
        assert spare().settings_dict is settings
        with spare().cursor() as cursor:
            cursor.execute("SELECT 1")

    worker(views)


def test_a_transaction_in_a_connection_that_a_view_replaced_is_ended(worker):
    def views():
        connection = spare()
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
        connections["spare"] = connections.create_connection("spare")
        clean()
        assert connection.connection is None

    worker(views)


def test_an_open_transaction_is_logged_once(worker, caplog):
    def views():
        in_a_transaction()
        for _ in range(3):
            clean()

    worker(views)
    assert caplog.text.count("a transaction was left open") == 1


@pytest.mark.parametrize("is_open", [True, False])
def test_a_connection_leaves_the_schema_of_a_tenant_and_stays(worker, is_open):
    """As in django-tenants, whose closed connections keep it."""
    connections.settings["spare"]["ENGINE"] = "tests.site.schemas"

    def act():
        connection, raw = spare(), connections["spare"].connection
        connection.set_schema("one")
        if not is_open:
            connection.close()
        clean()
        assert connections["spare"] is connection
        assert connection.schema_name == "public"
        assert connection.connection is (raw if is_open else None)

    worker(act)
