"""A number in the database that every change of a router or destination raises, whoever makes it and however.

Triggers do it: they see SQL that no Django signal tells of. They are made after `migrate`, where the database is one
that we know; elsewhere only changes through Django are noticed at once, and others at the next restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import connections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

EVENTS = ("INSERT", "UPDATE", "DELETE")


def install(using: str, tables: list[str], version_table: str) -> None:
    """Make the triggers, or make them anew."""
    connection = connections[using]
    statements = _BY_VENDOR.get(connection.vendor)
    if statements is None:
        return
    with connection.cursor() as cursor:
        for table in tables:
            for statement in statements(connection, table, version_table):
                cursor.execute(statement)


def _sqlite(connection: BaseDatabaseWrapper, table: str, version_table: str) -> Iterator[str]:
    quote = connection.ops.quote_name
    raised = (
        f"INSERT INTO {quote(version_table)} (id, number) VALUES (1, 1) "  # noqa: S608 - names of our own
        "ON CONFLICT (id) DO UPDATE SET number = number + 1;"
    )
    for event in EVENTS:
        name = quote(f"{table}_{event.lower()}_noted")
        yield f"DROP TRIGGER IF EXISTS {name}"
        yield f"CREATE TRIGGER {name} AFTER {event} ON {quote(table)} BEGIN {raised} END"


def _postgresql(connection: BaseDatabaseWrapper, table: str, version_table: str) -> Iterator[str]:
    quote = connection.ops.quote_name
    function, name = quote(f"{version_table}_raise"), quote(f"{table}_noted")
    yield (
        f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "  # noqa: S608
        f"INSERT INTO {quote(version_table)} (id, number) VALUES (1, 1) "
        f"ON CONFLICT (id) DO UPDATE SET number = {quote(version_table)}.number + 1; RETURN NULL; END $$"
    )
    yield f"DROP TRIGGER IF EXISTS {name} ON {quote(table)}"
    yield (
        f"CREATE TRIGGER {name} AFTER {' OR '.join(EVENTS)} OR TRUNCATE ON {quote(table)} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
    )


def _mysql(connection: BaseDatabaseWrapper, table: str, version_table: str) -> Iterator[str]:
    quote = connection.ops.quote_name
    for event in EVENTS:
        name = quote(f"{table}_{event.lower()}_noted")
        yield f"DROP TRIGGER IF EXISTS {name}"
        yield (
            f"CREATE TRIGGER {name} AFTER {event} ON {quote(table)} FOR EACH ROW "  # noqa: S608
            f"INSERT INTO {quote(version_table)} (id, number) VALUES (1, 1) ON DUPLICATE KEY UPDATE number = number + 1"
        )


_BY_VENDOR: dict[str, Any] = {"sqlite": _sqlite, "postgresql": _postgresql, "mysql": _mysql}
