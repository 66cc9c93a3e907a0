"""Databases that refuse something: a MariaDB with a binary log, as managed servers have one; long texts."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from django.db.utils import ConnectionHandler

from tests import servers
from tests.acceptance.conftest import PATIENCE
from tests.processes import finished, wait_until
from tests.settings import database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.conftest import StartSite

pytestmark = pytest.mark.timeout(240)
MARIADB = pytest.mark.server("mariadbd")


@pytest.fixture(autouse=True)
def databases(django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield


@pytest.fixture(scope="module")
def managed() -> Iterator[dict[str, str]]:
    """Returns the variables for a user who is no administrator."""
    with servers.mariadb("broker", "--log-bin", "--server-id=1") as variables:
        yield {**variables, "POSTGRES_HOST": ""}


@pytest.fixture(scope="module")
def migrated(managed: dict[str, str]) -> str:
    """Returns the output of `migrate`."""
    variables = {**os.environ, **managed, "DJANGO_SETTINGS_MODULE": "tests.acceptance.settings"}
    done = finished([sys.executable, "-m", "django", "migrate", "--run-syncdb"], variables, seconds=180)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def run(variables: dict[str, str], statement: str) -> Any:
    """Returns the result of the statement, over another connection."""
    connection = ConnectionHandler({"default": database(variables)})["default"]
    with connection.cursor() as cursor:
        cursor.execute(statement)
        found = cursor.fetchall()
    connection.close()
    return found


@MARIADB
def test_migrate_reports_refused_triggers_and_continues(managed: dict[str, str], migrated: str) -> None:
    assert run(managed, "SHOW TRIGGERS") == ()
    warning = next(line for line in migrated.splitlines() if line.startswith("Warning: "))
    assert "the database refuses the triggers that detect changed routers" in warning
    assert "log_bin_trust_function_creators = 1" in warning
    assert run(managed, "SELECT kept_by_triggers FROM broker_django_routingversion") == ((0,),)


@MARIADB
def test_rows_changed_with_sql_take_effect_without_triggers(
    managed: dict[str, str], migrated: str, start_site: StartSite
) -> None:
    site = start_site("wsgi", **managed)
    site.process.ready()
    with site.client() as client:
        assert client.get("/moving/").status_code == 404
        values = "(7, 'moving', '/moving/', 1, '302', '*', '', 1, '', '', 'none', '')"
        run(managed, f"INSERT INTO broker_django_router VALUES {values}")
        run(managed, "INSERT INTO broker_django_destination VALUES (7, 1, '/first/', 1, '', 1, 7)")
        wait_until(lambda: client.get("/moving/").headers.get("Location") == "/first/", PATIENCE)
        run(managed, "UPDATE broker_django_destination SET url = '/second/'")
        wait_until(lambda: client.get("/moving/").headers.get("Location") == "/second/", PATIENCE)
        run(managed, "DELETE FROM broker_django_destination")
        wait_until(lambda: client.get("/moving/").status_code == 404, PATIENCE)


@MARIADB
def test_triggers_that_are_there_are_left_alone(managed: dict[str, str], migrated: str) -> None:
    """An administrator has created the triggers; this user may not create them."""
    administrator = {**managed, "MYSQL_USER": "administrator"}
    command = [sys.executable, "-m", "django", "migrate"]
    variables = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.acceptance.settings"}
    assert "Warning" not in finished(command, {**variables, **administrator}, seconds=180).stdout
    done = finished(command, {**variables, **managed}, seconds=180)
    assert (done.returncode, "Warning" in done.stdout) == (0, False)
    assert run(managed, "SELECT kept_by_triggers FROM broker_django_routingversion") == ((1,),)


WRITE = """
from django.utils import timezone
from broker_django.models import DispatchRecord
for credential in ("", "a" * 64, "authorization+session:" + "b" * 64):
    DispatchRecord.objects.create(
        queue="bulk", method="GET", path="/", accepted_at=timezone.now(), sealed=b"", credential=credential
    )
"""


@pytest.mark.server("postgres")
def test_migrations_are_taken_back_though_a_column_becomes_shorter() -> None:
    with servers.postgres() as variables:
        environment = {**os.environ, **variables, "DJANGO_SETTINGS_MODULE": "tests.acceptance.settings"}
        for command in (
            ["migrate", "--verbosity=0"],
            ["shell", "--command", WRITE],
            ["migrate", "--verbosity=0", "broker_django", "0005"],
            ["migrate", "--verbosity=0", "broker_django"],
        ):
            done = finished([sys.executable, "-m", "django", *command], environment, seconds=180)
            assert done.returncode == 0, done.stderr
        kept = run(variables, "SELECT credential FROM broker_django_dispatchrecord ORDER BY length(credential), 1")
    assert [credential for (credential,) in kept] == ["", "a" * 64, "authorization+session:" + "b" * 42]
