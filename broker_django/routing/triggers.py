"""A number in the database that increases with every change of a router or destination.

Database triggers increase it, because they also see SQL that sends no Django signal. They are created after `migrate`,
if the database is supported and allows this user to create them. Managed MySQL and MariaDB servers with a binary log
often do not. Processes then read the rows themselves every few seconds; see `table`.

A trigger also marks the row of the number as kept by triggers, so that each process knows which method to use.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

EVENTS = ("INSERT", "UPDATE", "DELETE")


def install(using: str, tables: list[str], version_table: str) -> bool:
    """Create or replace the triggers. Returns False if this database has no support for them.

    Raises django.db.Error if the database refuses them.
    """
    connection = connections[using]
    statements = _BY_VENDOR.get(connection.vendor)
    if statements is None:
        return False
    if connection.vendor == "mysql" and _has_all(connection, tables, version_table):
        return True  # an administrator may have created them, and this user may not
    together = transaction.atomic(using=using) if connection.features.can_rollback_ddl else nullcontext()
    with together, connection.cursor() as cursor:
        for table in tables:
            for statement in statements(connection, table, version_table):
                cursor.execute(statement)
    return True


def _has_all(connection: BaseDatabaseWrapper, tables: list[str], version_table: str) -> bool:
    """Whether MySQL already has these triggers in their current form."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT trigger_name, action_statement FROM information_schema.triggers WHERE trigger_schema = database()"
        )
        there = dict(cursor.fetchall())
    raised = _raise_in_mysql(connection, version_table)
    return all(there.get(_name(table, event)) == raised for table in tables for event in EVENTS)


def _name(table: str, event: str) -> str:
    return f"{table}_{event.lower()}_noted"


def _sqlite(connection: BaseDatabaseWrapper, table: str, version_table: str) -> Iterator[str]:
    quote = connection.ops.quote_name
    raised = (
        f"INSERT INTO {quote(version_table)} (id, number, kept_by_triggers) VALUES (1, 1, 1) "  # noqa: S608 - only our own names
        "ON CONFLICT (id) DO UPDATE SET number = number + 1, kept_by_triggers = 1;"
    )
    for event in EVENTS:
        name = quote(_name(table, event))
        yield f"DROP TRIGGER IF EXISTS {name}"
        yield f"CREATE TRIGGER {name} AFTER {event} ON {quote(table)} BEGIN {raised} END"


def _postgresql(connection: BaseDatabaseWrapper, table: str, version_table: str) -> Iterator[str]:
    quote = connection.ops.quote_name
    function, name = quote(f"{version_table}_raise"), quote(f"{table}_noted")
    yield (
        f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "  # noqa: S608 - only our own names
        f"INSERT INTO {quote(version_table)} (id, number, kept_by_triggers) VALUES (1, 1, true) "
        f"ON CONFLICT (id) DO UPDATE SET number = {quote(version_table)}.number + 1, kept_by_triggers = true; "
        "RETURN NULL; END $$"
    )
    yield f"DROP TRIGGER IF EXISTS {name} ON {quote(table)}"
    yield (
        f"CREATE TRIGGER {name} AFTER {' OR '.join(EVENTS)} OR TRUNCATE ON {quote(table)} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
    )


def _mysql(connection: BaseDatabaseWrapper, table: str, version_table: str) -> Iterator[str]:
    quote = connection.ops.quote_name
    for event in EVENTS:
        name = quote(_name(table, event))
        yield f"DROP TRIGGER IF EXISTS {name}"
        raised = _raise_in_mysql(connection, version_table)
        yield f"CREATE TRIGGER {name} AFTER {event} ON {quote(table)} FOR EACH ROW {raised}"


def _raise_in_mysql(connection: BaseDatabaseWrapper, version_table: str) -> str:
    return (
        f"INSERT INTO {connection.ops.quote_name(version_table)} "  # noqa: S608 - only our own names
        "(id, number, kept_by_triggers) VALUES (1, 1, 1) "
        "ON DUPLICATE KEY UPDATE number = number + 1, kept_by_triggers = 1"
    )


_BY_VENDOR: dict[str, Any] = {"sqlite": _sqlite, "postgresql": _postgresql, "mysql": _mysql}
