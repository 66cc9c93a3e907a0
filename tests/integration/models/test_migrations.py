"""Migrations, and processes of the previous release that run on after them."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

APP = "broker_django"
BEFORE = "0003_durability"
"""The last migration of the previous release."""


def models_before() -> dict[str, Any]:
    """The models as the previous release has them, which name its columns and no other."""
    state = MigrationLoader(connection).project_state((APP, BEFORE))
    return {model.__name__: model for model in state.apps.get_app_config(APP).get_models()}


def test_the_migrations_are_linear_and_complete() -> None:
    assert len(MigrationLoader(connection).graph.leaf_nodes(APP)) == 1
    call_command("makemigrations", APP, "--check", "--dry-run", verbosity=0)


def test_the_previous_release_can_still_write_rows() -> None:
    before, now = models_before(), timezone.now()
    dispatch = before["DispatchRecord"].objects.create(
        queue="bulk", method="GET", path="/", accepted_at=now, sealed=b""
    )
    router = before["Router"].objects.create(code="a", source="/a", action="queue")
    written = {
        "DispatchRecord": dispatch,
        "Router": router,
        "Destination": before["Destination"].objects.create(router=router, url="bulk"),
        "RoutingVersion": before["RoutingVersion"].objects.create(pk=2),
        "ActionRecord": before["ActionRecord"].objects.create(dispatch=dispatch, at=now, action="retry"),
        "AttemptRecord": before["AttemptRecord"].objects.create(
            dispatch=dispatch, number=1, started_at=now, ended_at=now
        ),
    }
    assert written.keys() == before.keys()


def test_the_migration_of_names_changes_no_table() -> None:
    states = [MigrationLoader(connection).project_state((APP, name)) for name in ("0008_credentials", "0009_names")]
    before, after = ({each.__name__: each for each in state.apps.get_app_config(APP).get_models()} for state in states)
    editor: Any = connection.schema_editor()
    changed = [
        field.name
        for name, model in before.items()
        for field in model._meta.local_fields
        if editor._field_should_be_altered(field, after[name]._meta.get_field(field.name))
    ]
    assert before.keys() == after.keys()
    assert changed == []
