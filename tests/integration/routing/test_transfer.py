"""Routers are exported from one site and imported into another."""

from __future__ import annotations

import io
import json

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command

from broker_django.models import Destination, Router
from broker_django.routing.transfer import export, import_routers

CHANGE_LIST = "/admin/broker_django/router/"


@pytest.fixture
def staged():
    """The JSON of two routers; this site then has other rows, and one of those routers in an older version."""
    Router.objects.create(code="unrelated", source="/x/", action="302")
    Router.objects.create(code="moved", source="/old/", action="302").destinations.create(url="/echo/", weight=3)
    bulk = Router.objects.create(code="bulk", source="/work/*", action="queue", condition="user.is_staff")
    bulk.destinations.create(url="bulk")
    text = export(Router.objects.exclude(code="unrelated"))
    Router.objects.all().delete()
    older = Router.objects.create(code="moved", source="/old/", action="301", rank=7)
    older.destinations.create(url="/gone/")
    Router.objects.create(code="here", source="/here/", action="302")
    return text


def rows():
    return {
        (router.code, router.action, router.rank): {each.url: each.weight for each in router.destinations.all()}
        for router in Router.objects.all()
    }


def counts(taken):
    return len(taken.created), len(taken.changed)


EXPECTED = {("moved", "302", 1): {"/echo/": 3}, ("bulk", "queue", 1): {"bulk": 1}, ("here", "302", 1): {}}


def test_routers_in_the_file_are_imported_and_others_stay(staged):
    before = Router.objects.get(code="moved").pk
    assert counts(import_routers(staged)) == (1, 1)
    assert rows() == EXPECTED
    assert Router.objects.get(code="moved").pk == before


def test_importing_the_same_file_again_changes_nothing(staged):
    import_routers(staged)
    keys = set(Destination.objects.values_list("pk", flat=True))
    assert counts(import_routers(staged)) == (0, 2)
    assert rows() == EXPECTED
    assert set(Destination.objects.values_list("pk", flat=True)) == keys


def test_inactive_destinations_are_kept_apart_from_active_ones(client):
    row = Router.objects.create(code="twice", source="/old/", action="302")
    active = row.destinations.create(url="/echo/", weight=3)
    row.destinations.create(url="/echo/", weight=1, is_active=False)
    text = export([row])
    import_routers(text)
    assert list(row.destinations.order_by("pk").values_list("weight", "is_active")) == [(3, True), (1, False)]
    assert row.destinations.get(is_active=True).pk == active.pk
    assert client.get("/old/").status_code == 302
    Router.objects.all().delete()
    import_routers(text)
    assert set(Destination.objects.values_list("weight", "is_active")) == {(3, True), (1, False)}


def test_ranks_are_swapped():
    for rank, code in enumerate("ab", 1):
        Router.objects.create(code=code, source="/a/", action="302", rank=rank)
    text = export(Router.objects.all()).replace('"rank": 1', '"rank": 0').replace('"rank": 2', '"rank": 1')
    import_routers(text.replace('"rank": 0', '"rank": 2'))
    assert dict(Router.objects.values_list("code", "rank")) == {"a": 2, "b": 1}


def test_primary_keys_of_another_database_are_ignored(staged):
    """As `dumpdata` without --natural-foreign writes it."""
    entries = json.loads(staged)
    keys = {entry["fields"]["code"]: 1_000 + n for n, entry in enumerate(entries) if "code" in entry["fields"]}
    for number, entry in enumerate(entries):
        entry["pk"] = keys.get(entry["fields"].get("code"), number)
        if "router" in entry["fields"]:
            entry["fields"]["router"] = keys[entry["fields"]["router"][0]]
    import_routers(json.dumps(entries))
    assert rows() == EXPECTED


def test_loaddata_can_read_the_export(staged, tmp_path):
    file = tmp_path / "routers.json"
    file.write_text(staged)
    call_command("loaddata", file, verbosity=0)
    assert rows() == {**EXPECTED, ("moved", "302", 1): {"/echo/": 3, "/gone/": 1}}


def test_the_export_equals_dumpdata(staged):
    import_routers(staged)
    out = io.StringIO()
    call_command(
        "dumpdata",
        "broker_django.router",
        "broker_django.destination",
        natural_primary=True,
        natural_foreign=True,
        stdout=out,
    )
    assert json.loads(out.getvalue()) == json.loads(export(Router.objects.order_by("pk")))


