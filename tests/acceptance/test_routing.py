"""Routers that other processes change while the site serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connections

from broker_django.models import Destination, Router
from tests.acceptance.conftest import ALIAS
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.conftest import Ledger, Site

SOON = 3.0
"""Seconds in which even a slow machine has seen and reported a change."""


@pytest.fixture
def router(ledger: Ledger) -> Iterator[Router]:
    row = Router.objects.using(ALIAS).create(code="moving", source="/moving/", action="302")
    row.destinations.create(url="/first/")
    yield row
    Router.objects.using(ALIAS).filter(code="moving").delete()


def by_sql(statement: str) -> Callable[[Router], None]:
    def change(_row: Router) -> None:
        with connections[ALIAS].cursor() as cursor:
            cursor.execute(statement)

    return change


CHANGES: dict[str, Callable[[Router], object]] = {
    "a saved row": lambda row: Destination(router=row, url="/second/").save(using=ALIAS),
    "an update": lambda row: Destination.objects.using(ALIAS).filter(router=row).update(url="/second/"),
    "bulk": lambda row: Destination.objects.using(ALIAS).bulk_create([Destination(router=row, url="/second/")]),
    "SQL": by_sql("UPDATE broker_django_destination SET url = '/second/'"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_by_another_process_is_seen(
    asgi_site: Site, router: Router, change: Callable[[Router], object]
) -> None:
    with asgi_site.client() as client:

        def locations() -> set[str]:
            return {client.get("/moving/").headers.get("Location", "") for _ in range(10)}

        wait_until(lambda: locations() == {"/first/"})
        change(router)
        wait_until(lambda: "/second/" in locations(), SOON)


def test_a_removed_router_is_forgotten(site: Site, router: Router) -> None:
    with site.client() as client:
        wait_until(lambda: client.get("/moving/").status_code == 302)
        Router.objects.using(ALIAS).all().delete()
        wait_until(lambda: client.get("/moving/").status_code == 404, SOON)


def test_a_table_that_could_not_be_loaded_is_loaded_as_soon_as_it_can_be(asgi_site: Site, router: Router) -> None:
    rename = by_sql("ALTER TABLE broker_django_destination RENAME TO moved_away")
    rename_back = by_sql("ALTER TABLE moved_away RENAME TO broker_django_destination")
    with asgi_site.client() as client:
        wait_until(lambda: client.get("/moving/").headers.get("Location") == "/first/")
        rename(router)
        try:
            by_sql("UPDATE moved_away SET url = '/second/'")(router)
            wait_until(lambda: "cannot be read and stays as it is" in asgi_site.process.logs())
            assert client.get("/moving/").headers["Location"] == "/first/"
        finally:
            rename_back(router)
        wait_until(lambda: client.get("/moving/").headers["Location"] == "/second/", SOON)
