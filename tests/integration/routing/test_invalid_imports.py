"""Any file of routers is imported, or refused with the invalid entry named, but never causes an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction

from broker_django.models import Router
from broker_django.routing import transfer

pytestmark = pytest.mark.django_db

ODD: list[Any] = [
    *(None, "", 0, -1, 10**30, 1.5, float("inf"), float("nan"), True, [], {}, [1], ["a", "b"], {"a": 1}, [None], [[]]),
    *("x" * 10_000, "a\x00b", "\ud800", "0", "-1", "true", "2026-99-99", "é"),
]
FIELDS = [
    *((0, name) for name in sorted(transfer.FIELDS[Router])),
    *((1, name) for name in sorted(transfer.FIELDS[transfer.Destination])),
]


@pytest.fixture
def exported() -> str:
    router = Router.objects.create(code="a", source="/a/", action="302")
    router.destinations.create(url="/b/", weight=1)
    return transfer.export(Router.objects.all())


def import_or_refuse(given: Any) -> None:
    try:
        with transaction.atomic():
            transfer.import_routers(json.dumps(given))
    except ValidationError as error:
        assert all(error.messages)


@pytest.mark.parametrize(("entry", "name"), FIELDS)
def test_a_field_with_an_invalid_value(exported: str, entry: int, name: str) -> None:
    for odd in ODD:
        given = json.loads(exported)
        given[entry]["fields"][name] = odd
        import_or_refuse(given)


@pytest.mark.parametrize("name", ["model", "pk", "fields"])
@pytest.mark.parametrize("entry", [0, 1])
def test_an_invalid_entry(exported: str, entry: int, name: str) -> None:
    for odd in ODD:
        given = json.loads(exported)
        given[entry][name] = odd
        import_or_refuse(given)


def test_an_invalid_document() -> None:
    for odd in ODD:
        for given in (odd, [odd], [[odd]]):
            import_or_refuse(given)
