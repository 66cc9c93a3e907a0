"""Checks of the database that has the broker's tables. They make no query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning
from django.db import connections, router

from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.models import DispatchRecord, database

if TYPE_CHECKING:
    from collections.abc import Iterator


@register("request_broker")
def check_database(**_: Any) -> list[CheckMessage]:
    """No query is made."""
    named = conf.DATABASE
    if named is not None and named not in connections:
        text = f"REQUEST_BROKER['DATABASE'] is {named!r}, which is no alias of DATABASES."
        return [Error(text, hint=f"There are {', '.join(connections)}.", id="request_broker.E013")]
    if named is None:
        try:
            database.ask_routers(DispatchRecord)
        except Exception as error:  # noqa: BLE001 - a router of the project may raise anything
            return [
                CheckWarning(
                    f"A database router fails where there is no request, as in a worker: {redacted(error)}. So the "
                    "broker's tables are in the default database.",
                    hint="Name their database as REQUEST_BROKER['DATABASE'].",
                    id="request_broker.W009",
                )
            ]
    return list(_forbidden_tables(database.alias()))


def _forbidden_tables(alias: str) -> Iterator[CheckMessage]:
    models = apps.get_app_config("broker_django").get_models()
    forbidden = [model._meta.object_name for model in models if not router.allow_migrate_model(alias, model)]
    if forbidden:
        yield Error(
            f"The database routers allow no migration of {', '.join(map(str, forbidden))} in the database {alias!r}, "
            "in which the broker looks for its tables.",
            hint="Let 'allow_migrate' allow the app 'broker_django' there, or name another alias as "
            "REQUEST_BROKER['DATABASE'].",
            id="request_broker.E013",
        )


@register("request_broker")
def check_sqlite(**_: Any) -> list[CheckMessage]:
    try:
        alias = database.alias()
    except Exception:  # noqa: BLE001 - `check_database` says what a router of the project raises
        return []
    if (
        alias not in connections
        or connections[alias].vendor != "sqlite"
        or not connections[alias].settings_dict["ATOMIC_REQUESTS"]
    ):
        return []
    text = (
        f"The database {alias!r} is SQLite with ATOMIC_REQUESTS and has the broker's tables: whoever writes waits for "
        "each view from its first statement to its end."
    )
    hint = "Put the broker's tables into a file of their own (DATABASE), or use PostgreSQL: docs/operations.md, SQLite."
    return [CheckWarning(text, hint=hint, id="request_broker.W011")]
