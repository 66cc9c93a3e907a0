from __future__ import annotations

import io

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from broker_django.models import Router

ROUTERS = [
    (1, "plain", "/old/", 1, "301", '"*"', True, "moved"),
    (2, "members", "/old/", 2, "302", "request.user.is_authenticated and request.GET.x == '1'", True, ""),
    (3, "odd", "/odd/", 1, "302", "request.session.cart|length > 3", True, ""),
    (4, "off", "/off/", 1, "302", "not user.is_staff", False, ""),
    (5, "proxied", "/proxied/", 1, "proxy", '"*"', True, ""),
]
DESTINATIONS = [
    (1, 3, "/echo/", True, "", True, 1),
    (2, 1, "/pay/", False, "from={router_code}", True, 1),
    (3, 1, "/echo/", True, "", False, 2),
]


@pytest.fixture
def tables():
    condition = connection.ops.quote_name("condition")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE django_route_router (id integer PRIMARY KEY, code varchar(255), source varchar(255), "
            f"rank integer, action varchar(20), {condition} text, is_active boolean, description text)"
        )
        cursor.execute(
            "CREATE TABLE django_route_destination (id integer PRIMARY KEY, weight integer, url varchar(255), "
            "carry_params boolean, append_params varchar(255), is_active boolean, router_id integer)"
        )
        cursor.executemany("INSERT INTO django_route_router VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", ROUTERS)
        cursor.executemany("INSERT INTO django_route_destination VALUES (%s, %s, %s, %s, %s, %s, %s)", DESTINATIONS)
        yield
        if not connection.features.can_rollback_ddl:  # there, dropping a table commits what the test did
            Router.objects.all().delete()
        cursor.execute("DROP TABLE django_route_router")
        cursor.execute("DROP TABLE django_route_destination")


def run(*arguments):
    out = io.StringIO()
    call_command("import_django_route", *arguments, stdout=out, no_color=True)
    return out.getvalue()


@pytest.mark.usefixtures("tables")
def test_rows_are_imported(client):
    output = run()
    plain = Router.objects.get(code="plain")
    assert (plain.source, plain.rank, plain.action, plain.description) == ("/old/", 1, "301", "moved")
    assert list(plain.destinations.values_list("weight", "url", "carry_params", "append_params", "is_active")) == [
        (3, "/echo/", True, "", True),
        (1, "/pay/", False, "from={router_code}", True),
    ]
    assert client.get("/old/").status_code == 301
    assert "user.is_authenticated" in Router.objects.get(code="members").condition
    assert not Router.objects.get(code="off").is_active
    assert "plain: 2 destinations" in output


@pytest.mark.usefixtures("tables")
def test_a_condition_without_an_equivalent_is_imported_inactive_and_unchanged():
    output = run()
    odd = Router.objects.get(code="odd")
    assert not odd.is_active
    assert odd.condition == "request.session.cart|length > 3"
    assert "odd: inactive, its condition is unchanged: request.session.cart has no equivalent" in output
    assert "proxied: inactive, action: Proxies are disabled" in output


@pytest.mark.usefixtures("tables")
def test_it_can_be_run_again():
    run()
    Router.objects.filter(code="plain").update(rank=9)
    assert "plain: exists already, skipped" in run()
    assert Router.objects.get(code="plain").rank == 9
    assert Router.objects.count() == len(ROUTERS)


@pytest.mark.usefixtures("tables")
def test_a_dry_run_does_nothing():
    assert "plain: 2 destinations" in run("--dry-run")
    assert not Router.objects.exists()


def test_without_the_tables_it_says_so():
    with pytest.raises(CommandError, match="no django-route tables"):
        run()


@pytest.mark.usefixtures("tables")
def test_rows_send_no_commands_to_the_terminal():
    harm = "\x1b]0;pwned\x07\x9b2J\u202e"
    rows = [
        (7, f"a{harm}", "/x/", 1, "302", "", True, ""),
        (8, f"b{harm}", "/y/", 1, "302", f"'{harm}' == {harm}", True, ""),
    ]
    Router.objects.create(code=f"c{harm}", source="/z/", action="302")
    rows.append((9, f"c{harm}", "/z/", 1, "302", "", True, ""))
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO django_route_router VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", rows)
    output = run()
    assert {"a", "b", "c"} <= {line[0] for line in output.splitlines()}
    assert all(letter.isprintable() or letter == "\n" for letter in output)
