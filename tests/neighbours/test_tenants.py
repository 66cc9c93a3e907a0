"""django-tenants on PostgreSQL: the broker among the shared apps, with users and orders of each tenant's own."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.neighbours import needs
from tests.neighbours.conftest import PATIENCE, QUEUED, finished, links_of
from tests.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.neighbours.conftest import Project

needs("django_tenants", "simple_history", in_process=False)

pytestmark = pytest.mark.server("postgres", "valkey")

MAKE = """
from django.contrib.auth.models import User
from django_tenants.utils import tenant_context
from tests.neighbours.customers.models import Customer, Domain

public = Customer.objects.create(schema_name="public", name="public")
Domain.objects.create(domain="localhost", tenant=public, is_primary=True)
Domain.objects.create(domain="127.0.0.1", tenant=public, is_primary=False)
for name in ("one", "two"):
    customer = Customer.objects.create(schema_name=name, name=name)
    Domain.objects.create(domain=f"{name}.example", tenant=customer, is_primary=True)
    with tenant_context(customer):
        if User.objects.create_user(f"user-of-{name}", password="secret").pk == 1:
            print("the first user")
"""

DISPATCH = """
from django.contrib.auth.models import User
from django_tenants.utils import schema_context
import broker_django

with schema_context("two"):
    record = broker_django.dispatch(
        "/order/", data={"name": "by code"}, user=User.objects.get(), host="two.example", tenant="two", queue="bulk"
    )
print(record.id)
"""

STATE = """
from broker_django.models import DispatchRecord

record = DispatchRecord.objects.get(reason="code")
print(record.state, record.error, record.tenant)
"""


@pytest.fixture
def project(start: Callable[..., Project]) -> Project:
    made = start("tenants", "migrate_schemas", "--shared", "--verbosity=0")
    assert made.run(MAKE).count("the first user") == 2
    return made


def client_of(url: str, tenant: str) -> httpx.Client:
    client = httpx.Client(
        base_url=url, timeout=PATIENCE, trust_env=False, headers={"Host": f"{tenant}.example"}, cookies={}
    )
    client.post("/log-in/", data={"username": f"user-of-{tenant}"}).raise_for_status()
    return client


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_tenants_do_not_meet(project: Project, interface: str) -> None:
    assert "no issues" in project.manage("check", "--fail-level=WARNING")
    url, worker = project.web(interface), project.worker()
    with closing(client_of(url, "one")) as one, closing(client_of(url, "two")) as two:
        key = {**QUEUED, "Idempotency-Key": "k"}
        of_one = one.post("/order/", data={"name": "first"}, headers=key)
        answer = finished(one, of_one).json()
        assert answer == {"pk": 1, "orders": ["first"], "schema": "one", "tenant": "one", "user": "user-of-one"}
        links = links_of(of_one)
        for link in ("self", "response", "events"):
            assert two.get(links[link]).status_code == 404
            shown = {"Host": "one.example", "Cookie": f"sessionid={two.cookies['sessionid']}"}
            assert httpx.get(f"{url}{links[link]}", headers=shown, trust_env=False).status_code == 404
        assert two.delete(links["self"]).status_code == 404
        of_two = two.post("/order/", data={"name": "first"}, headers=key)
        assert of_two.json()["id"] != of_one.json()["id"]
        assert finished(two, of_two).json() == {**answer, "schema": "two", "tenant": "two", "user": "user-of-two"}
        assert one.post("/order/", data={"name": "first"}, headers=key).json() == answer
        for n, client in enumerate((one, two, one)):
            direct = client.post("/order/", data={"name": f"direct {n}"}).json()
            later = finished(client, client.post("/order/", data={"name": f"later {n}"}, headers=QUEUED)).json()
            assert later == {**direct, "pk": direct["pk"] + 1, "orders": sorted([*direct["orders"], f"later {n}"])}
        held = two.post("/order/", data={"name": "held"}, headers={**QUEUED, "Prefer": "wait=10"})
        assert (held.status_code, held.json()["schema"], held.json()["user"]) == (200, "two", "user-of-two")
        project.run(DISPATCH)
        last = finished(two, two.post("/order/", data={"name": "last"}, headers=QUEUED)).json()
        assert "by code" in last["orders"]
        assert project.run(STATE).split() == ["succeeded", "two"]
    assert "Traceback" not in worker.logs()
    assert "were changed" not in worker.logs(), "a tenant's schema is no change of the settings"


OFFICE = """
from django.contrib.auth.models import User
from django_tenants.utils import schema_context
from tests.neighbours.customers.models import Customer
import broker_django
from broker_core.errors import MessageError

Customer.objects.filter(schema_name="two").update(type="office")
parts = {"data": {"name": "by code"}, "queue": "bulk"}
for tenant, path in (("one", "/order/"), ("two", "/desk/")):
    with schema_context(tenant):
        whose = {"user": User.objects.get(), "host": f"{tenant}.example", "tenant": tenant if NAMED else None}
        print(broker_django.dispatch(path, **whose, **parts).route)
for path in ("/order/", "/nowhere/"):
    try:
        broker_django.dispatch(path, host="two.example", tenant="two" if NAMED else None, **parts)
    except MessageError as error:
        print(error)
"""

STATES = """
from broker_django.models import DispatchRecord
print(*DispatchRecord.objects.order_by("accepted_at").values_list("state", flat=True))
"""


@pytest.mark.parametrize("named", [{}, {"NO_NAMES": "1"}])
def test_code_dispatches_to_the_urls_of_a_tenants_type(start: Callable[..., Project], named: dict[str, str]) -> None:
    project = start("tenants", "migrate_schemas", "--shared", "--verbosity=0", BY_TYPE="1", **named)
    project.run(MAKE)
    said = project.run(OFFICE.replace("NAMED", str(not named))).splitlines()
    assert said == ["/order/", "/desk/", "no view has the URL '/order/'", "no view has the URL '/nowhere/'"]
    project.worker()
    wait_until(lambda: project.run(STATES).split() == ["succeeded", "succeeded"], 30)


def test_tenants_below_the_paths_of_one_host_must_be_distinguished(start: Callable[..., Project]) -> None:
    with pytest.raises(AssertionError, match=r"request_broker\.E017"):
        start("tenants", "check", BY_PATH="1")


def test_the_broker_among_the_apps_of_tenants_is_refused(start: Callable[..., Project]) -> None:
    with pytest.raises(AssertionError, match=r"request_broker\.E016"):
        start("tenants", "check", OURS_IN_TENANTS="1")
