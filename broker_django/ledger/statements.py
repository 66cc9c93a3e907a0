"""The few statements that every dispatch needs, compiled once per database instead of once per row.

Like `bulk_create` and `update`, they send no signals.
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import connections
from django.db.models import CharField, DateTimeField, Field, IntegerField, TextField
from django.db.models.sql.subqueries import InsertQuery

from broker_django.models import database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model
    from django.db.models.constants import OnConflict


def insert(instance: Model, on_conflict: OnConflict | None = None) -> bool:
    """Insert a row. If it has no primary key, the database generates one. Returns whether it was inserted."""
    model = type(instance)
    names, read = _row(model, with_key=instance.pk is not None)
    inserted = insert_values(model, names, read(instance), on_conflict)
    instance._state.adding, instance._state.db = False, database.alias_of(model)
    return inserted


def insert_values(
    model: type[Model], names: tuple[str, ...], values: Iterable[Any], on_conflict: OnConflict | None = None
) -> bool:
    """Insert a row with these fields and database defaults for the others. Returns whether it was inserted."""
    alias = database.alias_of(model)
    connection = connections[alias]
    prepared = _prepared([_column(model, name) for name in names], values, connection)
    with connection.cursor() as cursor:
        cursor.execute(_insertion(model, alias, names, on_conflict), prepared)
        return bool(cursor.rowcount == 1)


_NATIVE: dict[type, tuple[type, ...]] = {str: (CharField, TextField), int: (IntegerField,)}


class _Column(NamedTuple):
    """A field, and the types of values that the database accepts for it without preparation."""

    field: Any
    native: frozenset[type]


@lru_cache(maxsize=128)
def _column(model: type[Model], name: str) -> _Column:
    field = model._meta.get_field(name)
    return _Column(field, frozenset(kind for kind, fields in _NATIVE.items() if isinstance(field, fields)))


class _Row(NamedTuple):
    """The fields of a row, and a function that reads their values from an instance."""

    names: tuple[str, ...]
    read: Callable[[Any], Iterable[Any]]


@lru_cache(maxsize=16)
def _row(model: type[Model], *, with_key: bool) -> _Row:
    fields: list[Any] = [field for field in model._meta.concrete_fields if with_key or not field.primary_key]
    names = tuple(field.name for field in fields)
    if len(fields) > 1 and all(_is_plain(field) for field in fields):
        return _Row(names, attrgetter(*(field.attname for field in fields)))
    return _Row(names, lambda instance: [field.pre_save(instance, add=True) for field in fields])


def _is_plain(field: Any) -> bool:
    """Whether `pre_save` only returns the value of the instance."""
    sets_itself = getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)
    return type(field).pre_save in {Field.pre_save, DateTimeField.pre_save} and not sets_itself


def _prepared(columns: Iterable[_Column], values: Iterable[Any], connection: BaseDatabaseWrapper) -> list[Any]:
    """Returns the values as the database expects them."""
    return [
        value if value is None or type(value) in native else field.get_db_prep_save(value, connection)
        for (field, native), value in zip(columns, values, strict=True)
    ]


@lru_cache(maxsize=16)
def _insertion(model: type[Model], alias: str, names: tuple[str, ...], on_conflict: OnConflict | None) -> str:
    query = InsertQuery(model, on_conflict=on_conflict)
    query.insert_values([_column(model, name).field for name in names], [model()], raw=True)
    [(statement, _parameters)] = query.get_compiler(using=alias).as_sql()
    return str(statement)


def update(model: type[Model], values: Mapping[str, Any], where: Mapping[str, Any], unexpired_at: Any = None) -> bool:
    """Set these fields in the row that matches `where`. Returns whether there was one.

    With `unexpired_at`, a datetime, `expires_at` must be later or empty.
    """
    alias = database.alias_of(model)
    connection = connections[alias]
    statement = _update(model, alias, tuple(values), tuple(where), unexpired=unexpired_at is not None)
    given = [*values.items(), *where.items(), *([("expires_at", unexpired_at)] if unexpired_at is not None else [])]
    columns = [_column(model, name) for name, _value in given]
    prepared = _prepared(columns, [value for _name, value in given], connection)
    with connection.cursor() as cursor:
        cursor.execute(statement, prepared)
        return bool(cursor.rowcount == 1)


@lru_cache(maxsize=16)
def _update(model: type[Model], alias: str, values: tuple[str, ...], where: tuple[str, ...], *, unexpired: bool) -> str:
    quote = connections[alias].ops.quote_name

    def equal(name: str) -> str:
        return f"{quote(str(model._meta.get_field(name).column))} = %s"  # type: ignore[union-attr]

    conditions = [equal(name) for name in where]
    if unexpired:
        conditions.append(f"({quote('expires_at')} IS NULL OR {quote('expires_at')} > %s)")
    assignments = ", ".join(equal(name) for name in values)
    return f"UPDATE {quote(model._meta.db_table)} SET {assignments} WHERE {' AND '.join(conditions)}"  # noqa: S608 - only names of tables and columns
