"""The few statements that every dispatch needs, compiled once a database rather than once a row.

Like `bulk_create` and `update` they send no signals.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.db import connections
from django.db.models import CharField, IntegerField, TextField
from django.db.models.sql.subqueries import InsertQuery

from broker_django import database

if TYPE_CHECKING:
    from collections.abc import Mapping

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model
    from django.db.models.constants import OnConflict


def insert(instance: Model, on_conflict: OnConflict | None = None) -> bool:
    """Insert a row with its primary key, or with one that the database makes; whether it was inserted."""
    model, alias = type(instance), database.alias_of(type(instance))
    connection = connections[alias]
    fields = _fields(model, with_key=instance.pk is not None)
    values = [_prepared(field, field.pre_save(instance, add=True), connection) for field in fields]
    with connection.cursor() as cursor:
        cursor.execute(_insertion(model, alias, instance.pk is not None, on_conflict), values)
        inserted = bool(cursor.rowcount == 1)
    instance._state.adding, instance._state.db = False, alias
    return inserted


_AS_IT_IS: dict[type, tuple[type, ...]] = {str: (CharField, TextField), int: (IntegerField,)}


def _prepared(field: Any, value: Any, connection: BaseDatabaseWrapper) -> Any:
    """The value as the database takes it; nothing, text and small numbers are taken as they are."""
    kind = _AS_IT_IS.get(type(value))
    if value is None or (kind and isinstance(field, kind)):
        return value
    return field.get_db_prep_save(value, connection)


@lru_cache(maxsize=16)
def _fields(model: type[Model], with_key: bool) -> tuple[Any, ...]:  # noqa: FBT001
    return tuple(field for field in model._meta.concrete_fields if with_key or not field.primary_key)


@lru_cache(maxsize=16)
def _insertion(model: type[Model], alias: str, with_key: bool, on_conflict: OnConflict | None) -> str:  # noqa: FBT001
    query = InsertQuery(model, on_conflict=on_conflict)
    query.insert_values(_fields(model, with_key), [model()], raw=True)
    [(statement, _parameters)] = query.get_compiler(using=alias).as_sql()
    return str(statement)


def update(model: type[Model], values: Mapping[str, Any], where: Mapping[str, Any], wanted_at: Any = None) -> bool:
    """Set these fields of the row where those are equal; whether there was one.

    With `wanted_at`, a moment, only where `expires_at` is later or empty.
    """
    alias = database.alias_of(model)
    connection = connections[alias]
    statement = _update(model, alias, tuple(values), tuple(where), wanted_at is not None)
    given = [*values.items(), *where.items(), *([("expires_at", wanted_at)] if wanted_at is not None else [])]
    prepared = [_prepared(model._meta.get_field(name), value, connection) for name, value in given]
    with connection.cursor() as cursor:
        cursor.execute(statement, prepared)
        return bool(cursor.rowcount == 1)


@lru_cache(maxsize=16)
def _update(model: type[Model], alias: str, values: tuple[str, ...], where: tuple[str, ...], wanted: bool) -> str:  # noqa: FBT001
    quote = connections[alias].ops.quote_name

    def equal(name: str) -> str:
        return f"{quote(str(model._meta.get_field(name).column))} = %s"  # type: ignore[union-attr]

    conditions = [equal(name) for name in where]
    if wanted:
        conditions.append(f"({quote('expires_at')} IS NULL OR {quote('expires_at')} > %s)")
    assignments = ", ".join(equal(name) for name in values)
    return f"UPDATE {quote(model._meta.db_table)} SET {assignments} WHERE {' AND '.join(conditions)}"  # noqa: S608 - names
