"""Checks of the database for the broker's tables. They make no query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning
from django.db import connections, router

from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.models import database

if TYPE_CHECKING:
    from collections.abc import Iterator


@register("request_broker")
def check_database(**_: Any) -> list[CheckMessage]:
    named = conf.DATABASE
    if named is not None and named not in connections:
        text = f"REQUEST_BROKER['DATABASE'] is {named!r}, which is not an alias in DATABASES."
        return [Error(text, hint=f"The aliases are {', '.join(connections)}.", id="request_broker.E013")]
    if named is None:
        try:
            database.ask_routers()
        except Exception as error:  # noqa: BLE001 - a router of the project may raise anything
            return [
                CheckWarning(
                    f"A database router fails without a request, for example in a worker: {redacted(error)}. So the "
                    "broker's tables are in the default database.",
                    hint="Set REQUEST_BROKER['DATABASE'] to the alias of their database.",
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
            "where the broker expects its tables.",
            hint="Let 'allow_migrate' allow the app 'broker_django' there, or set "
            "REQUEST_BROKER['DATABASE'] to another alias.",
            id="request_broker.E013",
        )


@register("request_broker")
def check_sqlite(**_: Any) -> list[CheckMessage]:
    alias = _alias()
    if (
        alias is None
        or connections[alias].vendor != "sqlite"
        or not connections[alias].settings_dict["ATOMIC_REQUESTS"]
    ):
        return []
    text = (
        f"The database {alias!r} is SQLite with ATOMIC_REQUESTS and has the broker's tables, so every writer "
        "waits for each view, from its first statement to its end."
    )
    hint = "Move the broker's tables to a separate file (DATABASE), or use PostgreSQL: docs/how-to/databases.md."
    return [CheckWarning(text, hint=hint, id="request_broker.W011")]


@register("request_broker")
def check_autocommit(**_: Any) -> list[CheckMessage]:
    alias = _alias()
    if alias is None or connections[alias].settings_dict["AUTOCOMMIT"]:
        return []
    text = (
        f"The database {alias!r} has the broker's tables and 'AUTOCOMMIT': False, so Django never says when a dispatch "
        "is committed, and no request can be queued."
    )
    hint = "Remove AUTOCOMMIT, or move the broker's tables to another database (DATABASE)."
    return [Error(text, hint=hint, id="request_broker.E019")]


def _alias() -> str | None:
    """Returns the alias of the ledger's database; None if `check_database` reports that there is a fault."""
    try:
        alias = database.alias()
    except Exception:  # noqa: BLE001 - a router of the project may raise anything
        return None
    return alias if alias in connections else None