def entry(model="broker_django.router", **fields):
    return {"model": model, "fields": {"code": "a", "source": "/a/", "action": "302", **fields}}


def destination(code, url):
    return {"model": "broker_django.destination", "fields": {"router": [code], "url": url}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nonsense", "not JSON of routers"),
        ({"a": 1}, "not JSON of routers"),
        ([1], "not JSON of routers"),
        ([{"model": "auth.user", "fields": {"is_superuser": True}}], "neither a router nor a destination"),
        ([entry(source="no-slash")], "source: A source must begin with a slash."),
        ([entry(condition="request.path ===")], "condition: "),
        ([entry(action="queue", surprise=1)], "surprise"),
        ([entry(rank="first")], "Entry 1"),
        ([entry(code=7)], "the code of entry 1 is not a string"),
        ([entry(id=1)], "unknown field 'id'"),
        ([entry("broker_django.destination")], "unknown field"),
        ([{"model": "broker_django.destination", "fields": {"router": {}, "url": "/a/"}}], "not JSON of routers"),
        ("[" * 100_000, "not JSON of routers"),
        ([destination("moved", "/gone/")], "its router is not in the file"),
        ([destination("nobody", "/a/")], "Entry 1"),
        (
            [entry(), {"model": "broker_django.destination", "fields": {"router": ["a"], "url": "javascript:1"}}],
            "url: ",
        ),
    ],
)
def test_bad_input_is_refused_and_nothing_is_changed(staged, given, message):
    before = rows()
    with pytest.raises(ValidationError) as refused:
        import_routers(given if isinstance(given, str) else json.dumps(given))
    assert message in " ".join(refused.value.messages)
    assert rows() == before


def test_the_admin_exports_and_imports(admin_client, staged):
    page = admin_client.get(CHANGE_LIST).content.decode()
    assert f"{CHANGE_LIST}import/" in page
    file = SimpleUploadedFile("routers.json", staged.encode())
    answer = admin_client.post(f"{CHANGE_LIST}import/", {"file": file}, follow=True)
    assert "Routers created: 1, changed: 1." in answer.content.decode()
    assert rows() == EXPECTED
    assert LogEntry.objects.filter(change_message="Imported.").count() == 2
    chosen = Router.objects.exclude(code="here")
    selected = list(chosen.values_list("pk", flat=True))
    exported = admin_client.post(CHANGE_LIST, {"action": "export", "_selected_action": selected})
    assert json.loads(exported.content) == json.loads(export(chosen))


HALF = "\ud800"
"""Half of a character: JSON can write it, and no page can show it."""


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"[1]",
        *(
            json.dumps([odd]).encode()
            for odd in (
                {"model": HALF, "fields": {}},
                {"model": {HALF: HALF}, "fields": {}},
                {"model": "broker_django.router", "fields": {"code": "a", HALF: 1}},
                {"model": "broker_django.router", "fields": {"code": HALF}},
                {"model": "broker_django.router", "fields": {"code": "a", "source": "/a/", "action": HALF}},
                {"model": "broker_django.destination", "fields": {"router": [HALF], "url": "/a/"}},
                {"model": "broker_django.destination", "fields": {"router": HALF, "url": "/a/"}},
                {HALF: HALF},
                HALF,
            )
        ),
    ],
)
def test_the_admin_shows_what_is_wrong_with_a_file(admin_client, content):
    answer = admin_client.post(f"{CHANGE_LIST}import/", {"file": SimpleUploadedFile("routers.json", content)})
    assert answer.status_code == 200
    assert answer.context["form"].errors["file"]


ALL = ("add_router", "change_router", "add_destination", "change_destination", "delete_destination")


@pytest.mark.parametrize("missing", ALL)
def test_an_import_requires_all_permissions_that_it_uses(client, django_user_model, missing):
    clerk = django_user_model.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=set(ALL) - {missing}))
    client.force_login(clerk)
    assert client.get(f"{CHANGE_LIST}import/").status_code == 403
    clerk.user_permissions.set(Permission.objects.filter(codename__in=ALL))
    assert client.get(f"{CHANGE_LIST}import/").status_code == 200
