"""Export and import routers as JSON in the format of `dumpdata`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.core import serializers
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.utils.translation import gettext as _

from broker_django.models import Destination, Router, database

if TYPE_CHECKING:
    from collections.abc import Iterable

MODELS = {model._meta.label_lower: model for model in (Router, Destination)}


def _fields(model: type[Router | Destination]) -> frozenset[str]:
    return frozenset(column.name for column in model._meta.concrete_fields if not column.primary_key)


FIELDS = {model: _fields(model) for model in MODELS.values()}


@dataclass(slots=True)
class Imported:
    """The routers that an import created and changed."""

    created: list[Router] = field(default_factory=list)
    changed: list[Router] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Entry:
    number: int
    model: type[Router | Destination]
    fields: dict[str, Any]


def export(routers: Iterable[Router]) -> str:
    """Returns the routers and their destinations as JSON. Routers are identified by code, because primary keys differ
    between sites.
    """
    rows = list(routers)
    destinations = Destination.objects.filter(router__in=rows).select_related("router").order_by("pk")
    text: str = serializers.serialize(
        "json", [*rows, *destinations], indent=1, use_natural_foreign_keys=True, use_natural_primary_keys=True
    )
    return text


def import_routers(text: str) -> Imported:
    """Create or replace the routers in this JSON, identified by code.

    A router gets exactly the destinations in the JSON; routers that are not in it stay. Every row is validated as in
    the admin. The import is atomic. Raises ValidationError.
    """
    entries = _entries(text)
    imported = Imported()
    with transaction.atomic(using=database.alias()):
        codes = [entry.fields["code"] for entry in entries if entry.model is Router]
        there = {row.code: row for row in Router.objects.filter(code__in=codes)}
        spare = list(Destination.objects.filter(router__in=there.values()).order_by("pk"))
        # Rows that are still to be replaced must not break the unique constraints on active rows.
        Router.objects.filter(code__in=codes).update(is_active=False)
        Destination.objects.filter(router__code__in=codes).update(is_active=False)
        rows: dict[str, Router] = {}
        for entry in entries:
            if entry.model is Router:
                row = rows[entry.fields["code"]] = _router(entry, there)
                (imported.changed if row.code in there else imported.created).append(row)
            else:
                _destination(entry, rows, spare)
        Destination.objects.filter(pk__in=[row.pk for row in spare]).delete()
    return imported


def _router(entry: _Entry, there: dict[str, Router]) -> Router:
    row = Router(**entry.fields)
    _save(entry, row, there.get(row.code))
    return row


def _destination(entry: _Entry, rows: dict[str, Router], spare: list[Destination]) -> None:
    """Save over a spare destination with the same target, so that visitors keep their destination."""
    code = entry.fields.pop("router")
    if code not in rows:
        raise _entry_error(entry, _("its router is not in the file"))
    row = Destination(router=rows[code], **entry.fields)
    alike = [
        each
        for each in spare
        if (each.router_id, each.url, each.append_params) == (row.router_id, row.url, row.append_params)
    ]
    same = min(alike, key=lambda each: (each.is_active != row.is_active, each.pk), default=None)
    if same is not None:
        spare.remove(same)
    _save(entry, row, same)


def _save(entry: _Entry, row: Router | Destination, same: Router | Destination | None) -> None:
    if same is not None:
        row.pk, row._state.adding = same.pk, False
    try:
        row.full_clean()
    except ValidationError as error:
        reasons = [f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items()]
        raise ValidationError([_entry_error(entry, f"{row}: {text}") for text in reasons]) from error
    row.save()


def _entry_error(entry: _Entry, text: str) -> ValidationError:
    return ValidationError(_("Entry %(number)d, %(text)s") % {"number": entry.number, "text": text})


def _entries(text: str) -> list[_Entry]:
    """Returns the routers and then the destinations, each with the code of its router."""
    try:
        given = json.loads(text)
        codes = {each.get("pk"): each["fields"]["code"] for each in given if _model(each) is Router}
        entries = [_entry(number, each, codes) for number, each in enumerate(given, 1)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValidationError(_("This is not JSON of routers in the format of `dumpdata`: %s") % error) from error
    return sorted(entries, key=lambda entry: entry.model is Destination)


def _entry(number: int, given: dict[str, Any], codes: dict[Any, str]) -> _Entry:
    model, fields = _model(given), dict(given["fields"])
    unknown = sorted(fields.keys() - FIELDS[model])
    if unknown:
        raise ValueError(f"entry {number} has the unknown field {unknown[0]!r}")
    if model is Destination:
        named = fields["router"]
        fields["router"] = named[0] if isinstance(named, list) and named else codes.get(named)
        if not isinstance(fields["router"], str | None):
            raise ValueError(f"the router of entry {number} is not a code")
    elif not isinstance(fields["code"], str):
        raise ValueError(f"the code of entry {number} is not a string")
    for name, value in fields.items():
        if name != "router" and not _fits(model._meta.get_field(name), value):
            raise ValueError(f"entry {number} has a value of the wrong type for {name!r}")
    return _Entry(number, model, fields)


def _fits(field: Any, value: Any) -> bool:
    """Whether the value has a type that the column accepts. Its content is validated later."""
    if isinstance(value, str):
        return "\0" not in value and not _SURROGATE.search(value)
    if isinstance(field, models.CharField | models.TextField):
        return False
    return isinstance(value, bool) if isinstance(field, models.BooleanField) else type(value) is int


_SURROGATE = re.compile("[\ud800-\udfff]")
"""A lone surrogate: JSON can contain it, but databases refuse it."""


def _model(entry: dict[str, Any]) -> type[Router | Destination]:
    model = MODELS.get(str(entry["model"]).lower())
    if model is None:
        raise ValueError(f"{entry['model']!r} is neither a router nor a destination")
    return model
